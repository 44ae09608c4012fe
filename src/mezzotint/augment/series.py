"""Views of sensor series `[B, C, T]`: jitter, scale, time warp, crop, channel drop, axis rotation.

The transforms of Um et al. 2017 ("Data augmentation of wearable sensor data", arXiv 1706.00527),
batched, with parameters for each sample. Differs from the published code: a warped series is read
between its steps by linear interpolation on the batch's device, and the warp is monotone by
construction.

Randomized quantization needs no change: each sensor channel is a row, quantized over time.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from mezzotint.augment.transform import BatchLayout, Params, Transform, amount, most, with_low
from mezzotint.seeding import Draws

SERIES = BatchLayout("series", ("B", "C", "T"))


class SeriesJitter(Transform):
    """Add noise to every value.

    Args:
        std: standard deviation of the noise, as a fraction of each channel's own.
    """

    layouts = (SERIES,)
    scaled = {"std": amount}

    def __init__(self, *, std: float = 0.1) -> None:
        if std < 0.0:
            raise ValueError(f"`std` must be 0 or more, got {std}. Try 0.1.")
        self.std = std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `noise` `[B, C, T]`, standard normal."""
        return {"noise": draws.normal("noise", *shape[1:])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add noise in proportion to the channel's std; a constant channel stays unchanged."""
        return x + params["noise"].to(x.dtype) * (self.std * _std(x))


class SeriesScale(Transform):
    """Multiply each channel, and shift it.

    Args:
        std: standard deviation of the factors' logarithm.
        shift: standard deviation of the shift, as a fraction of each channel's own.
        shared: one factor for all channels, as for a stronger movement.
    """

    layouts = (SERIES,)
    scaled = {"std": amount, "shift": amount}

    def __init__(self, *, std: float = 0.2, shift: float = 0.0, shared: bool = False) -> None:
        if std < 0.0 or shift < 0.0:
            raise ValueError(
                f"`std` and `shift` must be 0 or more, got {std} and {shift}. Try 0.2 and 0."
            )
        self.std, self.shift, self.shared = std, shift, shared

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `factors` `[B, C, 1]`, or `[B, 1, 1]` if shared, and `shift` `[B, C, 1]`."""
        count = 1 if self.shared else shape[1]
        factors = draws.normal("factors", count, 1).mul_(self.std).exp_()
        return {"factors": factors, "shift": draws.normal("shift", shape[1], 1).mul_(self.shift)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x * params["factors"].to(x.dtype) + params["shift"].to(x.dtype) * _std(x)


class TimeWarp(Transform):
    """Warp time smoothly: speed it up and slow it down; first and last step stay.

    Args:
        knots: number of time intervals with their own speed.
        std: standard deviation of the speeds' logarithm.
    """

    layouts = (SERIES,)
    scaled = {"std": amount}

    def __init__(self, *, knots: int = 4, std: float = 0.2) -> None:
        if knots < 2 or std < 0.0:
            raise ValueError(
                f"`knots` must be 2 or more and `std` 0 or more, got {knots} and {std}. "
                "Try 4 and 0.2."
            )
        self.knots, self.std = knots, std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `speeds` `[B, knots]`, positive."""
        return {"speeds": draws.normal("speeds", self.knots).mul_(self.std).exp_()}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Read each series at its warped times."""
        speeds, steps = params["speeds"], x.shape[2]
        # Time of each knot, from 0 to 1; it increases because speeds are positive.
        ends = torch.nn.functional.pad(speeds.cumsum(dim=1), (1, 0))
        ends = ends / ends[:, -1:]
        position = torch.linspace(0.0, self.knots, steps, device=x.device)
        left = position.floor().long().clamp(max=self.knots - 1)
        path = ends[:, left] + (position - left) * (ends[:, left + 1] - ends[:, left])
        return read_at(x, path * (steps - 1))


class SeriesCrop(Transform):
    """Cut a time interval out and resample it to a fixed length.

    Args:
        low: smallest fraction of the series that is kept.
        high: largest fraction of the series that is kept.
        steps: number of time steps of the view; by default unchanged.
    """

    layouts = (SERIES,)

    def __init__(self, *, low: float = 0.5, high: float = 1.0, steps: int | None = None) -> None:
        if not 0.0 < low <= high <= 1.0 or (steps is not None and steps < 2):
            raise ValueError(
                "`low` and `high` must be fractions with 0 < low <= high <= 1, and `steps` 2 or "
                f"more, got {low}, {high} and {steps}. Try 0.5 and 1, to keep at least half."
            )
        self.low, self.high, self.steps = low, high, steps

    def at_strength(self, strength: float) -> Self:
        return with_low(self, strength)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `part` `[B]`, the fraction to keep, and `start` `[B]`, a fraction of the rest."""
        return {
            "part": draws.uniform("part", low=self.low, high=self.high),
            "start": draws.uniform("start"),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        length = (x.shape[2] - 1) * params["part"]
        start = (x.shape[2] - 1 - length) * params["start"]
        unit = torch.linspace(0.0, 1.0, self.steps or x.shape[2], device=x.device)
        return read_at(x, start.unsqueeze(1) + length.unsqueeze(1) * unit)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:2], self.steps or shape[2])


