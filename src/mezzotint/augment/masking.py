"""Masks: which patches of a grid a model sees, and which it has to predict.

Every sample has a mask of its own, keyed like all draws. Of one grid, all have the same number of
visible patches, so that they make a batch; `int(L · (1 − ratio))` of L, as MAE counts (He et al.
2022, arXiv 2111.06377).

Shapes: B samples, L patches.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws

Grid = tuple[int, ...]


class Mask(Component, ABC, abstract=True):
    """Chooses the patches that are seen."""

    @abstractmethod
    def visible(self, grid: Grid) -> int:
        """How many patches of a grid are seen."""

    @abstractmethod
    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """The patches of each sample, int64 `[B, L]`: first those that are seen, then those that are hidden."""

    def draw(self, grid: Grid, draws: Draws) -> tuple[Tensor, Tensor]:
        """The patches that are seen and those that are hidden, int64 `[B, V]` and `[B, L − V]`.

        Raises:
            ValueError: when none would be seen, or none hidden.
        """
        count, visible = math.prod(grid), self.visible(grid)
        if not 0 < visible < count:
            left = "none to predict" if visible >= count else "none to see"
            raise ValueError(
                f"got {self.config['kind']} on a grid of {' × '.join(map(str, grid))} patches, which leaves {left}; "
                "allowed is a mask that leaves one of each: change its ratio, take smaller patches or larger samples"
            )
        order = self.order(grid, draws)
        return order[:, :visible], order[:, visible:]


class RandomMask(Mask):
    """Any patches, all equally likely.

    Args:
        ratio: share that is hidden.
    """

    def __init__(self, *, ratio: float = 0.75) -> None:
        self.ratio = share("ratio", ratio)

    def visible(self, grid: Grid) -> int:
        """`int(L · (1 − ratio))`."""
        return kept(math.prod(grid), self.ratio)

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """A permutation of all patches."""
        return draws.permutation("mask", math.prod(grid))


class AxesMask(Mask):
    """Whole rows and columns: of a spectrogram, times and frequencies (Huang et al. 2022, arXiv 2207.06405).

    A patch is seen where no axis hides it.

    Args:
        ratios: share of the places along each axis that is hidden, in the order of the sample's
            dimensions: `[mels, frames]` for audio. 0 for an axis that hides nothing.
    """

    def __init__(self, *, ratios: list[float]) -> None:
        self.ratios = [share("ratios", ratio, none_allowed=True) for ratio in ratios]

    def visible(self, grid: Grid) -> int:
        """The product of what the axes keep."""
        self._require(grid)
        return math.prod(kept(n, ratio) for n, ratio in zip(grid, self.ratios, strict=True))

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """Patches that all axes keep, then the others, row by row."""
        self._require(grid)
        hidden = torch.zeros(len(draws.ids), *grid, dtype=torch.bool, device=draws.ids.device)
        for axis, (n, ratio) in enumerate(zip(grid, self.ratios, strict=True)):
            rank = draws.permutation(f"mask.{axis}", n)
            shape = [len(rank), *(n if a == axis else 1 for a in range(len(grid)))]
            hidden |= (rank >= kept(n, ratio)).view(shape)
        return hidden.flatten(1).int().argsort(dim=1, stable=True)

    def _require(self, grid: Grid) -> None:
        if len(grid) != len(self.ratios):
            raise ValueError(
                f"got {len(self.ratios)} ratios for a grid of {len(grid)} axes; allowed is one an axis: give "
                f"ratios: {[0.5] * len(grid)}"
            )


class TubeMask(Mask):
    """The same places at all times (Tong et al. 2022, arXiv 2203.12602), so that a neighbor in time does not help.

    Args:
        ratio: share of the places that is hidden.
    """

    def __init__(self, *, ratio: float = 0.9) -> None:
        self.ratio = share("ratio", ratio)

    def visible(self, grid: Grid) -> int:
        """`(n − int(ratio · n)) · T` of T times with n places each, as VideoMAE counts."""
        places = math.prod(grid[1:])
        return (places - int(self.ratio * places + 1e-9)) * grid[0]

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """Seen places at all times, then hidden ones."""
        places = math.prod(grid[1:])
        if len(grid) < 2:
            raise ValueError(
                f"got tube_mask on a grid of {len(grid)} axis; allowed are time and places: choose random_mask"
            )
        chosen = draws.permutation("mask", places)
        starts = torch.arange(grid[0], device=chosen.device) * places
        return (chosen.unsqueeze(2) + starts).flatten(1)


def kept(count: int, ratio: float) -> int:
    """`int(count · (1 − ratio))`, free of the rounding of 1 − ratio."""
    return int(count * (1.0 - ratio) + 1e-9)


def share(name: str, value: float, *, none_allowed: bool = False) -> float:
    """Check a share that is hidden."""
    if not (0.0 < value < 1.0 or (none_allowed and value == 0.0)):
        raise ValueError(
            f"got {name}={value}; allowed is above 0 and below 1, a share that is hidden: choose 0.75"
        )
    return value
