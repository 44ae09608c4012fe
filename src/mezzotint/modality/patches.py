"""Cutting samples into patches for a transformer: the contract, and the patches of a regular grid.

A sample is cut into L patches of P values each. Every patch has a position:

| modality | a patch | its position |
|---|---|---|
| image, audio | p × p pixels; mels × frames | row and column of the grid |
| video | a tube of t × p × p | time, row and column |
| series | p steps of all channels | index |
| points | k nearest neighbors of a center (Yu et al. 2022, arXiv 2111.14819) | the center |
| tokens | one token | index |
| image with text | p × p pixels, then the tokens | index |
| table | a feature: value times vector (Gorishniy et al. 2021, arXiv 2106.11959) | index |

Position embeddings are fixed sines and cosines of the grid (Vaswani et al. 2017; with several axes
as in MAE, He et al. 2022, each axis gets an equal part of the width), so that samples of any size
have them. Those of points are learned from the centers.

Shapes: B samples, L patches, P values of a patch, D width, A axes of a position.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Patches(nn.Module, ABC):
    """Cuts samples into patches, and embeds them.

    Attributes:
        grid: patches along each axis, for samples of the size of the encoder's input.
        num_values: P, numbers in a vector of `vectors`.
    """

    grid: tuple[int, ...]
    num_values: int

    @property
    def axes(self) -> int:
        """A, coordinates of a position."""
        return len(self.grid)

    @property
    def count(self) -> int:
        """L, for samples of the size of the encoder's input."""
        return math.prod(self.grid)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        """Return the patches along each axis of these samples, which may have another size."""
        return self.grid

    def valid_mask(self, x: Tensor) -> Tensor | None:
        """Return bool `[B, L]`, false for padding; `None` where samples have no padding."""
        return None

    @abstractmethod
    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cut samples into values for `embed`, `[B, L, …]`, and positions `[1 or B, L, A]`."""

    @abstractmethod
    def embed(self, values: Tensor) -> Tensor:
        """Embed patches one by one, without positions: `[B, L', …]` → `[B, L', D]`."""

    def vectors(self, values: Tensor) -> Tensor:
        """Return what a patch holds as numbers to predict or quantize: float `[B, L', P]`."""
        return values

    def position_embedding(self, width: int) -> nn.Module:
        """Build a module that embeds positions: `[…, L, A]` → `[…, L, width]`."""
        return SinCos(self.axes, width)


class SinCos(nn.Module):
    """Fixed position embeddings: sines and cosines at frequencies from 1 down to 1 / 10000.

    Each axis has its sines first, then its cosines.

    Args:
        axes: coordinates of a position; each gets an equal, even part of the width, and the first
            also what remains.
        width: even number.
    """

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        if width % 2 or width < 2 * axes:
            raise ValueError(
                f"`width` must be even and at least {2 * axes} for positions with {axes} axes, "
                f"got {width}. Try a multiple of 12."
            )
        # Even parts, because each axis has as many sines as cosines.
        part = 2 * (width // (2 * axes))
        self.widths = [width - part * (axes - 1)] + [part] * (axes - 1)

    def forward(self, positions: Tensor) -> Tensor:
        """`[…, L, A]` → `[…, L, width]`."""
        # Computed here instead of stored, so that no buffer enters the saved weights.
        parts = []
        for axis, width in enumerate(self.widths):
            half = torch.arange(width // 2, device=positions.device, dtype=torch.float32)
            angle = positions[..., axis, None] * (-math.log(10000.0) * half / (width // 2)).exp()
            parts += [angle.sin(), angle.cos()]
        return torch.cat(parts, dim=-1)


class LearnedPositions(nn.Module):
    """A learned vector for each position of a grid, standard normal at first.

    Args:
        grid: patches along each axis.
        width: D.
    """

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Embedding(math.prod(grid), width)

    def forward(self, positions: Tensor) -> Tensor:
        """Rows and columns `[…, L, A]` → `[…, L, D]`.

        Raises:
            ValueError: for more patches than positions.
        """
        if positions.shape[-2] > self.table.num_embeddings:
            raise ValueError(
                f"Samples must have at most {self.table.num_embeddings} patches, the number of "
                f"learned positions, got {positions.shape[-2]}. Crop the samples, or use a `vit` "
                "with `positions: fixed`."
            )
        index = positions[..., 0].long()
        for axis, size in enumerate(self.grid[1:], 1):
            index = index * size + positions[..., axis].long()
        return self.table(index)  # type: ignore[no-any-return]


def grid_positions(grid: Sequence[int], device: torch.device) -> Tensor:
    """Return the positions of a grid's patches, row by row: float32 `[1, L, A]`."""
    axes = torch.meshgrid(
        *(torch.arange(n, device=device, dtype=torch.float32) for n in grid), indexing="ij"
    )
    return torch.stack([axis.reshape(-1) for axis in axes], dim=-1).unsqueeze(0)