class ChannelDrop(Transform):
    """Replace some channels of a sample by their mean, as if a sensor had failed.

    Args:
        p: probability that a channel is replaced; at least one stays.
    """

    layouts = (SERIES,)
    scaled = {"p": most}

    def __init__(self, *, p: float = 0.2) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"`p` must be 0 or more and below 1, got {p}. Try 0.2.")
        self.p = p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `dropped`, bool `[B, C]`."""
        u = draws.uniform("dropped", shape[1])
        kept = u.argmax(dim=1, keepdim=True)
        return {"dropped": (u < self.p).scatter(1, kept, False)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return torch.where(params["dropped"].unsqueeze(2), x.mean(dim=2, keepdim=True), x)


class AxisRotation(Transform):
    """Rotate the axes of triaxial sensors, as if the device were worn differently.

    Args:
        degrees: largest angle.
        groups: number of sensors with three channels each; all rotate together.
    """

    layouts = (SERIES,)
    scaled = {"degrees": amount}

    def __init__(self, *, degrees: float = 30.0, groups: int = 2) -> None:
        if not 0.0 <= degrees <= 180.0 or groups < 1:
            raise ValueError(
                "`degrees` must be 0 to 180 and `groups` 1 or more, "
                f"got {degrees} and {groups}. Try 30 and 2, for acceleration and rotation rate."
            )
        self.degrees, self.groups = degrees, groups

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `axis` `[B, 3]`, uniform on the sphere, and `angle` `[B]` in radians."""
        axis = torch.nn.functional.normalize(draws.normal("axis", 3), dim=1)
        return {"axis": axis, "angle": draws.uniform("angle", high=math.radians(self.degrees))}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Rotate each group of three channels (Rodrigues' formula).

        Raises:
            ValueError: when the channels are not three per group.
        """
        if x.shape[1] != 3 * self.groups:
            raise ValueError(
                f"Series must have {3 * self.groups} channels with groups={self.groups}, got "
                f"{x.shape[1]} channels. Set `groups` to the number of triaxial sensors, or "
                "remove axis_rotation."
            )
        axis, angle = params["axis"].to(x.dtype), params["angle"].to(x.dtype).view(-1, 1, 1)
        zero = torch.zeros_like(axis[:, 0])
        a, b, c = axis.unbind(dim=1)
        cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=1).view(-1, 3, 3)
        turn = (
            torch.eye(3, device=x.device)
            + angle.sin() * cross
            + (1.0 - angle.cos()) * (cross @ cross)
        )
        vectors = x.view(len(x), self.groups, 3, x.shape[2])
        return (turn.unsqueeze(1) @ vectors).view_as(x)


def _std(x: Tensor) -> Tensor:
    """Return the standard deviation of each channel, `[B, C, 1]`; torch warns for empty batches."""
    return x.std(dim=2, keepdim=True, correction=0) if len(x) else x[:, :, :1]


def read_at(x: Tensor, times: Tensor) -> Tensor:
    """Interpolate series linearly at times between the steps.

    Args:
        x: series `[B, C, T]`.
        times: times `[B, S]` of 0 to T − 1, clamped to this range.

    Returns:
        Values `[B, C, S]`.
    """
    last = x.shape[2] - 1
    times = times.to(x.dtype).clamp(0.0, last)
    left = times.floor().clamp(max=max(0, last - 1))
    weight = (times - left).unsqueeze(1)
    index = left.long().unsqueeze(1).expand(-1, x.shape[1], -1)
    low, high = x.gather(2, index), x.gather(2, (index + 1).clamp(max=last))
    return torch.lerp(low, high, weight)
