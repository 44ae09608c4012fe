"""Color jitter (brightness, contrast, saturation, hue, in a random order per sample) and grayscale.

Every operation equals the one of `torchvision.transforms.v2.functional` on float images. Two things
make it fast on a batch. Samples with the same next operation are grouped and changed in place, a
few at a time, so that temporaries stay in the cache. And hue needs no round trip through HSV:
turning the hue keeps the largest and the smallest of the three channels, so the result is
`smallest + chroma · w(hue)` with a piecewise linear `w`.
"""

import functools
from collections.abc import Callable, Sequence

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
    to_device_of,
    where_rows,
)
from mezzotint.seeding import Draws

_CACHED_VALUES = 2**18
"""Values that are jittered at a time: 1 MB, about a core's second-level cache."""

_LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in torchvision's grayscale (ITU-R 601-2, as Pillow)."""


class ColorJitter(Transform):
    """Jitter the colors of some of the images.

    Equal to `adjust_brightness`, `adjust_contrast`, `adjust_saturation` and `adjust_hue` one after
    the other in the drawn order, within 1e-5. Images of one channel have no saturation and no hue,
    as in torchvision.

    Args:
        brightness: strength; factors are drawn from `[max(0, 1 − brightness), 1 + brightness]`; 0
            for none.
        contrast: strength, as for brightness.
        saturation: strength, as for brightness.
        hue: strength; the hue turns by a fraction of the circle drawn from `[−hue, hue]`; at most
            0.5.
        p: probability that an image is jittered.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"strengths": amount}
    decisions = frozenset({"chosen", "order"})

    def __init__(
        self,
        *,
        brightness: float = 0.8,
        contrast: float = 0.8,
        saturation: float = 0.8,
        hue: float = 0.2,
        p: float = 0.8,
    ) -> None:
        if min(brightness, contrast, saturation) < 0.0:
            raise ValueError(
                "`brightness`, `contrast` and `saturation` must be 0 or more, got "
                f"{brightness}, {contrast} and {saturation}. Use 0 to turn one off."
            )
        if not 0.0 <= hue <= 0.5:
            raise ValueError(
                "`hue` must be 0 to 0.5 (half the circle in each direction), "
                f"got {hue}. Use 0 to turn it off."
            )
        self.strengths = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        }
        self.p = probability(p, "p")

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        check_channels(shape)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the parameters of each sample.

        Returns:
            `chosen`, bool `[B]`; `brightness`, `contrast`, `saturation` (factors) and `hue` (a
            fraction of the circle), float32 `[B]`; `order`, int64 `[B, 4]`, indices of these four.
        """
        params = {"chosen": draws.chance("chosen", self.p), "order": draws.permutation("order", 4)}
        fractions = draws.uniform("factors", 4).unbind(1)
        for (name, strength), fraction in zip(self.strengths.items(), fractions, strict=True):
            low, high = (
                (-strength, strength)
                if name == "hue"
                else (max(0.0, 1.0 - strength), 1.0 + strength)
            )
            params[name] = low + (high - low) * fraction
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        check_channels(x.shape)
        gray = x.shape[1] == 1
        names = [
            name
            for name, s in self.strengths.items()
            if s > 0.0 and not (gray and name in _ONLY_COLOR)
        ]
        if not names or not bool(params["chosen"].any()):
            return x
        factors = {name: params[name].to(x.dtype).view(-1, 1, 1, 1) for name in names}
        at_a_time = len(x) if x.device.type != "cpu" else _CACHED_VALUES // x[0].numel()
        if at_a_time < 2:
            return _one_by_one(x, params, factors)
        return _together(x, params, factors, at_a_time)


