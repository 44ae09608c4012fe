"""Solarise, posterise and equalize: remapping of tones, the same for every pixel of a channel.

Solarise works on floats. The other two are defined on a grid of 256 levels, which is where Pillow
and the published policies have them: the float image is rounded to uint8 as torchvision does
(`floor(255.999 x)`), and the result is a multiple of 1/255.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.image.geometry import probability
from mezzotint.augment.transform import Params, Transform, where_rows
from mezzotint.seeding import Draws


class Solarize(Transform):
    """Invert the pixels at or above a threshold (BYOL, Grill et al. 2020, appendix B).

    Equal to `functional.solarize` on float images within 1e-7.

    Args:
        threshold: in [0, 1]; 0.5 is the 128 of 256 that is published.
        p: share of the images that are changed.
    """

    modalities = frozenset({"image", "audio"})

    def __init__(self, *, threshold: float = 0.5, p: float = 0.2) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(
                f"got threshold={threshold}; allowed is 0 to 1: divide a threshold of levels by 255"
            )
        self.threshold, self.p = threshold, probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Solarise the chosen rows."""
        return where_rows(x, params["chosen"], lambda part, rows: self._solarized(part))

    def _solarized(self, x: Tensor) -> Tensor:
        # x + (1 - 2x) where bright: on a CPU a float mask is ten times faster than a bool one in
        # `torch.where`.
        bright = x.clone().ge_(self.threshold)
        return bright.mul_(torch.mul(x, -2.0).add_(1.0)).add_(x)


class Posterize(Transform):
    """Keep only the high bits of each value (AutoAugment, Cubuk et al. 2019).

    Equal to `functional.posterize` of the image rounded to uint8, divided by 255.

    Args:
        bits: fewest and most bits to keep, 0 to 8; drawn uniformly.
        p: share of the images that are changed.
    """

    modalities = frozenset({"image", "audio"})

    def __init__(self, *, bits: tuple[int, int] = (4, 8), p: float = 1.0) -> None:
        if not 0 <= bits[0] <= bits[1] <= 8:
            raise ValueError(
                f"got bits={tuple(bits)}; allowed is 0 <= fewest <= most <= 8: give how many to keep"
            )
        self.bits, self.p = (int(bits[0]), int(bits[1])), probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`chosen`, bool `[B]`, and `bits`, int64 `[B]`."""
        bits = draws.integers("bits", low=self.bits[0], high=self.bits[1] + 1)
        return {"chosen": draws.chance("chosen", self.p), "bits": bits}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Posterise the chosen rows."""

        def posterized(part: Tensor, rows: Tensor) -> Tensor:
            mask = 256 - torch.bitwise_left_shift(torch.ones_like(rows), 8 - params["bits"][rows])
            return _from_levels(_levels(part) & mask.to(torch.uint8).view(-1, 1, 1, 1), x.dtype)

        return where_rows(x, params["chosen"], posterized)


class Equalize(Transform):
    """Flatten the histogram of each channel (AutoAugment, Cubuk et al. 2019).

    Equal to `functional.equalize`, which like Pillow counts 256 levels, leaves the brightest one
    out of the total, and leaves a channel alone that has fewer than 255 other pixels.

    Args:
        p: share of the images that are changed.
    """

    modalities = frozenset({"image", "audio"})

    def __init__(self, *, p: float = 1.0) -> None:
        self.p = probability(p, "p")

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Equalize the chosen rows."""
        return where_rows(x, params["chosen"], lambda part, rows: _equalized(part))


def _levels(x: Tensor) -> Tensor:
    """Float in [0, 1] → uint8; the factor is torchvision's, a hair under 256 so that 1 stays 255."""
    return x.mul(255.999).to(torch.uint8)


def _from_levels(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype).mul_(1.0 / 255.0)


def _equalized(x: Tensor) -> Tensor:
    """Floats in [0, 1] through the grid of levels and back."""
    return equalize_levels(
        _levels(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    ).mul_(1.0 / 255.0)


def equalize_levels(levels: Tensor, out: Tensor) -> Tensor:
    """Equalize whole levels of 0 to 255, by the lookup table that each of `P = K · C` channels gets of its histogram.

    Args:
        levels: `[K, C, H, W]`, of any type.
        out: where the result goes, contiguous, of the same shape and of floats; may be `levels`.

    Returns:
        `out`.
    """
    count = levels.shape[0] * levels.shape[1]
    # Int32 is enough, and takes half the time of int64.
    first = torch.arange(0, 256 * count, 256, device=levels.device, dtype=torch.int32)
    places = levels.to(torch.int32).view(count, -1).add_(first.unsqueeze(1)).view(-1)
    # Whole numbers in float64, which is exact up to 2⁵³: integers are divided one by one.
    histogram_PL = torch.bincount(places, minlength=256 * count).view(count, 256).double()
    below_PL = histogram_PL.cumsum(dim=1).sub_(histogram_PL)
    # No pixel lies above the brightest level, so as many lie below it as are not of it.
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
    torch.index_select(table_PL.view(-1).to(out.dtype), 0, places, out=out.view(-1))
    return out
