"""Augmentations of log-mel spectrograms, `[B, 1, F, T]` with F mels and T frames, batched.

`LogMixup` and `RandomResizeCrop` are those of BYOL for Audio (Niizumi et al. 2021, arXiv
2103.06695, section III); `SpecAugment` is that of Park et al. (2019, arXiv 1904.08779) without its
warp. `TimeRoll` rolls along time, each sample by its own shift: published code of AudioMAE's line
names a roll and applies it to a dimension of length one.

Values are natural logarithms of power, normalized or not. Where something has to be filled in,
`fill: null` takes what the sample has least of, its silence; 0 is the mean of normalized values, as
BYOL-A has it.

Differs from BYOL-A's code: a sample's partner in the mixture comes from its batch (see `byol_a.py`
for the bank of past ones); a crop is two small matrix products for the whole batch, and its canvas
is never made.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws

_CUBIC = -0.75  # the free parameter of the cubic filter, as torch and OpenCV have it


def log_mixup(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Mix in the power domain what is given in logarithms: `log((1 − a) eˣ + a e^other)`.

    Computed as `x + log(1 − a + a e^(other − x))`, which needs no epsilon. What is louder than `x`
    by more than e⁸⁰ counts as louder by e⁸⁰, so nothing overflows. (`logaddexp`, `expm1` and
    `log1p` take ten times as long on a CPU.)

    Args:
        x: `[B, …]`.
        other: of the shape of `x`.
        share: `a`, `[B]`, in [0, 1); where it is 0, `x` comes back as it is.
    """
    share = share.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return (other - x).clamp_(max=80.0).exp_().mul_(share).add_(1.0 - share).log_().add_(x)


class LogMixup(Transform):
    """Mix each sample with another of its batch, faintly, as sounds mix: BYOL-A's log-mixup-exp.

    A batch of one has nobody to mix with, and stays as it is. Unlike other draws, the partner
    depends on the batch.

    Args:
        alpha: the partner's share of power is uniform on [0, alpha).
    """

    modalities = frozenset({"audio"})

    def __init__(self, *, alpha: float = 0.4) -> None:
        if not 0.0 < alpha <= 1.0:
            raise ValueError(
                f"got alpha={alpha}; allowed is more than 0 and at most 1: BYOL-A has 0.4"
            )
        self.alpha = alpha

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`share` of the partner, and `partner`: how many rows further it stands, round the batch."""
        count = max(1, shape[0] - 1)
        return {
            "share": draws.uniform("share", high=self.alpha),
            "partner": 1 + draws.integers("partner", high=count),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Mix."""
        if len(x) < 2:
            return x
        rows = (torch.arange(len(x), device=x.device) + params["partner"]) % len(x)
        return log_mixup(x, x.index_select(0, rows), params["share"])


class RandomFrames(Transform):
    """Cut a stretch of frames out of each sample, at a random place: what a training clip is of a longer recording.

    Args:
        frames: to keep; a sample that has no more stays as it is.
    """

    modalities = frozenset({"audio"})

    def __init__(self, *, frames: int = 96) -> None:
        if frames < 1:
            raise ValueError(
                f"got frames={frames}; allowed is 1 or more: BYOL-A has 96, for 0.95 s"
            )
        self.frames = frames

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """With so many frames, or fewer."""
        return (*shape[:3], min(self.frames, shape[3]))

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`first` frame, int64 `[B]`."""
        return {"first": draws.integers("first", high=max(0, shape[3] - self.frames) + 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Cut."""
        if x.shape[3] <= self.frames:
            return x
        index = params["first"].unsqueeze(1) + torch.arange(self.frames, device=x.device)
        return x.gather(3, index.view(len(x), 1, 1, -1).expand(*x.shape[:3], -1))


