"""Resampling of images: antialiased crop and resize; shear, translate and rotate.

*Crop and resize* computes what `torchvision.transforms.v2.functional.resized_crop` computes for the
same box, in two ways. On a CPU each sample goes through torch's vectorized kernel, which works in
integers for uint8 images and reads only the pixels of the box. On other devices one kernel per
sample would cost mostly its launch, so the whole batch is resized by two batched matrix products: a
resize is separable and linear, and the weights of a box are one matrix per dimension.

*Affine operations* take one sampling of the batch. Each of the five is a 2 × 3 matrix from pixels
of the result to pixels of the source, counted from the center of the image, so samples with
different operations go through the same call.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mezzotint.types import Interpolation

Sampling = Literal["nearest", "bilinear"]


def crop_and_resize(
    x: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Cut one box out of each image and resize it.

    Args:
        x: images, uint8 or float `[B, C, H, W]`.
        boxes: boxes within the image, int64 `[B, 4]`: top, left, height and width.
        size: height and width of the result.
        interpolation: filter, with antialiasing.

    Returns:
        Images `[B, C, *size]` of the same dtype. On a CPU equal to torchvision's. Elsewhere within
        1e-5 for floats, and for uint8 within two of 255 levels, since the CPU kernel rounds between
        the two dimensions; with `bicubic` it also clips there, which can be visible at hard edges.
    """
    if len(x) == 0:
        return x.new_empty(0, x.shape[1], *size)
    way = one_by_one if x.device.type == "cpu" else by_matrices
    return way(x, boxes, size, interpolation)


def one_by_one(
    x: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Compute `crop_and_resize` by one call of torch's kernel per sample."""
    strides, first, shape = x.stride(), x.storage_offset(), list(size)
    channels = x.shape[1]
    crops = []
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        # One view instead of three nested slices: at 32 pixels slicing costs a fifth of the resize.
        start = first + row * strides[0] + top * strides[2] + left * strides[3]
        box = x.as_strided((1, channels, height, width), strides, start)
        crops.append(
            F.interpolate(box, shape, mode=interpolation, align_corners=False, antialias=True)
        )
    return torch.cat(crops)


def by_matrices(
    x: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: Interpolation
) -> Tensor:
    """Compute `crop_and_resize` by two batched matrix products."""
    top, left, height, width = boxes.to(x.device, non_blocking=True).unbind(1)
    dtype = x.dtype if x.is_floating_point() else torch.float32
    rows_BSH = resize_weights(top, height, x.shape[2], size[0], interpolation).to(dtype)
    columns_BSW = resize_weights(left, width, x.shape[3], size[1], interpolation).to(dtype)
    y = torch.matmul(rows_BSH.unsqueeze(1), x.to(dtype))
    y = torch.matmul(y, columns_BSW.transpose(1, 2).unsqueeze(1))
    return y if x.is_floating_point() else y.round_().clamp_(0, 255).to(x.dtype)


def resize_weights(
    start: Tensor, length: Tensor, source: int, size: int, interpolation: Interpolation
) -> Tensor:
    """Return matrices that cut `length` of `source` pixels from `start` on and resize them.

    The filter is a triangle, or Keys' cubic with a = −1/2, as wide as the step between output
    pixels and at least one input pixel; it is cut off at the box and normalized, as in Pillow and
    torch.

    Args:
        start: first pixel of the box, int64 `[B]`.
        length: number of pixels of the box, int64 `[B]`.
        source: number of pixels of the stored dimension.
        size: number of pixels of the result.
        interpolation: filter.

    Returns:
        Weights, float64 `[B, size, source]`, whose rows sum to one.
    """
    position_W = torch.arange(source, device=start.device)
    index_S = torch.arange(size, device=start.device, dtype=torch.float64)
    step_B11 = (length.to(torch.float64) / size).view(-1, 1, 1)
    start_B11 = start.view(-1, 1, 1)
    center_BS1 = start_B11 + step_B11 * (index_S.unsqueeze(1) + 0.5)
    distance = ((position_W + 0.5 - center_BS1) / step_B11.clamp(min=1.0)).abs()
    weights = _triangle(distance) if interpolation == "bilinear" else _cubic(distance)
    outside = (position_W < start_B11) | (position_W >= start_B11 + length.view(-1, 1, 1))
    weights = weights.masked_fill(outside, 0.0)
    return weights / weights.sum(dim=2, keepdim=True)


def _triangle(distance: Tensor) -> Tensor:
    return (1.0 - distance).clamp_(min=0.0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance**2 + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return torch.where(
        distance < 1.0, near, torch.where(distance < 2.0, far, torch.zeros_like(far))
    )


AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
"""Affine operations; an operation is encoded by its index in this list."""

_ZERO = (0, 0.0)


def matrices(which: Tensor, magnitude: Tensor, height: int, width: int) -> Tensor:
    """Return the matrix of each sample.

    Args:
        which: indices in `AFFINE`, int64 `[K]`.
        magnitude: tangent of the shear's angle, pixels, or degrees counter-clockwise, float32
            `[K]`.
        height: height of the images in pixels.
        width: width of the images in pixels.

    Returns:
        Matrices, float32 `[K, 2, 3]`.
    """
    m = magnitude.double()
    turn = torch.deg2rad(m)
    # The six entries of an operation's matrix are each 0 or a factor times one of these.
    terms = torch.stack([torch.ones_like(m), m, m.trunc(), turn.cos(), turn.sin()], dim=1)
    one, cos = (0, 1.0), (3, 1.0)
    # Shears keep the first row, or column: they are published about the corner, not the center.
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
    """Sample images at the positions that their matrices give.

    Args:
        x: images, float `[K, C, H, W]`.
        matrix: matrices `[K, 2, 3]`, as `matrices` returns them.
        interpolation: `nearest` or `bilinear`.
        fill: value of pixels from outside the image.
    """
    height, width = x.shape[-2:]
    across = torch.arange(width, device=x.device, dtype=x.dtype) - (width - 1) / 2
    down = (torch.arange(height, device=x.device, dtype=x.dtype) - (height - 1) / 2).unsqueeze(1)
    # The sampler counts in halves of the image.
    half = torch.tensor([0.5 * width, 0.5 * height], dtype=matrix.dtype).view(2, 1)
    scaled = matrix / half.to(matrix.device, non_blocking=True)
    a, b, c = scaled.view(-1, 2, 3, 1, 1).unbind(2)
    grid = (b * down).add_(c).add(a * across).permute(0, 2, 3, 1)
    if fill:
        x = x - fill
    y = F.grid_sample(x, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    return y.add_(fill) if fill else y


def move_levels_(x: Tensor, matrix: Tensor, fill: float = 0.0) -> None:
    """Sample levels of 0 to 255 at the nearest pixel, in place: equal to `sample`, and faster.

    The three levels of a pixel are packed into one number below 2²⁴, which is exact in float32, so
    a pixel is fetched once instead of three times.

    Args:
        x: whole levels, float32 `[K, C, H, W]`.
        matrix: matrices `[K, 2, 3]`, as `matrices` returns them.
        fill: whole level of pixels from outside the image.
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
