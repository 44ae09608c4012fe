"""Masks: which patches of a grid an encoder receives, and which a method predicts.

Every sample has its own mask, keyed like all draws. All masks of a grid have the same number of
visible patches, so that they form a batch: `int(L · (1 − ratio))` of L, as in MAE (He et al. 2022,
arXiv 2111.06377).

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
    """Choose the visible patches of each sample."""

    @abstractmethod
    def visible(self, grid: Grid) -> int:
        """Return the number of visible patches of a grid."""

    @abstractmethod
    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """Return patch indices, int64 `[B, L]`: the visible patches first, then the masked ones."""

    def draw(self, grid: Grid, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return indices of visible and of masked patches, int64 `[B, V]` and `[B, L − V]`.

        Raises:
            ValueError: when no patch would be visible, or none masked.
        """
        count, visible = math.prod(grid), self.visible(grid)
        if not 0 < visible < count:
            missing = "masked" if visible >= count else "visible"
            raise ValueError(
                f"{self.config['kind']} must leave patches of both kinds, got a grid of "
                f"{' × '.join(map(str, grid))} patches with none {missing}. "
                "Change the mask's ratio, or take smaller patches or larger samples."
            )
        order = self.order(grid, draws)
        return order[:, :visible], order[:, visible:]


class RandomMask(Mask):
    """Mask patches uniformly at random.

    Args:
        ratio: fraction of the patches that is masked.
    """

    def __init__(self, *, ratio: float = 0.75) -> None:
        self.ratio = mask_ratio(ratio)

    def visible(self, grid: Grid) -> int:
        return num_visible(math.prod(grid), self.ratio)

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        return draws.permutation("mask", math.prod(grid))


class AxesMask(Mask):
    """Mask whole rows and columns, such as times and frequencies of a spectrogram.

    From AudioMAE (Huang et al. 2022, arXiv 2207.06405). A patch is visible if no axis masks it.

    Args:
        ratios: masked fraction of the positions along each axis, in the order of the sample's
            dimensions: `[mels, frames]` for audio. 0 for an axis without a mask.
    """

    def __init__(self, *, ratios: list[float]) -> None:
        if not all(0.0 <= ratio < 1.0 for ratio in ratios):
            raise ValueError(
                f"`ratios` must be 0 or more and below 1, got {ratios}. Use 0 for an axis without "
                "a mask."
            )
        self.ratios = list(ratios)

    def visible(self, grid: Grid) -> int:
        self._require(grid)
        return math.prod(num_visible(n, ratio) for n, ratio in zip(grid, self.ratios, strict=True))

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """Return the patches that no axis masks, then the others, row by row."""
        self._require(grid)
        hidden = torch.zeros(len(draws.ids), *grid, dtype=torch.bool, device=draws.ids.device)
        for axis, (n, ratio) in enumerate(zip(grid, self.ratios, strict=True)):
            rank = draws.permutation(f"mask.{axis}", n)
            shape = [len(rank), *(n if a == axis else 1 for a in range(len(grid)))]
            hidden |= (rank >= num_visible(n, ratio)).view(shape)
        return hidden.flatten(1).int().argsort(dim=1, stable=True)

    def _require(self, grid: Grid) -> None:
        if len(grid) != len(self.ratios):
            raise ValueError(
                f"`ratios` must have one value per axis, got {len(self.ratios)} ratios for a grid "
                f"of {len(grid)} axes. Try {[0.5] * len(grid)}."
            )


class TubeMask(Mask):
    """Mask the same positions at all times, so that neighbors in time give nothing away.

    From VideoMAE (Tong et al. 2022, arXiv 2203.12602).

    Args:
        ratio: fraction of the positions that is masked.
    """

    def __init__(self, *, ratio: float = 0.9) -> None:
        self.ratio = mask_ratio(ratio)

    def visible(self, grid: Grid) -> int:
        """Return `(n − int(ratio · n)) · T` for T times with n positions each, as in VideoMAE."""
        positions = math.prod(grid[1:])
        return (positions - int(self.ratio * positions + 1e-9)) * grid[0]

    def order(self, grid: Grid, draws: Draws) -> Tensor:
        """Return the visible positions at all times, then the masked ones."""
        positions = math.prod(grid[1:])
        if len(grid) < 2:
            raise ValueError(
                f"tube_mask takes a grid of time and positions, got {len(grid)} axis. "
                "Choose random_mask."
            )
        chosen = draws.permutation("mask", positions)
        starts = torch.arange(grid[0], device=chosen.device) * positions
        return (chosen.unsqueeze(2) + starts).flatten(1)


def num_visible(count: int, ratio: float) -> int:
    """Return `int(count · (1 − ratio))`, without the rounding error of 1 − ratio."""
    return int(count * (1.0 - ratio) + 1e-9)


def mask_ratio(ratio: float) -> float:
    """Return a masked fraction after checking it.

    Raises:
        ValueError: when it is out of range.
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"`ratio` must be above 0 and below 1, got {ratio}. Try 0.75.")
    return ratio