class RandomResizeCrop(Transform):
    """BYOL-A's: cut a box out of a canvas that is longer than the sample, and resize it to the sample's size.

    The sample stands in the middle of the canvas. Resizing is bicubic, with the corners aligned and
    no antialiasing.

    Args:
        frequency: range of the box's height, as a share of the mels; a share above 1 takes all of
            them.
        time: range of the box's width, as a share of the frames.
        canvas: width of the canvas, as a share of the frames.
        fill: what the canvas holds where the sample is not; by default the sample's least value.
    """

    modalities = frozenset({"audio"})

    def __init__(
        self,
        *,
        frequency: tuple[float, float] = (0.6, 1.5),
        time: tuple[float, float] = (0.6, 1.5),
        canvas: float = 1.5,
        fill: float | None = None,
    ) -> None:
        for name, (low, high) in (("frequency", frequency), ("time", time)):
            if not 0.0 < low <= high:
                raise ValueError(
                    f"got {name}={(low, high)}; allowed is 0 < low <= high: BYOL-A has (0.6, 1.5)"
                )
        if canvas < 1.0:
            raise ValueError(f"got canvas={canvas}; allowed is 1 or more: BYOL-A has 1.5")
        self.frequency, self.time, self.canvas, self.fill = (
            tuple(frequency),
            tuple(time),
            canvas,
            fill,
        )

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`box`: top, left, height and width within the canvas, in mels and frames, int64 `[B, 4]`."""
        mels, canvas = shape[2], int(self.canvas * shape[3])
        height = self._length(draws.uniform("height"), self.frequency, mels, mels)
        width = self._length(draws.uniform("width"), self.time, shape[3], canvas)
        top = (draws.uniform("top") * (mels - height + 1)).long()
        left = (draws.uniform("left") * (canvas - width + 1)).long()
        return {"box": torch.stack([top, left, height, width], dim=1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Crop and resize."""
        mels, frames = x.shape[2], x.shape[3]
        top, left, height, width = params["box"].unbind(1)
        margin = (int(self.canvas * frames) - frames) // 2
        rows = cubic_weights(top, height, mels, mels).to(x.dtype)
        # The canvas is all fill but for the sample, and the weights of a point sum to one: what
        # lies outside of the sample adds nothing to the difference from the fill.
        columns = cubic_weights(left - margin, width, frames, frames).to(x.dtype)
        rows, columns = rows.unsqueeze(1), columns.transpose(1, 2).unsqueeze(1)
        if self.fill == 0.0:
            return rows @ (x @ columns)
        fill = x.amin(dim=(1, 2, 3), keepdim=True) if self.fill is None else self.fill
        return (rows @ ((x - fill) @ columns)).add_(fill)

    @staticmethod
    def _length(unit: Tensor, scale: tuple[float, ...], size: int, most: int) -> Tensor:
        share = scale[0] + unit * (scale[1] - scale[0])
        return (share * size).long().clamp(1, most)


def cubic_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """The matrices that cut `length` points out from `start` on, and resize them to `size` points, corners aligned.

    A point outside of the source has no weight here; within the box, the outermost points are
    repeated.

    Args:
        start: int64 `[B]`, may be negative.
        length: int64 `[B]`.
        source: points of the stored dimension.
        size: points of the result.

    Returns:
        float32 `[B, size, source]`.
    """
    step = (length - 1).clamp(min=0).float() / max(1, size - 1)
    position = step.unsqueeze(1) * torch.arange(size, device=start.device)
    whole = position.floor()
    weights = position.new_zeros(
        len(start), size, source + 1
    )  # the last column takes what lies outside
    for offset in (-1, 0, 1, 2):
        tap = _cubic((position - whole - offset).abs())
        index = torch.minimum(
            (whole.long() + offset).clamp(min=0), (length - 1).unsqueeze(1)
        ) + start.unsqueeze(1)
        index = torch.where((index < 0) | (index >= source), source, index)
        weights.scatter_add_(2, index.unsqueeze(2), tap.unsqueeze(2))
    return weights[:, :, :-1]


def _cubic(distance: Tensor) -> Tensor:
    """Keys' filter at distances of 0 to 2."""
    near = ((_CUBIC + 2.0) * distance - (_CUBIC + 3.0)) * distance * distance + 1.0
    far = ((_CUBIC * distance - 5.0 * _CUBIC) * distance + 8.0 * _CUBIC) * distance - 4.0 * _CUBIC
    return torch.where(distance <= 1.0, near, far)


