"""The decoder of masked prediction: a small transformer that is thrown away when the encoder has been trained.

It gets the encoder's features of the patches that were seen, and one learned vector in the place of
each that was not, all with their positions, and says something of the hidden ones (MAE, He et al.
2022, arXiv 2111.06377, section 3). With `window`, attention stays within windows of the grid that
move by half their size in every other block (AudioMAE, Huang et al. 2022, arXiv 2207.06405):
neighbors in a spectrogram tell more than the same sound at another time.

Differs from AudioMAE's in that blocks are those of the encoder, with fixed positions instead of a
learned bias, and that windows follow from the grid instead of being made for 64 × 8; a moved window
goes on at the other end of the grid.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from mezzotint.encoders.vit import ViT, blocks, initialize
from mezzotint.modality.patches import take
from mezzotint.recipe.component import Component


class Decoder(Component):
    """Size of a decoder. VideoMAE's: width 384, depth 4, heads 6; AudioMAE's: depth 16 and window 4.

    Args:
        width: of its tokens.
        depth: number of blocks.
        heads: of attention.
        window: patches along each axis that attend to one another; 0 for all.
    """

    def __init__(
        self, *, width: int = 512, depth: int = 8, heads: int = 16, window: int = 0
    ) -> None:
        if window < 0 or window == 1:
            raise ValueError(
                f"got decoder.window={window}; allowed is 0, for all patches, or 2 and more: choose 4"
            )
        self.width, self.depth, self.heads, self.window = width, depth, heads, window

    def build(self, encoder: ViT, outputs: int) -> "MaskedDecoder":
        """The network for an encoder.

        Raises:
            ValueError: when windows do not fill the encoder's grid.
        """
        return MaskedDecoder(encoder, self, outputs)


class MaskedDecoder(nn.Module):
    """Predicts something of hidden patches.

    Args:
        encoder: whose features it gets.
        size: of the network.
        outputs: numbers that it says of each patch.
    """

    def __init__(self, encoder: ViT, size: Decoder, outputs: int) -> None:
        super().__init__()
        self.window = size.window
        if size.window:
            windows(torch.empty(1, encoder.patches.count, 1), encoder.patches.grid, size.window, 0)
        self.embed = nn.Linear(encoder.dim, size.width)
        self.hidden = nn.Parameter(torch.randn(1, 1, size.width) * 0.02)
        self.places = encoder.patches.position_embedding(size.width)
        self.blocks = blocks(size.width, size.depth, size.heads)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.head = nn.Linear(size.width, outputs)
        initialize(self)

    def forward(
        self, seen: Tensor, keep: Tensor, hidden: Tensor, where: Tensor, grid: tuple[int, ...]
    ) -> Tensor:
        """What it says of the hidden patches.

        Args:
            seen: features `[B, V, D]` of the patches that were seen.
            keep: int64 `[B, V]`, which they are.
            hidden: int64 `[B, M]`, which the others are.
            where: all patches stand, `[1 or B, L, A]`.
            grid: of the patches.

        Returns:
            `[B, M, outputs]`.
        """
        embedded = self.embed(seen)
        empty = self.hidden.to(embedded.dtype).expand(len(keep), where.shape[1], -1)
        full = empty.scatter(1, keep.unsqueeze(2).expand_as(embedded), embedded) + self.places(
            where
        )
        for number, block in enumerate(self.blocks):
            if self.window:
                moved = self.window // 2 * (number % 2)
                cut = windows(full, grid, self.window, moved)
                full = unwindows(block(cut), grid, self.window, moved)
            else:
                full = block(full)
        return self.head(self.norm(take(full, hidden)))  # type: ignore[no-any-return]


def windows(x_BLD: Tensor, grid: tuple[int, ...], side: int, moved: int) -> Tensor:
    """Cut a grid into windows: `[B, L, D]` → `[B · number, side ** A, D]`.

    An axis that is shorter than a window is not cut.

    Args:
        x_BLD: patches, row by row.
        grid: patches along each axis.
        side: of a window.
        moved: by how much windows start further along each axis, going round.
    """
    sides = _sides(grid, side)
    x = x_BLD.view(x_BLD.shape[0], *grid, x_BLD.shape[2])
    if moved:
        x = x.roll([-moved if s == side else 0 for s in sides], list(range(1, 1 + len(grid))))
    counts = [n // s for n, s in zip(grid, sides, strict=True)]
    pairs = itertools.chain.from_iterable(zip(counts, sides, strict=True))
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    axes = len(grid)
    x = x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return x.reshape(-1, math.prod(sides), x.shape[-1])


def unwindows(x: Tensor, grid: tuple[int, ...], side: int, moved: int) -> Tensor:
    """The inverse of `windows`: `[B · number, side ** A, D]` → `[B, L, D]`."""
    sides = _sides(grid, side)
    counts = [n // s for n, s in zip(grid, sides, strict=True)]
    axes = len(grid)
    x = x.reshape(-1, *counts, *sides, x.shape[-1])
    x = x.permute(
        0, *itertools.chain.from_iterable((1 + a, 1 + axes + a) for a in range(axes)), 2 * axes + 1
    )
    x = x.reshape(x.shape[0], *grid, x.shape[-1])
    if moved:
        x = x.roll([moved if s == side else 0 for s in sides], list(range(1, 1 + axes)))
    return x.reshape(x.shape[0], math.prod(grid), x.shape[-1])


def _sides(grid: tuple[int, ...], side: int) -> list[int]:
    sides = [min(n, side) for n in grid]
    if any(n % s for n, s in zip(grid, sides, strict=True)):
        raise ValueError(
            f"got a grid of {' × '.join(map(str, grid))} patches and decoder.window={side}; allowed is a window that "
            "divides every longer axis: change the window or the size of the samples, or take 0 for no windows"
        )
    return sides
