"""Tone mappings, the same for every pixel of a channel: for RGB, and for any channels and range.

Solarize works on floats. Posterize and equalize are defined on 256 levels, as in Pillow and the
published policies: the float image is rounded to uint8 as torchvision does (`floor(255.999 x)`),
and the result is a multiple of 1/255.

Gain and offset, noise and channel dropout take any number of channels, and keep all bits of images
of 9 to 16 bits or of floats. They are measured in standard deviations of the channel in the view,
so that they fit images that use a small part of their range, such as a thermal image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import probability
from mezzotint.augment.transform import (
    IMAGES,
    SPECTROGRAMS,
    Params,
    Transform,
    amount,
    chance,
    where_rows,
)
from mezzotint.seeding import Draws


class Solarize(Transform):
    """Invert the pixels at or above a threshold (BYOL, Grill et al. 2020, appendix B).

    Equal to `functional.solarize` on float images within 1e-7.

    Args:
        threshold: smallest value that is inverted, in [0, 1]; 0.5 is the published 128 of 256.
        p: probability that an image is changed.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}
    decisions = frozenset({"chosen"})

    def __init__(self, *, threshold: float = 0.5, p: float = 0.2) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(
                f"`threshold` must be 0 to 1, got {threshold}. Divide a threshold in levels by 255."
            )
        self.threshold, self.p = threshold, probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return where_rows(x, params["chosen"], lambda part, rows: self._solarized(part))

    def _solarized(self, x: Tensor) -> Tensor:
        # x + (1 - 2x) where bright: a float mask is ten times faster on a CPU than `torch.where`
        # with a bool mask.
        bright = x.clone().ge_(self.threshold)
        return bright.mul_(torch.mul(x, -2.0).add_(1.0)).add_(x)


