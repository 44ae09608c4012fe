"""Rare labels as often as common ones: an epoch of samples that are drawn by their labels, not each one once.

A label that `n` training samples have weighs `1 / (n + 0.01)`, and a sample what its labels weigh
together, as AST's code draws AudioSet (Gong et al. 2021, arXiv 2104.01778; of the weights only the
proportions matter). Which samples an epoch has is a function of (seed, epoch) alone, so a run
resumes exactly and all processes draw the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.recipe.component import Component
from mezzotint.seeding import weighted_order

_ROWS = 65_536  # of tags at a time, as floats


@dataclass(frozen=True, eq=False)
class Weighting:
    """How often samples are drawn.

    Attributes:
        weights: float64 `[N]`, 0 or more, of each sample.
        samples: of an epoch.
        replacement: whether a sample may be drawn again in the same epoch.
    """

    weights: Tensor
    samples: int
    replacement: bool

    def order(self, seed: int, epoch: int) -> Tensor:
        """The samples of an epoch, int64 `[samples]`."""
        return weighted_order(self.weights, self.samples, seed, epoch, replacement=self.replacement)


class Balance(Component):
    """Draw samples by how rare their labels are.

    Args:
        samples: of an epoch; by default as many as there are.
        replacement: whether a sample may be drawn again in the same epoch; without, `samples` has
            to be given.
    """

    def __init__(self, *, samples: int | None = None, replacement: bool = True) -> None:
        if (samples is None and not replacement) or (samples is not None and samples < 1):
            raise ValueError(
                f"got samples={samples}, replacement={replacement}; allowed is 1 sample an epoch or more, and without "
                "replacement fewer than there are: 200000 is published for AudioSet-2M"
            )
        self.samples, self.replacement = samples, replacement

    def weighting(self, labels: Tensor, chosen: Tensor) -> Weighting:
        """The weights of some samples, by how many of them have the same labels.

        Args:
            labels: int64 `[M]`, or bool `[M, C]` of tags; a sample without a tag is never drawn.
            chosen: int64 `[N]`, places among the labels.

        Raises:
            ValueError: when an epoch without replacement is to have more samples than there are
                with labels.
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
                f"got balance.samples={samples} without replacement, and {usable} samples with labels; allowed are as "
                "many or fewer: set data.balance.samples, or data.balance.replacement=true"
            )
        return Weighting(weights, samples, self.replacement)


def _rarity(count: Tensor) -> Tensor:
    return 1.0 / (count.double() + 0.01)
