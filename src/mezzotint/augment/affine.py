"""Shear, translate and rotate: one sampling of the batch, with a matrix of its own for each sample.

Each of the five operations is a 2 × 3 matrix from the pixels of the result to those of the source, in pixels from the
centre of the image. So samples with different ones go through the same call.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.augment.resample import Sampling

AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
"""Their names; a sample's operation is given by its place in this list."""

_ZERO = (0, 0.0)


def matrices(which: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """The matrix of each sample.

    Args:
        which: int64 `[K]`, places in `AFFINE`.
        magnitude: float32 `[K]`: tangent of the shear's angle, pixels, or degrees counter-clockwise.
        height: of the images in pixels.
        width: of the images in pixels.

    Returns:
        float32 `[K, 2, 3]`.
    """
    m = magnitude.double()
    turn = torch.deg2rad(m)
    # The six entries of an operation's matrix are each 0 or a factor times one of these.
    terms = torch.stack([torch.ones_like(m), m, m.trunc(), turn.cos(), turn.sin()], dim=1)
    one, cos = (0, 1.0), (3, 1.0)
    # Shears leave the first line, or column, where it is; they are published about the corner, not the centre.
    entries: list[list[tuple[int, float]]] = [
        [one, (1, 1.0), (1, height / 2), _ZERO, one, _ZERO],
        [one, _ZERO, _ZERO, (1, 1.0), one, (1, width / 2)],
        [one, _ZERO, (2, -1.0), _ZERO, one, _ZERO],
        [one, _ZERO, _ZERO, _ZERO, one, (2, -1.0)],
        [cos, (4, -1.0), _ZERO, (4, 1.0), cos, _ZERO],
    ]
    term, factor = torch.tensor(entries, dtype=torch.float64, device=m.device)[which].unbind(2)
    return terms.gather(1, term.long()).mul_(factor).view(-1, 2, 3).float()


def sample(x: Tensor, matrix: Tensor, interpolation: Sampling, fill: float = 0.0) -> Tensor:
    """Take each pixel of the result from where its matrix says.

    Args:
        x: float `[K, C, H, W]`.
        matrix: `[K, 2, 3]`, as `matrices` returns them.
        interpolation: `nearest` or `bilinear`.
        fill: value of what lies outside the image.
    """
    height, width = x.shape[-2:]
    across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    down = (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2).unsqueeze(1)
    # The sampler counts in halves of the image.
    scaled = matrix / matrix.new_tensor([0.5 * width, 0.5 * height]).view(2, 1)
    a, b, c = scaled.view(-1, 2, 3, 1, 1).unbind(2)
    grid = (b * down).add_(c).add(a * across).permute(0, 2, 3, 1)
    if fill:
        x = x - fill
    y = F.grid_sample(x, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    return y.add_(fill) if fill else y


def move_levels_(x: Tensor, matrix: Tensor, fill: float = 0.0) -> None:
    """`sample` to the nearest pixel, in place, of whole levels of 0 to 255: bit for bit the same, and faster.

    The three levels of a pixel are one number below 2²⁴, which float32 holds exactly, so that a pixel is fetched once
    instead of three times.

    Args:
        x: float32 `[K, C, H, W]`, whole levels.
        matrix: `[K, 2, 3]`, as `matrices` returns them.
        fill: whole level of what lies outside the image.
    """
    if x.shape[1] != 3:
        x.copy_(sample(x, matrix, "nearest", fill))
        return
    red, green, blue = x.unbind(1)
    packed = torch.add(red, green, alpha=256.0).add_(blue, alpha=65536.0).unsqueeze(1)
    moved = sample(packed, matrix, "nearest", fill * (1.0 + 256.0 + 65536.0)).squeeze(1)
    torch.mul(moved, 1.0 / 65536.0, out=blue).floor_()
    moved.sub_(blue, alpha=65536.0)
    torch.mul(moved, 1.0 / 256.0, out=green).floor_()
    torch.sub(moved, green, alpha=256.0, out=red)