class Posterize(Transform):
    """Keep only the high bits of each value (AutoAugment, Cubuk et al. 2019).

    Equal to `functional.posterize` of the image rounded to uint8, divided by 255.

    Args:
        bits: smallest and largest number of bits to keep, 0 to 8; drawn uniformly.
        p: probability that an image is changed.
    """

    eight_bit = True
    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}
    decisions = frozenset({"chosen"})

    def __init__(self, *, bits: tuple[int, int] = (4, 8), p: float = 1.0) -> None:
        if not 0 <= bits[0] <= bits[1] <= 8:
            raise ValueError(
                "`bits` must be numbers of bits to keep with 0 <= low <= high <= 8, "
                f"got {tuple(bits)}. Try [4, 8]."
            )
        self.bits, self.p = (int(bits[0]), int(bits[1])), probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`, and `bits`, int64 `[B]`."""
        bits = draws.integers("bits", low=self.bits[0], high=self.bits[1] + 1)
        return {"chosen": draws.chance("chosen", self.p), "bits": bits}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        def posterized(part: Tensor, rows: Tensor) -> Tensor:
            mask = 256 - torch.bitwise_left_shift(torch.ones_like(rows), 8 - params["bits"][rows])
            return _from_levels(_levels(part) & mask.to(torch.uint8).view(-1, 1, 1, 1), x.dtype)

        return where_rows(x, params["chosen"], posterized)


class Equalize(Transform):
    """Flatten the histogram of each channel (AutoAugment, Cubuk et al. 2019).

    Equal to `functional.equalize`, which like Pillow counts 256 levels, ignores the brightest one
    in the total, and does not change a channel with fewer than 255 other pixels.

    Args:
        p: probability that an image is changed.
    """

    eight_bit = True
    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}
    decisions = frozenset({"chosen"})

    def __init__(self, *, p: float = 1.0) -> None:
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return where_rows(x, params["chosen"], lambda part, rows: _equalized(part))


def _levels(x: Tensor) -> Tensor:
    """Float in [0, 1] → uint8; torchvision's factor just below 256 maps 1 to 255."""
    return x.mul(255.999).to(torch.uint8)


def _from_levels(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).mul_(1.0 / 255.0)


def _equalized(x: Tensor) -> Tensor:
    """Equalize floats in [0, 1] on the grid of levels."""
    return equalize_levels(
        _levels(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    ).mul_(1.0 / 255.0)


def equalize_levels(levels: Tensor, out: Tensor) -> Tensor:
    """Equalize levels of 0 to 255 with one lookup table per channel, from its histogram.

    Shapes: P = K · C channels, L = 256 levels.

    Args:
        levels: whole numbers `[K, C, H, W]`, of any dtype.
        out: tensor for the result, contiguous, floating point, of the same shape; may be `levels`.

    Returns:
        `out`.
    """
    count = levels.shape[0] * levels.shape[1]
    # int32 suffices and takes half the time of int64.
    first = torch.arange(0, 256 * count, 256, device=levels.device, dtype=torch.int32)
    index = levels.to(torch.int32).view(count, -1).add_(first.unsqueeze(1)).view(-1)
    # Whole numbers in float64, exact up to 2⁵³: torch divides integers without vector instructions.
    histogram_PL = _counts(index, 256 * count).view(count, 256).double()
    below_PL = histogram_PL.cumsum(dim=1).sub_(histogram_PL)
    # Pixels below a channel's brightest level are all pixels that do not have that level.
    others_P1 = below_PL.masked_fill(histogram_PL == 0.0, 0.0).amax(dim=1, keepdim=True)
    step_P1 = (others_P1 / 255.0).floor_()
    table_PL = (
        below_PL.add_((step_P1 / 2.0).floor_())
        .div_(step_P1.clamp(min=1.0))
        .floor_()
        .clamp_(max=255.0)
    )
    table_PL = torch.where(
        step_P1 > 0.0, table_PL, torch.arange(256.0, dtype=torch.float64, device=levels.device)
    )
    torch.index_select(table_PL.view(-1).to(out.dtype), 0, index, out=out.view(-1))
    return out


def _counts(index: Tensor, size: int) -> Tensor:
    """Count how often each number of `0 … size − 1` occurs."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=size)
    # `bincount` reads the largest number from a device first. Sums of ones are exact up to 2²⁴.
    ones = torch.ones(1, device=index.device).expand(len(index))
    return torch.zeros(size, device=index.device).index_add_(0, index, ones)


class GainOffset(Transform):
    """Change contrast and brightness of each channel on its own, for any number of channels.

    A channel with mean m and standard deviation s becomes `m + gain · (x − m) + offset · s`, and is
    clipped to [0, 1].

    Args:
        gain: strength; the gain of a channel is drawn from `[max(0, 1 − gain), 1 + gain]`.
        offset: strength; the offset is drawn from `[−offset, offset]`, in standard deviations.
        p: probability that an image is changed.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"gain": amount, "offset": amount}
    decisions = frozenset({"chosen"})

    def __init__(self, *, gain: float = 0.4, offset: float = 0.4, p: float = 0.8) -> None:
        if min(gain, offset) < 0.0:
            raise ValueError(
                f"`gain` and `offset` must be 0 or more, got {gain} and {offset}. Use 0 to turn "
                "one off."
            )
        self.gain, self.offset, self.p = gain, offset, probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`, and `gain` and `offset`, float32 `[B, C]`."""
        least = max(0.0, 1.0 - self.gain)
        return {
            "chosen": draws.chance("chosen", self.p),
            "gain": draws.uniform("gain", shape[1], low=least, high=1.0 + self.gain),
            "offset": draws.uniform("offset", shape[1], low=-self.offset, high=self.offset),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        def change(part: Tensor, rows: Tensor) -> Tensor:
            gain, offset = (
                params[name][rows].to(part.dtype)[..., None, None] for name in ("gain", "offset")
            )
            mean, std = _moments(part)
            return (mean + gain * (part - mean) + offset * std).clamp_(0.0, 1.0)

        return where_rows(x, params["chosen"], change)


class GaussianNoise(Transform):
    """Add normal noise to every pixel of every channel.

    Args:
        std: range of the standard deviation of the noise, in standard deviations of the channel.
        p: probability that an image is changed.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"std": amount}
    decisions = frozenset({"chosen"})

    def __init__(self, *, std: tuple[float, float] = (0.0, 0.2), p: float = 0.5) -> None:
        if not 0.0 <= std[0] <= std[1]:
            raise ValueError(
                f"`std` must be low and high with 0 <= low <= high, got {list(std)}. Try [0, 0.2]."
            )
        self.std, self.p = (float(std[0]), float(std[1])), probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`; `std`, float32 `[B]`; `noise`, standard normal."""
        return {
            "chosen": draws.chance("chosen", self.p),
            "std": draws.uniform("std", low=self.std[0], high=self.std[1]),
            "noise": draws.normal("noise", *shape[1:]),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        def change(part: Tensor, rows: Tensor) -> Tensor:
            std = params["std"][rows].to(part.dtype).view(-1, 1, 1, 1) * _moments(part)[1]
            return (part + std * params["noise"][rows].to(part.dtype)).clamp_(0.0, 1.0)

        return where_rows(x, params["chosen"], change)


class ChannelDropout(Transform):
    """Replace some of the channels by their mean; at least one is kept.

    Args:
        p: probability of each channel. Images of one channel stay as they are.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}

    def __init__(self, *, p: float = 0.1) -> None:
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `dropped`, bool `[B, C]`."""
        fraction = draws.uniform("channels", shape[1])
        kept = fraction == fraction.amax(dim=1, keepdim=True)
        return {"dropped": (fraction < self.p) & ~kept}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(params["dropped"][..., None, None], _moments(x)[0], x)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel of `[K, C, H, W]`, `[K, C, 1, 1]`."""
    mean = x.mean(dim=(-2, -1), keepdim=True)
    return mean, (x - mean).square_().mean(dim=(-2, -1), keepdim=True).sqrt_()
