"""The operations of AutoAugment and its descendants, each on the samples that drew it.

Like the published code they work on the 256 levels of a stored image, which are whole numbers in
float32 here: every operation takes a few vectorized steps, in place, on any device, without a
change of dtype. Each equals the function of `torchvision.transforms.v2.functional` on the uint8
image, within one level; `docs/augmentation-policies.md` lists which are exactly equal.

The samples of a batch are sorted by the operation that they drew, so that an operation is called
once for all of its samples, and the five affine operations together.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mezzotint.augment.image.blur import blurred
from mezzotint.augment.image.color import luma, turn_hue_
from mezzotint.augment.image.resample import AFFINE, Sampling, matrices, move_levels_, sample
from mezzotint.augment.image.tone import equalize_levels
from mezzotint.augment.transform import to_device_of
from mezzotint.timing import part

_CACHED_VALUES = 2**18
"""Values that are changed at a time: 1 MB, about a core's second-level cache."""

_LEVELS = 255.999
"""Factor from [0, 1] to levels; torchvision rounds with the same one."""

Change = Callable[[Tensor, Tensor], None]
"""Changes levels `[K, C, H, W]` in place, by magnitudes `[K, 1, 1, 1]`."""


@dataclass(frozen=True)
class Kind:
    """An operation and the meaning of its magnitude.

    Attributes:
        magnitude: meaning of the magnitude; empty for an operation without one.
        change: function of the operation; `None` for affine operations, cutout and identity.
    """

    magnitude: str = ""
    change: Change | None = None


def _brightness_(x: Tensor, m: Tensor) -> None:
    x.mul_(m + 1.0).clamp_(0.0, 255.0).floor_()


def _color_(x: Tensor, m: Tensor) -> None:
    if x.shape[1] == 3:
        _blend_(x, luma(x).floor_(), m)


def _contrast_(x: Tensor, m: Tensor) -> None:
    gray = luma(x).floor_() if x.shape[1] == 3 else x
    # Rows first: torch splits a reduction to one number among threads, so its rounding would
    # depend on the size of the batch.
    _blend_(
        x, gray.sum(dim=3, keepdim=True).sum(dim=2, keepdim=True).div_(x.shape[2] * x.shape[3]), m
    )


def _blend_(x: Tensor, other: Tensor, m: Tensor) -> None:
    """Compute `(1 + m) x − m · other` in place."""
    x.mul_(m + 1.0).sub_(other * m).clamp_(0.0, 255.0).floor_()


def _sharpness_(x: Tensor, m: Tensor) -> None:
    if min(x.shape[2:]) <= 2:
        return
    inner = x[..., 1:-1, 1:-1]
    lines = x[..., :-2] + x[..., 1:-1]
    lines.add_(x[..., 2:])
    smooth = lines[..., :-2, :] + lines[..., 1:-1, :]
    # The kernel has ones around a five, over 13: with an odd divisor rounding has no ties.
    smooth.add_(lines[..., 2:, :]).add_(inner, alpha=4.0).mul_(1.0 / 13.0).round_()
    inner.sub_(smooth.sub_(inner).mul_(m))
    x.clamp_(0.0, 255.0).floor_()


def _posterize_(x: Tensor, bits: Tensor) -> None:
    step = torch.exp2(8.0 - bits)
    x.div_(step).floor_().mul_(step)


def _solarize_(x: Tensor, m: Tensor) -> None:
    bright = x.clone().ge_(m * 255.0)  # a float mask: torch does not vectorize bool masks
    x.sub_(bright, alpha=255.0).abs_()


def _auto_contrast_(x: Tensor, m: Tensor) -> None:
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    flat = low == high
    low, scale = low.masked_fill(flat, 0.0), ((high - low) * (1.0 / 255.0)).masked_fill_(flat, 1.0)
    x.sub_(low).div_(scale).floor_()  # from exactly 0 to 255, or a rounding error above it


