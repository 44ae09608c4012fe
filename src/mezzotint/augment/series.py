"""Views of sensor series `[B, C, T]`: jitter, scale, time warp, crop and resize, channel drop, rotation of axes.

The transforms of Um et al. 2017 ("Data augmentation of wearable sensor data", arXiv 1706.00527),
each for a whole batch with parameters of its own for each sample. Differs from the published code
in that a warped series is read at points between its steps by linear interpolation on the batch's
device, and that the warp is a monotone path by construction.

Randomized quantization fits as it is: each sensor channel is a row, quantized over time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws


class SeriesJitter(Transform):
    """Add noise to every value.

    Args:
        std: of the noise, as a part of the standard deviation of each channel of the sample.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, std: float = 0.1) -> None:
        if std < 0.0:
            raise ValueError(
                f"got std={std}; allowed is 0 or more: 0.1 is a tenth of the channel's own"
            )
        self.std = std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`noise` `[B, C, T]`, standard normal."""
        return {"noise": draws.normal("noise", *shape[1:])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add the noise in the size of the channel's own spread; a constant channel stays."""
        return x + params["noise"].to(x.dtype) * (
            self.std * x.std(dim=2, keepdim=True, correction=0)
        )


class SeriesScale(Transform):
    """Multiply each channel, and shift it.

    Args:
        std: of the factors' logarithm.
        shift: standard deviation of the shift, as a part of that of each channel of the sample.
        shared: one factor for all channels, as when a movement is stronger.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, std: float = 0.2, shift: float = 0.0, shared: bool = False) -> None:
        if std < 0.0 or shift < 0.0:
            raise ValueError(
                f"got std={std}, shift={shift}; allowed is 0 or more: 0.2 changes sizes by about a fifth"
            )
        self.std, self.shift, self.shared = std, shift, shared

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`factors` `[B, C, 1]`, or `[B, 1, 1]` where they are shared, and `shift` `[B, C, 1]`."""
        count = 1 if self.shared else shape[1]
        factors = draws.normal("factors", count, 1).mul_(self.std).exp_()
        return {"factors": factors, "shift": draws.normal("shift", shape[1], 1).mul_(self.shift)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Multiply, then shift."""
        spread = x.std(dim=2, keepdim=True, correction=0)
        return x * params["factors"].to(x.dtype) + params["shift"].to(x.dtype) * spread


class TimeWarp(Transform):
    """Let time run faster here and slower there; beginning and end stay.

    Args:
        knots: how many stretches of time have a speed of their own.
        std: of the logarithm of the speeds.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, knots: int = 4, std: float = 0.2) -> None:
        if knots < 2 or std < 0.0:
            raise ValueError(
                f"got knots={knots}, std={std}; allowed are 2 or more, and 0 or more: 4 and 0.2 are usual"
            )
        self.knots, self.std = knots, std

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`speeds` `[B, knots]`, positive."""
        return {"speeds": draws.normal("speeds", self.knots).mul_(self.std).exp_()}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Read each series along its path."""
        speeds, steps = params["speeds"], x.shape[2]
        # Where each knot is read, from 0 at the first to 1 at the last; rising, since speeds are
        # positive.
        ends = torch.nn.functional.pad(speeds.cumsum(dim=1), (1, 0))
        ends = ends / ends[:, -1:]
        place = torch.linspace(0.0, self.knots, steps, device=x.device)
        left = place.floor().long().clamp(max=self.knots - 1)
        path = ends[:, left] + (place - left) * (ends[:, left + 1] - ends[:, left])
        return read_at(x, path * (steps - 1))


class SeriesCrop(Transform):
    """Cut a stretch of time out and bring it to a length.

    Args:
        low: smallest part of the series that is kept.
        high: largest.
        steps: length of the view; by default that of the series.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, low: float = 0.5, high: float = 1.0, steps: int | None = None) -> None:
        if not 0.0 < low <= high <= 1.0 or (steps is not None and steps < 2):
            raise ValueError(
                f"got low={low}, high={high}, steps={steps}; allowed is 0 < low <= high <= 1, and 2 steps or more: 0.5 "
                "and 1 keep half at least"
            )
        self.low, self.high, self.steps = low, high, steps

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`part` `[B]`, and `start` `[B]`, of what is left over."""
        return {
            "part": draws.uniform("part", low=self.low, high=self.high),
            "start": draws.uniform("start"),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Read each series between its start and its end."""
        length = (x.shape[2] - 1) * params["part"]
        start = (x.shape[2] - 1 - length) * params["start"]
        unit = torch.linspace(0.0, 1.0, self.steps or x.shape[2], device=x.device)
        return read_at(x, start.unsqueeze(1) + length.unsqueeze(1) * unit)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """With the steps asked for."""
        return (*shape[:2], self.steps or shape[2])


class ChannelDrop(Transform):
    """Replace some channels of a sample by their mean, as if a sensor had failed.

    Args:
        p: probability of each channel; one always stays.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, p: float = 0.2) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(
                f"got p={p}; allowed is 0 to less than 1: 0.2 drops a fifth of the channels"
            )
        self.p = p

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`dropped`, bool `[B, C]`."""
        u = draws.uniform("dropped", shape[1])
        kept = u.argmax(dim=1, keepdim=True)
        return {"dropped": (u < self.p).scatter(1, kept, False)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Flatten the dropped channels."""
        return torch.where(params["dropped"].unsqueeze(2), x.mean(dim=2, keepdim=True), x)


class AxisRotation(Transform):
    """Turn the axes of triaxial sensors: the device is worn another way.

    Args:
        degrees: largest angle.
        groups: number of sensors of three channels each; all of one device turn alike.
    """

    modalities = frozenset({"series"})

    def __init__(self, *, degrees: float = 30.0, groups: int = 2) -> None:
        if not 0.0 <= degrees <= 180.0 or groups < 1:
            raise ValueError(
                f"got degrees={degrees}, groups={groups}; allowed is 0 to 180, and 1 or more: 2 for acceleration and "
                "rotation rate"
            )
        self.degrees, self.groups = degrees, groups

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`axis` `[B, 3]`, uniform on the sphere, and `angle` `[B]` in radians."""
        axis = torch.nn.functional.normalize(draws.normal("axis", 3), dim=1)
        return {"axis": axis, "angle": draws.uniform("angle", high=math.radians(self.degrees))}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Turn each group of three channels (Rodrigues' formula).

        Raises:
            ValueError: when the channels are not those of the sensors.
        """
        if x.shape[1] != 3 * self.groups:
            raise ValueError(
                f"got {x.shape[1]} channels; allowed with groups={self.groups} are {3 * self.groups}: set groups to "
                "the number of triaxial sensors, or leave this transform out"
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
        vectors = x.view(len(x), self.groups, 3, -1)
        return (turn.unsqueeze(1) @ vectors).view_as(x)


def read_at(x: Tensor, places: Tensor) -> Tensor:
    """Values between the steps, by linear interpolation.

    Args:
        x: `[B, C, T]`.
        places: `[B, S]`, of 0 to T − 1; beyond them the ends are read.

    Returns:
        `[B, C, S]`.
    """
    last = x.shape[2] - 1
    places = places.to(x.dtype).clamp(0.0, last)
    left = places.floor().clamp(max=max(0, last - 1))
    share = (places - left).unsqueeze(1)
    index = left.long().unsqueeze(1).expand(-1, x.shape[1], -1)
    low, high = x.gather(2, index), x.gather(2, (index + 1).clamp(max=last))
    return torch.lerp(low, high, share)
