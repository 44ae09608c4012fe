"""Geometry of images: random resized crop, horizontal flip; and normalization.

The crop is Inception's (Szegedy et al. 2015) as torchvision draws it: up to ten candidates of an
area and an aspect ratio, then the largest centered box within the range of ratios. Here all ten
candidates are drawn at once as fractions, so the draw does not depend on the image, and a loader
worker that crops while it decodes takes the same box as the device would.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.image.resample import crop_and_resize
from mezzotint.augment.transform import (
    IMAGES,
    SPECTROGRAMS,
    VIDEOS,
    Params,
    Transform,
    flips,
    kept,
    to_device_of,
    where_rows,
)
from mezzotint.seeding import Draws

_CANDIDATES = 10


def probability(p: float, name: str) -> float:
    """Return a probability after checking it.

    Raises:
        ValueError: when it is not in [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"`{name}` must be a probability of 0 to 1, got {p}. Try 0.5.")
    return p


class RandomResizedCrop(Transform):
    """Cut a random box out of each image and resize it, antialiased.

    For the same box it equals `torchvision.transforms.v2.functional.resized_crop`: exactly on a
    CPU, for uint8 and for float images (see `mezzotint.augment.image.resample` for other devices).

    Args:
        size: height and width of the result in pixels; `None` for the encoder's input size, or, in
            a transform used alone, for the size of the image.
        scale: range of the box's area, as a fraction of the image's.
        ratio: range of the box's width over its height; its logarithm is drawn uniformly.
        interpolation: `bilinear` or `bicubic`.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"scale": kept}
    decisions = frozenset({"area", "ratio", "top", "left"})  # the CPU computes the boxes

    def __init__(
        self,
        *,
        size: int | None = None,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (0.75, 1.3333333333333333),
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
    ) -> None:
        if size is not None and size < 1:
            raise ValueError(
                f"`size` must be 1 pixel or more, got {size}. "
                "Leave it out for the encoder's input size."
            )
        if not 0.0 < scale[0] <= scale[1] <= 1.0:
            raise ValueError(
                "`scale` must be fractions of the area with 0 < low <= high <= 1, "
                f"got {tuple(scale)}. Try [0.2, 1.0]."
            )
        if not 0.0 < ratio[0] <= ratio[1]:
            raise ValueError(
                "`ratio` must be width over height with 0 < low <= high, "
                f"got {tuple(ratio)}. Try [0.75, 1.333]."
            )
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"`interpolation` must be bilinear or bicubic, got {interpolation!r}. Try bilinear."
            )
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.interpolation: Literal["bilinear", "bicubic"] = interpolation

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw ten candidates per sample, float32 `[B, 10]`: `area`, `ratio`, `top` and `left`.

        `top` and `left` are in [0, 1).
        """
        area, ratio, top, left = draws.uniform("candidates", 4, _CANDIDATES).unbind(1)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return {
            "area": self.scale[0] + (self.scale[1] - self.scale[0]) * area,
            "ratio": (low + (high - low) * ratio).exp_(),
            "top": top,
            "left": left,
        }

    def boxes(self, params: Params, height: int, width: int) -> Tensor:
        """Return the boxes of drawn parameters for images of one size.

        Args:
            params: parameters as drawn.
            height: height of the stored images in pixels.
            width: width of the stored images in pixels.

        Returns:
            int64 `[B, 4]`: top, left, height and width.
        """
        area, ratio = params["area"].double() * (height * width), params["ratio"].double()
        w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        # A candidate that does not fit has no valid position: clamped here, never chosen below.
        top = (params["top"].double() * (height - h + 1).clamp(min=1)).long()
        left = (params["left"].double() * (width - w + 1).clamp(min=1)).long()
        first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
        boxes = torch.stack([top, left, h, w], dim=2)
        chosen = boxes.gather(1, first.unsqueeze(2).expand(-1, 1, 4)).squeeze(1)
        return torch.where(
            fits.any(dim=1, keepdim=True), chosen, chosen.new_tensor(self._center(height, width))
        )

    def _center(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the largest centered box within the range of ratios, used if no candidate fits."""
        h, w = height, width
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def cut(self, x: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut boxes out of images `[B, C, H, W]` → `[B, C, *size]`; uint8 stays uint8."""
        return crop_and_resize(x, boxes, size, self.interpolation)

    def apply(self, x: Tensor, params: Params) -> Tensor:
        height, width = x.shape[-2:]
        size = (height, width) if self.size is None else (self.size, self.size)
        return self.cut(x, self.boxes(params, height, width), size)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.size is None else (*shape[:-2], self.size, self.size)


class HorizontalFlip(Transform):
    """Mirror some of the images left to right; equal to `functional.horizontal_flip`.

    Args:
        p: probability that an image is mirrored.
    """

    layouts = (IMAGES, SPECTROGRAMS, VIDEOS)
    scaled = {"p": flips}
    decisions = frozenset({"chosen"})

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return where_rows(x, params["chosen"], lambda part, rows: part.flip(-1))


class Normalize(Transform):
    """Normalize each channel by a mean and a standard deviation; equal to `functional.normalize`.

    View generators normalize last, by the statistics of the encoder's input; a recipe needs this
    transform only in a pipeline of its own.

    Args:
        mean: mean of each channel, any number, of values in [0, 1].
        std: standard deviation of each channel.
    """

    layouts = (IMAGES, SPECTROGRAMS)

    def __init__(self, *, mean: list[float], std: list[float]) -> None:
        if not std or len(mean) != len(std):
            raise ValueError(
                "`mean` and `std` must have one value per channel, "
                f"got {list(mean)} and {list(std)}. Give lists of the same length."
            )
        if not min(std) > 0.0:
            raise ValueError(f"`std` must be positive, got {list(std)}. Use 1 to keep the scale.")
        self.mean, self.std = list(mean), list(std)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Return no parameters; nothing is random."""
        return {}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        shift, scale = per_channel(self.mean, x), per_channel(self.std, x)
        return torch.sub(x, shift).div_(scale)


def per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    """Return one value per channel, `[C, 1, 1]`, with dtype and device of images `[B, C, H, W]`.

    Raises:
        ValueError: when `x` has another number of channels.
    """
    if x.shape[1] != len(values):
        raise ValueError(
            f"Images must be [B, C, H, W] with the {len(values)} channels of `mean` and `std`, "
            f"got {list(x.shape)}. Give the encoder the input of the data."
        )
    return to_device_of(x, torch.tensor(values, dtype=x.dtype)).view(-1, 1, 1)