def _equalize_(x: Tensor, m: Tensor) -> None:
    equalize_levels(x, x)


def _invert_(x: Tensor, m: Tensor) -> None:
    x.neg_().add_(255.0)


def _hue_(x: Tensor, m: Tensor) -> None:
    if x.shape[1] == 3:
        x.mul_(1.0 / 255.0)
        turn_hue_(x, m)
        x.mul_(255.999).floor_().clamp_(0.0, 255.0)


def _grayscale_(x: Tensor, m: Tensor) -> None:
    if x.shape[1] == 3:
        x.copy_(luma(x).floor_().expand_as(x))


def _gaussian_blur_(x: Tensor, sigma: Tensor) -> None:
    radius = x.shape[-2] // 10 // 2
    if 0 < radius < x.shape[-1]:
        x.copy_(blurred(x, sigma.flatten(), radius).round_())


_FACTOR = "factor minus 1"
OPERATIONS: dict[str, Kind] = {
    "shear_x": Kind("tangent of the angle"),
    "shear_y": Kind("tangent of the angle"),
    "translate_x": Kind("pixels"),
    "translate_y": Kind("pixels"),
    "rotate": Kind("degrees"),
    "cutout": Kind("side, as a fraction of the width"),
    "brightness": Kind(_FACTOR, _brightness_),
    "color": Kind(_FACTOR, _color_),
    "contrast": Kind(_FACTOR, _contrast_),
    "sharpness": Kind(_FACTOR, _sharpness_),
    "posterize": Kind("bits that are kept", _posterize_),
    "solarize": Kind("threshold, as a fraction of the range", _solarize_),
    "hue": Kind("fraction of the circle", _hue_),
    "gaussian_blur": Kind("sigma in pixels", _gaussian_blur_),
    "grayscale": Kind(change=_grayscale_),
    "auto_contrast": Kind(change=_auto_contrast_),
    "equalize": Kind(change=_equalize_),
    "invert": Kind(change=_invert_),
    "identity": Kind(),
}
"""All operations, the affine ones first; an operation is encoded by its index in this list."""

NAMES = tuple(OPERATIONS)
IDENTITY = NAMES.index("identity")


def apply_operations(
    x: Tensor,
    op: Tensor,
    magnitude: Tensor,
    center: Tensor,
    *,
    interpolation: Sampling,
    fill: float,
) -> Tensor:
    """Apply the operations of each sample, one after the other.

    Args:
        x: images in [0, 1], float32 `[B, C, H, W]`; rounded to levels as in torchvision.
        op: indices in `NAMES`, int64 `[B, S]` for S stages; like the next two, best on the CPU,
            where no device has to be read.
        magnitude: magnitudes in the operation's unit, float32 `[B, S]`.
        center: centers of cutouts in [0, 1), across and down, float32 `[B, S, 2]`.
        interpolation: interpolation of the affine operations.
        fill: level of pixels from outside the image and of cutouts.

    Returns:
        Whole levels of 0 to 255, in float32.
    """
    # Identity last, so that later stages have fewer samples.
    order = (op == IDENTITY).to(torch.int8).argsort(dim=1, stable=True)
    op, magnitude = op.gather(1, order), magnitude.gather(1, order)
    center = center.gather(1, order.unsqueeze(2).expand_as(center))
    numbered = op + torch.arange(op.shape[1], device=op.device) * len(NAMES)
    sizes = (
        torch.bincount(numbered.flatten(), minlength=op.shape[1] * len(NAMES))
        .view(-1, len(NAMES))
        .tolist()
    )
    active = [len(x), *(len(x) - own[IDENTITY] for own in sizes[1:])]
    # Each stage appends the rows that it changes; a finished sample keeps its row.
    made = torch.empty(sum(active), *x.shape[1:], dtype=x.dtype, device=x.device)
    newest = torch.arange(len(x), device=op.device)  # the row of each sample
    first = 0
    for stage, count in enumerate(active):
        rows = op[:, stage].argsort(stable=True)[:count]
        out = made[first : first + count]
        index = to_device_of(x, newest[rows])
        fetch = _Fetch(made[:first] if stage else x, index, out, stage == 0)
        _stage(
            fetch,
            op[rows, stage],
            magnitude[rows, stage],
            center[rows, stage],
            sizes[stage],
            interpolation,
            fill,
        )
        newest[rows] = torch.arange(first, first + count, device=op.device)
        first += count
    return made.index_select(0, to_device_of(x, newest))


