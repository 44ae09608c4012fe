"""The decoder of masked prediction: a small transformer that is discarded after training.

Its input is the encoder's features of the visible patches and one learned vector for each masked
patch, all with their positions; it predicts targets for the masked ones (MAE, He et al. 2022, arXiv
2111.06377, section 3). With `window`, attention stays within windows of the grid that shift by half
their size in every other block (AudioMAE, Huang et al. 2022, arXiv 2207.06405), because neighbors
in a spectrogram are more informative than the same sound at another time.

Differs from AudioMAE: blocks are those of the encoder, with fixed positions instead of a learned
bias; windows follow from the grid instead of being made for 64 × 8; and a shifted window wraps
around at the end of the grid.
"""

import itertools
import math

import torch
from torch import Tensor, nn

from mezzotint.encoders.vit import ViT, blocks, initialize
from mezzotint.modality.patches import take
from mezzotint.recipe.component import Component, require_sizes


class Decoder(Component):
    """Size of a decoder: width 384, depth 4, heads 6 for VideoMAE; depth 16, window 4 for AudioMAE.

    Args:
        width: width of its tokens.
        depth: number of blocks.
        heads: number of attention heads.
        window: patches along each axis that attend to one another; 0 for all.
        shift: patches by which every other block shifts its windows, along each axis; by default
            half a window along all. `[0, 2]` shifts along time alone, as AudioMAE's source does.
    """

    def __init__(
        self,
        *,
        width: int = 512,
        depth: int = 8,
        heads: int = 16,
        window: int = 0,
        shift: list[int] | None = None,
    ) -> None:
        require_sizes("decoder", width=width, depth=depth, heads=heads)
        if window < 0 or window == 1:
            raise ValueError(
                f"`decoder.window` must be 0 (all patches) or at least 2, got {window}. Try 4."
            )
        if shift is not None and not (window and all(0 <= s < window for s in shift)):
            raise ValueError(
                f"`decoder.shift` must be 0 or more and below `window`, got {shift} for windows of "
                f"{window}. Try {[0, max(1, window // 2)]}, or leave it out."
            )
        self.width, self.depth, self.heads, self.window = width, depth, heads, window
        self.shift = None if shift is None else tuple(shift)

    def build(self, encoder: ViT, outputs: int) -> "MaskedDecoder":
        """Build the decoder of an encoder.

        Args:
            encoder: its features are the input.
            outputs: numbers to predict for each patch.

        Raises:
            ValueError: when windows do not fill the encoder's grid.
        """
        return MaskedDecoder(encoder, self, outputs)


class MaskedDecoder(nn.Module):
    """Predicts numbers for masked patches.

    Args:
        encoder: its features are the input.
        size: size of the network.
        outputs: numbers to predict for each patch.
    """

    def __init__(self, encoder: ViT, size: Decoder, outputs: int) -> None:
        super().__init__()
        self.window = size.window
        if size.window:
            # Refuses a grid that windows do not fill now, not in the first step.
            windows(torch.empty(1, encoder.patches.count, 1), encoder.patches.grid, size.window, 0)
        axes = len(encoder.patches.grid)
        self.shift = (size.window // 2,) * axes if size.shift is None else size.shift
        if len(self.shift) != axes:
            raise ValueError(
                f"`decoder.shift` must have a number for each of {axes} axes, got "
                f"{list(self.shift)}."
            )
        self.embed = nn.Linear(encoder.dim, size.width)
        self.hidden = nn.Parameter(torch.randn(1, 1, size.width) * 0.02)
        self.places = encoder.patches.position_embedding(size.width)
        self.blocks = blocks(size.width, size.depth, size.heads)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.head = nn.Linear(size.width, outputs)
        initialize(self)

    def forward(
        self,
        visible: Tensor,
        keep: Tensor,
        masked: Tensor,
        positions: Tensor,
        grid: tuple[int, ...],
    ) -> Tensor:
        """Predict the masked patches.

        Args:
            visible: features `[B, V, D]` of the visible patches.
            keep: int64 `[B, V]`, their indices.
            masked: int64 `[B, M]`, indices of the masked patches.
            positions: of all patches, `[1 or B, L, A]`.
            grid: patches along each axis.

        Returns:
            `[B, M, outputs]`.
        """
        embedded = self.embed(visible)
        empty = self.hidden.to(embedded.dtype).expand(len(keep), positions.shape[1], -1)
        full = empty.scatter(1, keep.unsqueeze(2).expand_as(embedded), embedded)
        full = full + self.places(positions)
        for number, block in enumerate(self.blocks):
            if self.window:
                shift = self.shift if number % 2 else 0
                cut = windows(full, grid, self.window, shift)
                full = unwindows(block(cut), grid, self.window, shift)
            else:
                full = block(full)
        return self.head(self.norm(take(full, masked)))  # type: ignore[no-any-return]


def windows(
    x_BLD: Tensor, grid: tuple[int, ...], side: int, shift: int | tuple[int, ...]
) -> Tensor:
    """Cut a grid into windows: `[B, L, D]` → `[B · number, side ** A, D]`.

    An axis that is shorter than a window is not cut.

    Args:
        x_BLD: patches, row by row.
        grid: patches along each axis.
        side: side of a window.
        shift: patches by which windows are shifted along each axis; they wrap around.
    """
    sides = _sides(grid, side)
    x = x_BLD.view(x_BLD.shape[0], *grid, x_BLD.shape[2])
    if shift:
        moved = _shifts(sides, side, shift)
        x = x.roll([-s for s in moved], list(range(1, 1 + len(grid))))
    counts = [n // s for n, s in zip(grid, sides, strict=True)]
    pairs = itertools.chain.from_iterable(zip(counts, sides, strict=True))
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    axes = len(grid)
    x = x.permute(0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return x.reshape(-1, math.prod(sides), x.shape[-1])


def unwindows(x: Tensor, grid: tuple[int, ...], side: int, shift: int | tuple[int, ...]) -> Tensor:
    """Undo `windows`: `[B · number, side ** A, D]` → `[B, L, D]`."""
    sides = _sides(grid, side)
    counts = [n // s for n, s in zip(grid, sides, strict=True)]
    axes = len(grid)
    x = x.reshape(-1, *counts, *sides, x.shape[-1])
    x = x.permute(
        0, *itertools.chain.from_iterable((1 + a, 1 + axes + a) for a in range(axes)), 2 * axes + 1
    )
    x = x.reshape(x.shape[0], *grid, x.shape[-1])
    if shift:
        x = x.roll(_shifts(sides, side, shift), list(range(1, 1 + axes)))
    return x.reshape(x.shape[0], math.prod(grid), x.shape[-1])


def _shifts(sides: list[int], side: int, shift: int | tuple[int, ...]) -> list[int]:
    """Shift of each axis: none along an axis that is a single window."""
    each = (shift,) * len(sides) if isinstance(shift, int) else shift
    return [own if s == side else 0 for s, own in zip(sides, each, strict=True)]


def _sides(grid: tuple[int, ...], side: int) -> list[int]:
    sides = [min(n, side) for n in grid]
    if any(n % s for n, s in zip(grid, sides, strict=True)):
        raise ValueError(
            f"`decoder.window` must divide every longer axis of the grid of "
            f"{' × '.join(map(str, grid))} patches, got {side}. Change the window or the size of "
            "the samples, or use 0 for no windows."
        )
    return sides
