"""Draw rare labels as often as common ones: samples of an epoch are weighted by their labels.

A label of `n` training samples weighs `1 / (n + 0.01)`, and a sample the sum of its labels, as
AST's code draws AudioSet (Gong et al. 2021, arXiv 2104.01778). The
samples of an epoch are a function of (seed, epoch) alone, so a run resumes exactly and all
processes draw the same.
"""

import functools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mezzotint.recipe.component import Component
from mezzotint.seeding import weighted_order

_ROWS = 65_536  # rows of tags converted to float at a time, to bound memory


class EpochOrder(Hashable, Protocol):
    """An order of samples as a function of (seed, epoch).

    Attributes:
        samples: samples per epoch.
    """

    @property
    def samples(self) -> int: ...

    def order(self, seed: int, epoch: int, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the samples of an epoch, int64 `[samples]`, or a part of them."""


@dataclass(frozen=True, eq=False)
class Weighting:
    """Sampling weights.

    Attributes:
        weights: float64 `[N]`, 0 or more, one for each sample.
        samples: samples per epoch.
        replacement: whether a sample may be drawn again in the same epoch.
    """

    weights: Tensor
    samples: int
    replacement: bool

    def order(self, seed: int, epoch: int, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Draw the samples of an epoch, int64 `[samples]`, and return a part of them."""
        return _drawn(self, seed, epoch)[start:stop]


@functools.lru_cache(maxsize=2)
def _drawn(own: Weighting, seed: int, epoch: int) -> Tensor:
    return weighted_order(own.weights, own.samples, seed, epoch, replacement=own.replacement)


class Balance(Component):
    """Draw samples by how rare their labels are.

    Args:
        samples: samples per epoch; by default the size of the data set.
        replacement: whether a sample may be drawn again in the same epoch; `false` needs `samples`.
    """

    def __init__(self, *, samples: int | None = None, replacement: bool = True) -> None:
        if (samples is None and not replacement) or (samples is not None and samples < 1):
            raise ValueError(
                "`balance.samples` must be 1 or more, and without replacement less than the data "
                f"set, got samples={samples} and replacement={replacement}. 200000 is published "
                "for AudioSet-2M."
            )
        self.samples, self.replacement = samples, replacement

    def weighting(self, labels: Tensor, chosen: Tensor) -> Weighting:
        """Weight samples by how many of them share their labels.

        Args:
            labels: int64 `[M]`, or bool `[M, C]` of tags; a sample without a tag is never drawn.
            chosen: int64 `[N]`, indices of the samples among the labels.

        Raises:
            ValueError: when an epoch without replacement needs more samples than have labels.
        """
        if labels.ndim == 1:
            own = labels[chosen]
            weights = _rarity(torch.bincount(own))[own]
        else:
            parts = torch.split(chosen, _ROWS)
            rarity = _rarity(torch.stack([labels[part].sum(dim=0) for part in parts]).sum(dim=0))
            weights = torch.cat([labels[part].double() @ rarity for part in parts])
        usable = int((weights > 0).sum())
        samples = len(chosen) if self.samples is None else self.samples
        if usable == 0 or (samples > usable and not self.replacement):
            raise ValueError(
                f"`data.balance.samples` must be at most {usable}, the samples with labels, got "
                f"{samples} without replacement. Lower it, or set `data.balance.replacement=true`."
            )
        return Weighting(weights, samples, self.replacement)


def _rarity(count: Tensor) -> Tensor:
    return 1.0 / (count.double() + 0.01)