@dataclass(frozen=True)
class _Fetch:
    """Copies rows into a new order, a few at a time, so that they are changed in the cache.

    Attributes:
        source: images, float32 `[N, C, H, W]`.
        index: row of the source for each row of the result, int64 `[M]`.
        out: result, `[M, C, H, W]`.
        raw: whether the source is in [0, 1] instead of whole levels.
    """

    source: Tensor
    index: Tensor
    out: Tensor
    raw: bool

    def __call__(self, rows: slice) -> Tensor:
        """Return some rows of the result, as levels that may be changed."""
        fetched = self.out[rows]
        torch.index_select(self.source, 0, self.index[rows], out=fetched)
        return to_levels(fetched, owned=True) if self.raw else fetched


def to_levels(x: Tensor, *, owned: bool = False) -> Tensor:
    """Floats in [0, 1] → whole levels of 0 to 255; in place if the caller owns `x`."""
    return (x.mul_(_LEVELS) if owned else x.mul(_LEVELS)).floor_()


def _stage(
    fetch: _Fetch,
    op: Tensor,
    magnitude: Tensor,
    center: Tensor,
    sizes: list[int],
    interpolation: Sampling,
    fill: float,
) -> None:
    """Fetch and change rows that are sorted by operation; `sizes[i]` rows have the i-th."""
    out = fetch.out
    at_a_time = max(
        1, _CACHED_VALUES // out.shape[1:].numel() if out.device.type == "cpu" else len(out)
    )
    moved = sum(sizes[: len(AFFINE)])
    if moved:
        with part("affine"):
            matrix = to_device_of(out, matrices(op[:moved], magnitude[:moved], *out.shape[2:]))
            for rows in _parts(0, moved, at_a_time):
                y = fetch(rows)
                if interpolation == "nearest":
                    move_levels_(y, matrix[rows], fill)
                else:
                    y.copy_(sample(y, matrix[rows], interpolation, fill).round_())
    first = moved
    magnitude, center = to_device_of(out, magnitude), to_device_of(out, center)
    for number in range(len(AFFINE), len(NAMES)):
        last = min(first + sizes[number], len(out))
        if first == last:
            continue
        change = OPERATIONS[NAMES[number]].change
        with part(NAMES[number]):
            for rows in _parts(first, last, at_a_time):
                y = fetch(rows)
                if change is not None:
                    change(y, magnitude[rows].view(-1, 1, 1, 1))
                elif number != IDENTITY:
                    _cut_out_(y, magnitude[rows], center[rows], fill)
        first = last


def _parts(first: int, last: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, last)) for start in range(first, last, length)]


def _cut_out_(x: Tensor, fraction: Tensor, center: Tensor, fill: float) -> None:
    """Fill a square whose center is anywhere in the image."""
    height, width = x.shape[2:]
    side = (fraction * width).round()
    left, top = (
        (center[:, axis] * length - side / 2).clamp(min=0.0).floor()
        for axis, length in enumerate((width, height))
    )
    across, down = torch.arange(width, device=x.device), torch.arange(height, device=x.device)
    columns = (across >= left.unsqueeze(1)) & (across < (left + side).unsqueeze(1))
    lines = (down >= top.unsqueeze(1)) & (down < (top + side).unsqueeze(1))
    x.masked_fill_((lines.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), fill)
