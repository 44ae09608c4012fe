"""Weights for samples of another size: stems for other channels, positions for another grid.

A kernel of three channels becomes one of N as timm does it: summed for one channel, and otherwise
repeated and multiplied by the old number of channels over the new one, so that a gray image has the
same response. Positions of images are resampled (bicubic, as in ViT and DINOv2); those of
spectrograms are cut out of the middle or resampled, axis by axis, as in AST (Gong et al. 2021,
arXiv 2104.01778).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mezzotint.modality.modality import modality_of
from mezzotint.types import Input


def for_channels(kernel: Tensor, channels: int) -> Tensor:
    """Bring a kernel `[O, C, …]` to another number of input channels."""
    known = kernel.shape[1]
    if known == channels:
        return kernel
    if channels == 1:
        return kernel.sum(dim=1, keepdim=True)
    repeated = torch.cat([kernel] * math.ceil(channels / known), dim=1)[:, :channels]
    return repeated * (known / channels)


def cuts_positions(input: Input) -> bool:
    """Whether positions are cut where the grid is smaller: along time, not of images."""
    return modality_of(input).axes[-1] == "frames"


def for_grid(rows: Tensor, grid: tuple[int, ...], wanted: tuple[int, ...], *, cut: bool) -> Tensor:
    """Bring positions `[L, D]` of a grid to another one with as many axes.

    Args:
        rows: one position per patch, row by row.
        grid: patches along each axis.
        wanted: patches along each axis of the new grid.
        cut: cut the middle out of an axis that becomes shorter, and interpolate one that becomes
            longer, one after the other; otherwise all axes are resampled at once.
    """
    if grid == wanted:
        return rows
    plane = rows.view(*grid, -1).movedim(-1, 0).unsqueeze(0)
    if not cut:
        return _resampled(plane, wanted, smooth=True)[0].flatten(1).T
    for axis in range(len(wanted) + 1, 1, -1):
        size = wanted[axis - 2]
        if size <= plane.shape[axis]:
            plane = plane.narrow(axis, plane.shape[axis] // 2 - size // 2, size)
        else:
            sizes = [*plane.shape[2:]]
            sizes[axis - 2] = size
            plane = _resampled(plane, sizes)
    return plane[0].flatten(1).T


def timm_positions(encoder: nn.Module, positions: Tensor) -> tuple[Tensor, str] | None:
    """Bring positions `[1, P + L, D]` of a square grid to the grid of a network of timm.

    Args:
        encoder: an encoder of kind `timm`; P of its tokens, such as the class token, are no patch.
        positions: of the same architecture at another size.

    Returns:
        The positions, and what was done; `None` where the network has no such positions.
    """
    model = getattr(encoder, "model", None)
    own = getattr(model, "pos_embed", None)
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(own, Tensor) or own.ndim != 3 or grid is None:
        return None
    if positions.ndim != 3 or positions.shape[::2] != own.shape[::2]:
        return None
    wanted = tuple(int(size) for size in grid)
    prefix = own.shape[1] - math.prod(wanted)
    side = math.isqrt(max(positions.shape[1] - prefix, 0))
    if prefix < 0 or side * side != positions.shape[1] - prefix:
        return None
    rows = for_grid(positions[0, prefix:], (side, side), wanted, cut=False)
    said = f"positions resized from {(side, side)} to {wanted}"
    return torch.cat([positions[:, :prefix], rows[None]], dim=1), said


def _resampled(plane: Tensor, sizes: Sequence[int], smooth: bool = False) -> Tensor:
    """`[1, D, …]` → the same with other sizes."""
    if smooth and len(sizes) == 2:
        return interpolate(plane, size=list(sizes), mode="bicubic", antialias=True)
    mode = ("linear", "bilinear", "trilinear")[len(sizes) - 1]
    return interpolate(plane, size=list(sizes), mode=mode)