class Grayscale(Transform):
    """Turn some of the images gray, with as many equal channels as before.

    Equal to `functional.rgb_to_grayscale` within 1e-6; images of one channel stay unchanged.

    Args:
        p: probability that an image turns gray.
    """

    layouts = (IMAGES, SPECTROGRAMS)
    scaled = {"p": chance}
    decisions = frozenset({"chosen"})

    def __init__(self, *, p: float = 0.2) -> None:
        self.p = probability(p, "p")

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        check_channels(shape)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chosen`, bool `[B]`."""
        return {"chosen": draws.chance("chosen", self.p)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        check_channels(x.shape)
        if x.shape[1] == 1:
            return x
        return where_rows(x, params["chosen"], lambda part, rows: luma(part).expand_as(part))


def check_channels(shape: Sequence[int]) -> None:
    """Refuse a batch of images that are neither gray nor RGB.

    Raises:
        ValueError: for a number of channels other than 1 and 3.
    """
    if shape[1] not in (1, 3):
        raise ValueError(
            f"Colors are those of images of 1 (gray) or 3 (RGB) channels, got {shape[1]} channels. "
            "Use `policy: {kind: native}`, which changes gain, offset, noise and blur of any "
            "channels, and `randomized_quantization`."
        )


def _one_by_one(x: Tensor, params: Params, factors: Params) -> Tensor:
    """Jitter large images one by one; each fills the cache."""
    y = x.clone()
    for row in params["chosen"].nonzero().squeeze(1).tolist():
        for op in params["order"][row].tolist():
            name, change_ = _JITTER[op]
            if name in factors:
                change_(y[row : row + 1], factors[name][row : row + 1])
    return y


def _together(x: Tensor, params: Params, factors: Params, at_a_time: int) -> Tensor:
    """Jitter small images, grouped at each of the four stages by the operation that they drew."""
    untouched = len(_JITTER)
    y, before = x, torch.arange(len(x), device=params["order"].device)
    for stage in range(len(_JITTER)):
        op = params["order"][:, stage].masked_fill(params["chosen"].logical_not(), untouched)
        rows = op.argsort(stable=True)
        y, before = y.index_select(0, to_device_of(x, before[rows])), rows.argsort()
        sizes = torch.bincount(op, minlength=untouched + 1).tolist()
        for (name, change_), part, group in zip(
            _JITTER, torch.split(y, sizes), torch.split(to_device_of(x, rows), sizes), strict=False
        ):
            if name in factors and len(group):
                factor = factors[name].index_select(0, group)
                for some, own in zip(
                    torch.split(part, at_a_time), torch.split(factor, at_a_time), strict=True
                ):
                    change_(some, own)
    return y.index_select(0, to_device_of(x, before))


def luma(x: Tensor) -> Tensor:
    """Return torchvision's gray values, `[B, 3, H, W]` → `[B, 1, H, W]`, on any scale of values."""
    red, green, blue = x.unsqueeze(2).unbind(1)
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _brightness_(x: Tensor, factor: Tensor) -> None:
    x.mul_(factor).clamp_(0.0, 1.0)


def _contrast_(x: Tensor, factor: Tensor) -> None:
    # Rows first: torch splits a reduction to one number among threads, so its rounding would
    # depend on the size of the batch.
    total = x.sum(dim=3, keepdim=True).sum(dim=2, keepdim=True)
    mean = (luma(total) if x.shape[1] == 3 else total).div_(x.shape[2] * x.shape[3])
    x.mul_(factor).add_(mean.mul_(1.0 - factor)).clamp_(0.0, 1.0)


def _saturation_(x: Tensor, factor: Tensor) -> None:
    gray = luma(x).mul_(1.0 - factor)
    x.mul_(factor).add_(gray).clamp_(0.0, 1.0)


@functools.cache
def _centers(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the centers of the weights of red (across the circle), green and blue; made once."""
    return torch.tensor([0.0, -1.0, 1.0], dtype=dtype, device=device).view(3, 1, 1)


def turn_hue_(x: Tensor, turn: Tensor) -> None:
    """Turn the hue of `x` `[B, 3, H, W]` by a fraction of the circle, in place.

    The hue runs over [−3, 3) with red at −3, green at −1 and blue at 1. Of three channels with
    largest M, smallest m and chroma d = M − m, green is m + d · w(hue + 1), blue m + d · w(hue − 1)
    and red, across the cut of the circle, M − d · w(hue), where w(t) = clamp(2 − |t|, 0, 1). On
    each half of the circle one channel changes at a time, so that |hue| is 2 − (green + blue − red
    − m) / d, with the sign of blue − green.
    """
    red, green, blue = x.unbind(1)
    largest, smallest = x.amax(dim=1), x.amin(dim=1)
    chroma = (largest - smallest).clamp_(min=1e-30)
    hue = (red - green).sub_(blue).sub_(smallest).add_(largest, alpha=2.0)
    hue = torch.copysign(hue, blue - green).div_(chroma).add_(turn.view(-1, 1, 1), alpha=6.0)
    hue.sub_((hue * (1.0 / 6.0)).round_(), alpha=6.0)
    # x becomes chroma · (2 − w), which is subtracted from each channel's value at w = 2.
    torch.sub(hue.unsqueeze(1), _centers(x.dtype, x.device), out=x)
    x.abs_().clamp_(1.0, 2.0).mul_(chroma.unsqueeze(1))
    red.add_(largest.sub_(chroma, alpha=2.0))
    torch.sub(smallest.add_(chroma, alpha=2.0).unsqueeze(1), x[:, 1:], out=x[:, 1:])


_JITTER: list[tuple[str, Callable[[Tensor, Tensor], None]]] = [
    ("brightness", _brightness_),
    ("contrast", _contrast_),
    ("saturation", _saturation_),
    ("hue", turn_hue_),
]
_ONLY_COLOR = ("saturation", "hue")
