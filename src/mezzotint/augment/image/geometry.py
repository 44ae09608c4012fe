"""Geometry of images: random resized crop, horizontal flip; and normalization.

The crop is that of Inception (Szegedy et al. 2015) as torchvision draws it: up to ten tries of an
area and an aspect ratio, then the largest centered box of an allowed ratio. Here the ten tries are
drawn at once as fractions, so that the draw does not depend on the image, and a loader worker that
crops while it decodes takes the very box that the device would have taken.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.image.resample import crop_and_resize
from mezzotint.augment.transform import Params, Transform, where_rows
from mezzotint.seeding import Draws

_TRIES = 10


def probability(p: float, name: str) -> float:
    """Check a probability.

    Raises:
        ValueError: when it is not in [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(
            f"got {name}={p}; allowed is a probability of 0 to 1: give the share of samples to change"
        )
    return p


class RandomResizedCrop(Transform):
    """Cut a random box out of each image and resize it, antialiased.

    Given the same box it equals `torchvision.transforms.v2.functional.resized_crop`: exactly on a
    CPU, for uint8 and for float images (see `mezzotint.augment.image.resample` for other devices).

    Args:
        size: height and width of the result in pixels; `None` for what the encoder takes, or, when
            the transform is used on its own, for the size of the image.
        scale: range of the box's area, as a fraction of the image's.
        ratio: range of the box's width over its height; its logarithm is drawn uniformly.
        interpolation: `bilinear` or `bicubic`.
    """

    modalities = frozenset({"image", "audio"})

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
                f"got size={size}; allowed is 1 pixel or more: leave it out for what the encoder takes"
            )
        if not 0.0 < scale[0] <= scale[1] <= 1.0:
            raise ValueError(
                f"got scale={tuple(scale)}; allowed is 0 < low <= high <= 1: give fractions of the area"
            )
        if not 0.0 < ratio[0] <= ratio[1]:
            raise ValueError(
                f"got ratio={tuple(ratio)}; allowed is 0 < low <= high: give width over height"
            )
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"got interpolation={interpolation!r}; allowed are bilinear and bicubic: choose one"
            )
        self.size = size
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.interpolation: Literal["bilinear", "bicubic"] = interpolation

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Ten candidates a sample, float32 `[B, 10]`: `area` and `ratio` of the box, `top` and `left` in [0, 1)."""
        area, ratio, top, left = draws.uniform("candidates", 4, _TRIES).unbind(1)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        return {
            "area": self.scale[0] + (self.scale[1] - self.scale[0]) * area,
            "ratio": (low + (high - low) * ratio).exp_(),
            "top": top,
            "left": left,
        }

    def boxes(self, params: Params, height: int, width: int) -> Tensor:
        """The boxes that drawn parameters mean for images of one size.

        Args:
            params: as drawn.
            height: of the stored images in pixels.
            width: of the stored images in pixels.

        Returns:
            int64 `[B, 4]`: top, left, height and width.
        """
        area, ratio = params["area"].double() * (height * width), params["ratio"].double()
        w, h = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        # Candidates that do not fit may have no place: clamped here, and never chosen below.
        top = (params["top"].double() * (height - h + 1).clamp(min=1)).long()
        left = (params["left"].double() * (width - w + 1).clamp(min=1)).long()
        first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
        boxes = torch.stack([top, left, h, w], dim=2)
        chosen = boxes.gather(1, first.unsqueeze(2).expand(-1, 1, 4)).squeeze(1)
        return torch.where(
            fits.any(dim=1, keepdim=True), chosen, chosen.new_tensor(self._center(height, width))
        )

    def _center(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The largest centered box of an allowed ratio, for when no candidate fits."""
        h, w = height, width
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (height - h) // 2, (width - w) // 2, h, w

    def cut(self, x: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut boxes out of uint8 or float images `[B, C, H, W]` → `[B, C, *size]` of the same type."""
        return crop_and_resize(x, boxes, size, self.interpolation)

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Crop and resize."""
        height, width = x.shape[-2:]
        size = (height, width) if self.size is None else (self.size, self.size)
        return self.cut(x, self.boxes(params, height, width), size)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of the size asked for."""
        return shape if self.size is None else (*shape[:-2], self.size, self.size)


class HorizontalFlip(Transform):
    """Mirror some of the images left to right; equal to `functional.horizontal_flip`.

    Args:
        p: share of the images that are mirrored.
    """

    modalities = frozenset({"image", "audio", "video"})

    def __init__(self, *, p: float = 0.5) -> None:
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Mirror the chosen rows."""
        return where_rows(x, params["chosen"], lambda part, rows: part.flip(-1))


class Normalize(Transform):
    """Subtract a mean and divide by a standard deviation, a channel; equal to `functional.normalize`.

    View generators do this last, as the encoder's input asks for; a recipe needs it only in a
    pipeline of its own.

    Args:
        mean: one value a channel, of values in [0, 1].
        std: one value a channel.
    """

    def __init__(self, *, mean: list[float], std: list[float]) -> None:
        if len(mean) != len(std) or min(std, default=0.0) <= 0.0:
            raise ValueError(
                f"got mean={list(mean)} and std={list(std)}; allowed is one mean and one positive std a channel: "
                "give lists of the same length"
            )
        self.mean, self.std = list(mean), list(std)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Nothing is drawn."""
        return {}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Normalize all rows."""
        shift, scale = per_channel(self.mean, x), per_channel(self.std, x)
        return torch.sub(x, shift).div_(scale)


def per_channel(values: Sequence[float], x: Tensor) -> Tensor:
    """One value a channel, `[C, 1, 1]`, of the type and on the device of images `x` `[B, C, H, W]`.

    Raises:
        ValueError: when `x` has another number of channels.
    """
    if x.shape[1] != len(values):
        raise ValueError(
            f"got images of {x.shape[1]} channels; allowed are {len(values)}, one a value of mean and std: "
            "give the encoder the input of the data"
        )
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1)
