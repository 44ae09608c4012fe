"""Views of point clouds `[B, 3, N]`: rotation, scale, jitter, drop, crop of a part.

A point cloud is a set: the order of its points has no meaning. When points are removed, the
remaining ones are repeated to keep their number, which does not change a maximum over points (as in
PointNet++'s "random input dropout", Qi et al. 2017, section 3.3).

Randomized quantization needs no change: with x, y and z as channels it snaps each coordinate to a
few random levels, so a point cloud becomes a lattice with a random pitch (Wu et al. 2023, section
4.3).
"""

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from mezzotint.augment.transform import (
    BatchLayout,
    Params,
    Transform,
    amount,
    flips,
    kept,
    with_low,
)
from mezzotint.seeding import Draws

Axis = Literal["x", "y", "z"]
_AXES: dict[str, int] = {"x": 0, "y": 1, "z": 2}

POINT_CLOUDS = BatchLayout("points", ("B", 3, "N"))


class PointRotation(Transform):
    """Rotate a point cloud about its up axis, and tilt it.

    Args:
        axis: axis that points up.
        degrees: largest angle in either direction; 180 gives any rotation.
        tilt: largest angle about each of the other two axes, in degrees.
    """

    layouts = (POINT_CLOUDS,)
    scaled = {"degrees": amount, "tilt": amount}

    def __init__(self, *, axis: Axis = "z", degrees: float = 180.0, tilt: float = 0.0) -> None:
        if axis not in _AXES:
            raise ValueError(
                f"`axis` must be x, y or z, got {axis!r}. Name the axis that points up."
            )
        _check_range("degrees", degrees, 0.0, 180.0)
        _check_range("tilt", tilt, 0.0, 180.0)
        self.axis: Axis = axis
        self.degrees, self.tilt = degrees, tilt

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `angles` `[B, 3]`, radians about x, y and z."""
        limits = torch.full((3,), math.radians(self.tilt))
        limits[_AXES[self.axis]] = math.radians(self.degrees)
        return {
            "angles": draws.uniform("angles", 3, low=-1.0, high=1.0) * limits.to(draws.ids.device)
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Rotate about the up axis first, then about the other two in order."""
        up = _AXES[self.axis]
        rotation = _rotation(params["angles"][:, up], up)
        for axis in range(3):
            if axis != up and self.tilt > 0.0:
                rotation = _rotation(params["angles"][:, axis], axis) @ rotation
        return rotation.to(x.dtype) @ x


class PointScale(Transform):
    """Scale a point cloud along each axis by its own factor, and mirror it.

    Args:
        low: smallest factor.
        high: largest factor.
        mirror: probability that the first horizontal coordinate changes its sign.
    """

    layouts = (POINT_CLOUDS,)
    scaled = {"low": kept, "high": kept, "mirror": flips}

    def __init__(self, *, low: float = 0.8, high: float = 1.25, mirror: float = 0.0) -> None:
        if not 0.0 < low <= high:
            raise ValueError(
                f"`low` and `high` must be factors with 0 < low <= high, got {low} and {high}. "
                "Try 0.8 and 1.25."
            )
        _check_range("mirror", mirror, 0.0, 1.0)
        self.low, self.high, self.mirror = low, high, mirror

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `factors` `[B, 3]`, log-uniform; a negative first factor mirrors the point cloud."""
        low, high = math.log(self.low), math.log(self.high)
        factors = draws.uniform("factors", 3, low=low, high=high).exp()
        if self.mirror > 0.0:
            factors[:, 0] *= 1.0 - 2.0 * draws.chance("mirror", self.mirror).float()
        return {"factors": factors}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x * params["factors"].to(x.dtype).unsqueeze(2)


class PointJitter(Transform):
    """Add noise to every point, and shift the whole point cloud.

    Args:
        std: standard deviation of the noise, in the units of the coordinates.
        clip: largest absolute value of the noise.
        shift: largest shift of the point cloud along each axis.
    """

    layouts = (POINT_CLOUDS,)
    scaled = {"std": amount, "clip": amount, "shift": amount}

    def __init__(self, *, std: float = 0.01, clip: float = 0.05, shift: float = 0.0) -> None:
        if not (std >= 0.0 and clip >= 0.0 and shift >= 0.0):
            raise ValueError(
                f"`std`, `clip` and `shift` must be 0 or more, got {std}, {clip} and {shift}. "
                "Try 0.01, 0.05 and 0."
            )
        self.std, self.clip, self.shift = std, clip, shift

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `moves` `[B, 3, N]` and `shift` `[B, 3]`."""
        moves = draws.normal("moves", 3, shape[2]).mul_(self.std).clamp_(-self.clip, self.clip)
        return {
            "moves": moves,
            "shift": draws.uniform("shift", 3, low=-self.shift, high=self.shift),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x + params["moves"].to(x.dtype) + params["shift"].to(x.dtype).unsqueeze(2)


class PointDrop(Transform):
    """Keep random points, repeated to a fixed number.

    Args:
        low: smallest fraction of the points that is kept.
        high: largest fraction of the points that is kept.
        points: number of points of the view; by default unchanged.
    """

    layouts = (POINT_CLOUDS,)

    def __init__(self, *, low: float = 0.3, high: float = 1.0, points: int | None = None) -> None:
        _check_fractions(low, high, points)
        self.low, self.high, self.points = low, high, points

    def at_strength(self, strength: float) -> Self:
        return with_low(self, strength)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `order`, int64 `[B, N]`, and the number `kept`, int64 `[B]`, at least one."""
        kept = draws.uniform("kept", low=self.low, high=self.high).mul(shape[2]).round().long()
        return {"order": draws.permutation("order", shape[2]), "kept": kept.clamp(1, shape[2])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Repeat the first `kept` points of the order."""
        return _repeated(x, params["order"], params["kept"], self.points)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:2], self.points or shape[2])