def take(x: Tensor, indices: Tensor) -> Tensor:
    """Gather along the second axis: `[B, N, …]` and int64 `[B, M]` → `[B, M, …]`."""
    # `gather` needs the full shape; `expand` makes it without a copy.
    index = indices.view(*indices.shape, *(1 for _ in x.shape[2:])).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


@dataclass(frozen=True)
class PatchSize:
    """Size of patches, as an encoder's recipe states it.

    Attributes:
        patch: side along each axis of a grid, or one for all axes; `None` for the default.
        groups: patches of a point cloud.
        group_size: points of each.
    """

    patch: int | Sequence[int] | None = None
    groups: int = 64
    group_size: int = 32

    def __post_init__(self) -> None:
        sides = [self.patch] if isinstance(self.patch, int) else self.patch
        if sides is not None and min(sides, default=0) < 1:
            raise ValueError(f"`patch` must be 1 or more, got {self.patch}. Try 16.")

    def sides(self, default: Sequence[int]) -> tuple[int, ...]:
        """Return the side along each axis.

        Args:
            default: sides where `patch` is `None`.
        """
        given = default if self.patch is None else self.patch
        return (given,) * len(default) if isinstance(given, int) else tuple(given)


class GridPatches(Patches):
    """Patches of a regular grid: images, spectrograms, videos, series.

    One linear layer embeds the values of a patch, like a convolution whose stride is its kernel.

    Args:
        shape: `(C, *sizes)` of a sample.
        side: side of a patch along each axis.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], side: Sequence[int], dim: int) -> None:
        super().__init__()
        self.side = tuple(side)
        self.grid = self._cut(shape[1:])
        self.num_values = shape[0] * math.prod(self.side)
        self.project = nn.Linear(self.num_values, dim)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        return self._cut(x.shape[2:])

    def _cut(self, sizes: Sequence[int]) -> tuple[int, ...]:
        if len(sizes) != len(self.side) or any(
            n < p or n % p for n, p in zip(sizes, self.side, strict=True)
        ):
            raise ValueError(
                f"`patch` must divide the sizes {tuple(sizes)} of a sample, got {self.side}. "
                "Change `encoder.patch`, or crop or pad the samples."
            )
        return tuple(n // p for n, p in zip(sizes, self.side, strict=True))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, *sizes]` → `[B, L, P]`, channel by channel within a patch, and `[1, L, A]`."""
        grid = self.grid_of(x)
        axes = len(grid)
        cut = x.reshape(
            *x.shape[:2], *itertools.chain.from_iterable(zip(grid, self.side, strict=True))
        )
        # After the reshape, even axes count patches and odd axes count values within a patch.
        numbers, sides = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        values = cut.permute(0, *numbers, 1, *sides).reshape(
            x.shape[0], math.prod(grid), self.num_values
        )
        return values, grid_positions(grid, x.device)

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', P]` → `[B, L', D]`."""
        return self.project(values)  # type: ignore[no-any-return]
