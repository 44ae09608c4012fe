"""Augmentations of log-mel spectrograms, `[B, 1, F, T]` with F mels and T frames, batched.

`LogMixup` and `RandomResizeCrop` come from BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695,
section III), `SpecAugment` from Park et al. (2019, arXiv 1904.08779), without the time warp.
`TimeRoll` rolls along time, each sample by its own shift; published code around AudioMAE names a
roll, but applies it to a dimension of length one.

Values are natural logarithms of power, normalized or not. `fill: null` fills gaps with the smallest
value of the sample, its silence; 0 is the mean of normalized values, as in BYOL-A.

Differs from BYOL-A's code: a sample's partner in mixup comes from its batch (see `byol_a.py` for
the bank of past samples); a crop is two small matrix products for the whole batch, without a
canvas in memory.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.mixing import beta_quantile
from mezzotint.augment.transform import SPECTROGRAMS, Params, Transform, amount, chance, kept
from mezzotint.seeding import Draws

_CUBIC = -0.75  # the free parameter of the cubic filter, as in torch and OpenCV


def log_mixup(x: Tensor, other: Tensor, fraction: Tensor) -> Tensor:
    """Mix logarithms in the power domain: `log((1 − a) eˣ + a e^other)`.

    Computed as `x + log(1 − a + a e^(other − x))`, which needs no epsilon. Ratios above e⁸⁰ count
    as e⁸⁰, so nothing overflows. (`logaddexp`, `expm1` and `log1p` take ten times as long on a
    CPU.)

    Args:
        x: log power `[B, …]`.
        other: log power in the shape of `x`.
        fraction: `a`, `[B]`, in [0, 1); 0 keeps `x`.
    """
    fraction = fraction.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return (other - x).clamp_(max=80.0).exp_().mul_(fraction).add_(1.0 - fraction).log_().add_(x)


class LogMixup(Transform):
    """Mix each sample with a small part of another sample of its batch: BYOL-A's log-mixup-exp.

    A batch of one sample stays unchanged. Unlike other draws, the partner depends on the batch.

    Args:
        alpha: the partner's fraction of the power is uniform on [0, alpha).
    """

    layouts = (SPECTROGRAMS,)
    mixes_samples = True
    scaled = {"alpha": chance}

    def __init__(self, *, alpha: float = 0.4) -> None:
        if not 0.0 < alpha <= 1.0:
            raise ValueError(
                f"`alpha` must be above 0 and at most 1, got {alpha}. Try 0.4, as in BYOL-A."
            )
        self.alpha = alpha

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the partner's `fraction` of power, and `partner`, its distance in rows (cyclic)."""
        count = max(1, shape[0] - 1)
        return {
            "fraction": draws.uniform("share", high=self.alpha),
            "partner": 1 + draws.integers("partner", high=count),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        if len(x) < 2:
            return x
        rows = (torch.arange(len(x), device=x.device) + params["partner"]) % len(x)
        return log_mixup(x, x.index_select(0, rows), params["fraction"])


class RandomFrames(Transform):
    """Cut a random clip of frames out of each sample.

    Args:
        frames: number of frames of the clip; a sample with as few or fewer stays unchanged.
    """

    layouts = (SPECTROGRAMS,)

    def __init__(self, *, frames: int = 96) -> None:
        if frames < 1:
            raise ValueError(
                f"`frames` must be 1 or more, got {frames}. Try 96, as in BYOL-A (0.95 s)."
            )
        self.frames = frames

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:3], min(self.frames, shape[3]))

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the `first` frame, int64 `[B]`."""
        return {"first": draws.integers("first", high=max(0, shape[3] - self.frames) + 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        if x.shape[3] <= self.frames:
            return x
        index = params["first"].unsqueeze(1) + torch.arange(self.frames, device=x.device)
        return x.gather(3, index[:, None, None].expand(*x.shape[:3], -1))


class RandomResizeCrop(Transform):
    """Cut a box out of a canvas longer than the sample and resize it, as in BYOL-A.

    The sample is in the middle of the canvas. Resizing is bicubic, with aligned corners and without
    antialiasing.

    Args:
        frequency: range of the box's height, as a fraction of the mels; above 1 takes all mels.
        time: range of the box's width, as a fraction of the frames.
        canvas: width of the canvas, as a fraction of the frames.
        fill: value of the canvas outside the sample, any number; by default the sample's minimum.
    """

    layouts = (SPECTROGRAMS,)
    scaled = {"frequency": kept, "time": kept, "canvas": kept}

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
                    f"`{name}` must be a range with 0 < low <= high, got {(low, high)}. "
                    "Try [0.6, 1.5], as in BYOL-A."
                )
        if canvas < 1.0:
            raise ValueError(f"`canvas` must be 1 or more, got {canvas}. Try 1.5, as in BYOL-A.")
        self.frequency, self.time, self.canvas, self.fill = (
            tuple(frequency),
            tuple(time),
            canvas,
            fill,
        )

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `box`: top, left, height and width in the canvas, in mels and frames, `[B, 4]`."""
        mels, canvas = shape[2], int(self.canvas * shape[3])
        height = self._length(draws.uniform("height"), self.frequency, mels, mels)
        width = self._length(draws.uniform("width"), self.time, shape[3], canvas)
        top = (draws.uniform("top") * (mels - height + 1)).long()
        left = (draws.uniform("left") * (canvas - width + 1)).long()
        return {"box": torch.stack([top, left, height, width], dim=1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        mels, frames = x.shape[2], x.shape[3]
        top, left, height, width = params["box"].unbind(1)
        margin = (int(self.canvas * frames) - frames) // 2
        rows = cubic_weights(top, height, mels, mels).to(x.dtype)
        # Outside the sample the canvas equals the fill, and the weights of a point sum to one: so
        # that part adds nothing to the difference from the fill.
        columns = cubic_weights(left - margin, width, frames, frames).to(x.dtype)
        rows, columns = rows.unsqueeze(1), columns.transpose(1, 2).unsqueeze(1)
        if self.fill == 0.0:
            return rows @ (x @ columns)
        fill = x.amin(dim=(1, 2, 3), keepdim=True) if self.fill is None else self.fill
        return (rows @ ((x - fill) @ columns)).add_(fill)

    @staticmethod
    def _length(unit: Tensor, scale: tuple[float, ...], size: int, limit: int) -> Tensor:
        fraction = scale[0] + unit * (scale[1] - scale[0])
        return (fraction * size).long().clamp(1, limit)


def cubic_weights(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Return matrices that cut `length` points from `start` on and resize them to `size` points.

    Corners are aligned. Points outside the source have weight 0; the outermost points of the box
    are repeated.

    Args:
        start: first point, int64 `[B]`; may be negative.
        length: number of points, int64 `[B]`.
        source: number of points of the stored dimension.
        size: number of points of the result.

    Returns:
        float32 `[B, size, source]`.
    """
    step = (length - 1).clamp(min=0).float() / max(1, size - 1)
    position = step.unsqueeze(1) * torch.arange(size, device=start.device)
    whole = position.floor()
    # The last column collects the weights of points outside the source.
    weights = position.new_zeros(len(start), size, source + 1)
    for offset in (-1, 0, 1, 2):
        tap = _cubic((position - whole - offset).abs())
        index = torch.minimum(
            (whole.long() + offset).clamp(min=0), (length - 1).unsqueeze(1)
        ) + start.unsqueeze(1)
        index = torch.where((index < 0) | (index >= source), source, index)
        weights.scatter_add_(2, index.unsqueeze(2), tap.unsqueeze(2))
    return weights[:, :, :-1]


def _cubic(distance: Tensor) -> Tensor:
    """Evaluate Keys' filter at distances of 0 to 2."""
    near = ((_CUBIC + 2.0) * distance - (_CUBIC + 3.0)) * distance * distance + 1.0
    far = ((_CUBIC * distance - 5.0 * _CUBIC) * distance + 8.0 * _CUBIC) * distance - 4.0 * _CUBIC
    return torch.where(distance <= 1.0, near, far)


class SpecAugment(Transform):
    """Mask random bands of mels and random intervals of frames.

    Args:
        frequency: widest band, in mels; widths are uniform on 0 … `frequency`; 0 for none.
        time: longest interval, in frames; lengths are uniform on 0 … `time`; 0 for none.
        masks: number of bands and of intervals.
        fill: value of masked positions, any number; by default the sample's mean.
    """

    layouts = (SPECTROGRAMS,)

    def __init__(
        self, *, frequency: int = 48, time: int = 192, masks: int = 1, fill: float | None = None
    ) -> None:
        if frequency < 0 or time < 0 or masks < 1:
            raise ValueError(
                "`frequency` and `time` must be 0 or more and `masks` 1 or more, "
                f"got {frequency}, {time} and {masks}. Try 48, 192 and 1 for 128 mels and 1,024 "
                "frames."
            )
        self.frequency, self.time, self.masks, self.fill = frequency, time, masks, fill

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `mels` and `frames`: first index and length of each mask, int64 `[B, masks, 2]`."""
        drawn = {}
        for name, longest, size in (
            ("mels", self.frequency, shape[2]),
            ("frames", self.time, shape[3]),
        ):
            width = draws.integers(f"{name}.width", self.masks, high=min(longest, size) + 1)
            first = (draws.uniform(f"{name}.first", self.masks) * (size - width + 1)).long()
            drawn[name] = torch.stack([first, width], dim=2)
        return drawn

    def apply(self, x: Tensor, params: Params) -> Tensor:
        rows = _covered(params["mels"], x.shape[2])[:, None, :, None]
        columns = _covered(params["frames"], x.shape[3])[:, None, None]
        fill = (
            x.mean(dim=(1, 2, 3), keepdim=True) if self.fill is None else x.new_full((), self.fill)
        )
        return torch.where(rows | columns, fill, x)


def _covered(spans: Tensor, size: int) -> Tensor:
    """Return which of `size` positions any of the spans (first, width) covers: bool `[B, size]`."""
    index = torch.arange(size, device=spans.device)
    first, width = spans.unsqueeze(3).unbind(2)
    return ((index >= first) & (index < first + width)).any(dim=1)


class TimeRoll(Transform):
    """Roll each sample along time (cyclically) by its own shift.

    Args:
        max_shift: longest shift in either direction, as a fraction of the frames; 1 for any.
    """

    layouts = (SPECTROGRAMS,)
    scaled = {"max_shift": chance}

    def __init__(self, *, max_shift: float = 1.0) -> None:
        if not 0.0 < max_shift <= 1.0:
            raise ValueError(
                f"`max_shift` must be above 0 and at most 1, got {max_shift}. Use 1 for any shift."
            )
        self.max_shift = max_shift

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `shift` in frames, int64 `[B]`."""
        longest = int(self.max_shift * shape[3])
        return {"shift": draws.integers("shift", low=-longest, high=longest + 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Move frame `t` to `t + shift`."""
        frames = x.shape[3]
        index = (torch.arange(frames, device=x.device) - params["shift"].unsqueeze(1)) % frames
        return x.gather(3, index.view(len(x), 1, 1, frames).expand_as(x))


class Gain(Transform):
    """Make each sample louder or softer: add a constant to its log power.

    Args:
        decibels: range of the gain.
        beta: α of a Beta distribution: the waveform is multiplied by 0.5 + Beta(α, α), which is −6
            to 3.5 dB, instead of by a gain that is uniform in decibels; 10 in AudioMAE's and
            BRIDLE's source. By default the gain is uniform.
    """

    layouts = (SPECTROGRAMS,)
    scaled = {"decibels": amount}

    def __init__(
        self, *, decibels: tuple[float, float] = (-6.0, 6.0), beta: float | None = None
    ) -> None:
        low, high = decibels
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                f"`decibels` must be a finite range with low <= high, got {(low, high)}. "
                "Try [-6, 6], which halves or doubles the amplitude."
            )
        if beta is not None and not 0.0 < beta < math.inf:
            raise ValueError(f"`beta` must be positive, got {beta}. Try 10, as in BRIDLE's source.")
        self.decibels, self.beta = (low, high), beta

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the gain of each sample, `decibels`, `[B]`."""
        if self.beta is not None:
            amplitude = 0.5 + beta_quantile(draws.uniform("decibels"), self.beta)
            return {"decibels": 20.0 * amplitude.log10()}
        return {"decibels": draws.uniform("decibels", low=self.decibels[0], high=self.decibels[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x + (params["decibels"] * (math.log(10.0) / 10.0)).to(x.dtype).view(-1, 1, 1, 1)