class SpecAugment(Transform):
    """Blank a band of mels and a stretch of frames, each of a random width and at a random place.

    Args:
        frequency: the band's width is uniform on 0 … `frequency`, in mels; 0 for none.
        time: the stretch's width is uniform on 0 … `time`, in frames; 0 for none.
        masks: how many of each.
        fill: what they are filled with; by default the sample's mean.
    """

    modalities = frozenset({"audio"})

    def __init__(
        self, *, frequency: int = 48, time: int = 192, masks: int = 1, fill: float | None = None
    ) -> None:
        if frequency < 0 or time < 0 or masks < 1:
            raise ValueError(
                f"got frequency={frequency}, time={time}, masks={masks}; allowed are widths of 0 or more, and a mask "
                "or more: 48 mels of 128 and 192 frames of 1,024 are usual"
            )
        self.frequency, self.time, self.masks, self.fill = frequency, time, masks, fill

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`mels` and `frames`: the first masked place and the number of masked ones, int64 `[B, masks, 2]`."""
        drawn = {}
        for name, most, size in (
            ("mels", self.frequency, shape[2]),
            ("frames", self.time, shape[3]),
        ):
            width = draws.integers(f"{name}.width", self.masks, high=min(most, size) + 1)
            first = (draws.uniform(f"{name}.first", self.masks) * (size - width + 1)).long()
            drawn[name] = torch.stack([first, width], dim=2)
        return drawn

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Blank."""
        rows = _covered(params["mels"], x.shape[2]).view(len(x), 1, -1, 1)
        columns = _covered(params["frames"], x.shape[3]).view(len(x), 1, 1, -1)
        fill = x.mean(dim=(1, 2, 3), keepdim=True) if self.fill is None else x.new_tensor(self.fill)
        return torch.where(rows | columns, fill, x)


def _covered(spans: Tensor, size: int) -> Tensor:
    """Which of `size` places any of the spans (first, width) covers: bool `[B, size]`."""
    place = torch.arange(size, device=spans.device)
    first, width = spans.unsqueeze(3).unbind(2)
    return ((place >= first) & (place < first + width)).any(dim=1)


class TimeRoll(Transform):
    """Roll each sample along time, round its end, by a shift of its own.

    Args:
        most: longest shift in either direction, as a share of the frames; 1 for any.
    """

    modalities = frozenset({"audio"})

    def __init__(self, *, most: float = 1.0) -> None:
        if not 0.0 < most <= 1.0:
            raise ValueError(
                f"got most={most}; allowed is more than 0 and at most 1: 1 rolls by any shift"
            )
        self.most = most

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`shift`: in frames, int64 `[B]`."""
        most = int(self.most * shape[3])
        return {"shift": draws.integers("shift", low=-most, high=most + 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Roll: frame `t` goes to `t + shift`."""
        frames = x.shape[3]
        index = (torch.arange(frames, device=x.device) - params["shift"].unsqueeze(1)) % frames
        return x.gather(3, index.view(len(x), 1, 1, frames).expand_as(x))


class Gain(Transform):
    """Make each sample louder or softer: a constant in the logarithm of its power.

    Args:
        decibels: range of the gain. BRIDLE's fine-tuning multiplies the waveform by 0.5 to 1.5, −6
            to 3.5 dB.
    """

    modalities = frozenset({"audio"})

    def __init__(self, *, decibels: tuple[float, float] = (-6.0, 6.0)) -> None:
        low, high = decibels
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"got decibels={(low, high)}; allowed is low <= high: (-6, 6) halves or doubles the wave"
            )
        self.decibels = (low, high)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`decibels`, `[B]`."""
        return {"decibels": draws.uniform("decibels", low=self.decibels[0], high=self.decibels[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add."""
        return x + (params["decibels"] * (math.log(10.0) / 10.0)).to(x.dtype).view(-1, 1, 1, 1)