class PointCrop(Transform):
    """Keep the points nearest to a random point, repeated to a fixed number.

    This simulates close range and occlusion.

    Args:
        low: smallest fraction of the points that is kept.
        high: largest fraction of the points that is kept.
        points: number of points of the view; by default unchanged.
        center: move the centroid of the part to the origin.
    """

    layouts = (POINT_CLOUDS,)

    def __init__(
        self,
        *,
        low: float = 0.5,
        high: float = 1.0,
        points: int | None = None,
        center: bool = False,
    ) -> None:
        _check_fractions(low, high, points)
        self.low, self.high, self.points, self.center = low, high, points, center

    def at_strength(self, strength: float) -> Self:
        return with_low(self, strength)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `anchor` and `kept`, int64 `[B]`, and the `order` of repetition, `[B, N]`."""
        kept = draws.uniform("kept", low=self.low, high=self.high).mul(shape[2]).round().long()
        return {
            "anchor": draws.integers("anchor", high=shape[2]),
            "kept": kept.clamp(1, shape[2]),
            "order": draws.permutation("order", shape[2]),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Keep the points nearest to the anchor, in the drawn order."""
        anchor = x.gather(2, params["anchor"].view(-1, 1, 1).expand(-1, x.shape[1], 1))
        # Shuffled first, so that repetition does not depend on a point's distance.
        order = params["order"]
        distance = (x - anchor).square().sum(dim=1).gather(1, order)
        rank = distance.argsort(dim=1, stable=True).argsort(dim=1)
        inside = (rank >= params["kept"].unsqueeze(1)).byte().argsort(dim=1, stable=True)
        part = _repeated(x, order.gather(1, inside), params["kept"], self.points)
        return part - part.mean(dim=2, keepdim=True) if self.center else part

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:2], self.points or shape[2])


def _repeated(x: Tensor, order: Tensor, kept: Tensor, points: int | None) -> Tensor:
    """Return the points `order[i mod kept]`, `[B, C, points]`."""
    index = torch.arange(points or x.shape[2], device=x.device) % kept.unsqueeze(1)
    return x.gather(2, order.gather(1, index).unsqueeze(1).expand(-1, x.shape[1], -1))


def _rotation(angle: Tensor, axis: int) -> Tensor:
    """Return matrices `[B, 3, 3]` that rotate counter-clockwise about an axis."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    cos, sin = angle.cos(), angle.sin()
    matrix[:, i, i], matrix[:, i, j], matrix[:, j, i], matrix[:, j, j] = cos, -sin, sin, cos
    return matrix


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(
            f"`{name}` must be {low:g} to {high:g}, got {value}. Leave it out for the default."
        )


def _check_fractions(low: float, high: float, points: int | None) -> None:
    if not 0.0 < low <= high <= 1.0:
        raise ValueError(
            "`low` and `high` must be fractions with 0 < low <= high <= 1, "
            f"got {low} and {high}. Try 0.5 and 1, to keep at least half."
        )
    if points is not None and points < 1:
        raise ValueError(
            f"`points` must be 1 or more, got {points}. Leave it out to keep their number."
        )
