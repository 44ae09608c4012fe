"""Views of point clouds `[B, 3, N]`: rotation, scale, jitter, drop, crop of a part.

A cloud is a set: the order of its points carries nothing, and all transforms treat each point
alike. Where points are taken away, the remaining ones are repeated so that the number stays, which
leaves anything that takes a maximum over points unmoved (as in PointNet++'s "random input dropout",
Qi et al. 2017, section 3.3).

Randomized quantization fits as it is: with x, y and z as channels it snaps each coordinate to a few
random levels, so that a cloud becomes a lattice of another pitch each time (Wu et al. 2023, section
4.3).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws

Axis = Literal["x", "y", "z"]
_AXES: dict[str, int] = {"x": 0, "y": 1, "z": 2}


class PointRotation(Transform):
    """Turn a cloud about its up axis, and tilt it.

    Args:
        axis: that points up.
        degrees: largest turn either way; 180 is any.
        tilt: largest turn about each of the other two axes, in degrees.
    """

    modalities = frozenset({"points"})

    def __init__(self, *, axis: Axis = "z", degrees: float = 180.0, tilt: float = 0.0) -> None:
        if axis not in _AXES:
            raise ValueError(
                f"got axis={axis!r}; allowed is x, y or z: name the one that points up"
            )
        _check_range("degrees", degrees, 0.0, 180.0)
        _check_range("tilt", tilt, 0.0, 180.0)
        self.axis: Axis = axis
        self.degrees, self.tilt = degrees, tilt

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`angles` `[B, 3]`, radians about x, y and z."""
        most = torch.full((3,), math.radians(self.tilt))
        most[_AXES[self.axis]] = math.radians(self.degrees)
        return {
            "angles": draws.uniform("angles", 3, low=-1.0, high=1.0) * most.to(draws.ids.device)
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Turn about the up axis first, then about the other two in order."""
        up = _AXES[self.axis]
        turn = _rotation(params["angles"][:, up], up)
        for axis in range(3):
            if axis != up and self.tilt > 0.0:
                turn = _rotation(params["angles"][:, axis], axis) @ turn
        return turn.to(x.dtype) @ x


class PointScale(Transform):
    """Stretch a cloud along its axes, each by a factor of its own, and mirror it.

    Args:
        low: smallest factor.
        high: largest factor.
        mirror: share of the clouds whose first horizontal coordinate changes its sign.
    """

    modalities = frozenset({"points"})

    def __init__(self, *, low: float = 0.8, high: float = 1.25, mirror: float = 0.0) -> None:
        if not 0.0 < low <= high:
            raise ValueError(
                f"got low={low}, high={high}; allowed is 0 < low <= high: 0.8 and 1.25 are usual"
            )
        _check_range("mirror", mirror, 0.0, 1.0)
        self.low, self.high, self.mirror = low, high, mirror

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`factors` `[B, 3]`, uniform in their logarithm; the first is negative where the cloud is mirrored."""
        low, high = math.log(self.low), math.log(self.high)
        factors = draws.uniform("factors", 3, low=low, high=high).exp()
        if self.mirror > 0.0:
            factors[:, 0] *= 1.0 - 2.0 * draws.chance("mirror", self.mirror).float()
        return {"factors": factors}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Multiply each axis."""
        return x * params["factors"].to(x.dtype).unsqueeze(2)


class PointJitter(Transform):
    """Move every point a little, and the whole cloud.

    Args:
        std: of each coordinate, in the units of the cloud.
        clip: largest move of a coordinate.
        shift: largest shift of the cloud along each axis.
    """

    modalities = frozenset({"points"})

    def __init__(self, *, std: float = 0.01, clip: float = 0.05, shift: float = 0.0) -> None:
        for name, value in (("std", std), ("clip", clip), ("shift", shift)):
            _check_range(name, value, 0.0, math.inf)
        self.std, self.clip, self.shift = std, clip, shift

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`moves` `[B, 3, N]` and `shift` `[B, 3]`."""
        moves = draws.normal("moves", 3, shape[2]).mul_(self.std).clamp_(-self.clip, self.clip)
        return {
            "moves": moves,
            "shift": draws.uniform("shift", 3, low=-self.shift, high=self.shift),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add the moves and the shift."""
        return x + params["moves"].to(x.dtype) + params["shift"].to(x.dtype).unsqueeze(2)


class PointDrop(Transform):
    """Keep a random part of the points, repeated up to the number that is asked for.

    Args:
        low: smallest part that is kept.
        high: largest.
        points: how many the view has; by default as many as it had.
    """

    modalities = frozenset({"points"})

    def __init__(self, *, low: float = 0.3, high: float = 1.0, points: int | None = None) -> None:
        _check_part(low, high, points)
        self.low, self.high, self.points = low, high, points

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`order` int64 `[B, N]`, and `kept` int64 `[B]`, at least one."""
        kept = draws.uniform("kept", low=self.low, high=self.high).mul(shape[2]).round().long()
        return {"order": draws.permutation("order", shape[2]), "kept": kept.clamp(1, shape[2])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """The first `kept` points of the order, again and again."""
        return _repeated(x, params["order"], params["kept"], self.points)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """With the points asked for."""
        return (*shape[:2], self.points or shape[2])


class PointCrop(Transform):
    """Keep the part of a cloud nearest to one of its points, repeated up to the number that is asked for.

    What is seen of an object from near by, or of one that another hides.

    Args:
        low: smallest part of the points that is kept.
        high: largest.
        points: how many the view has; by default as many as it had.
        center: move the part's centroid to the origin.
    """

    modalities = frozenset({"points"})

    def __init__(
        self,
        *,
        low: float = 0.5,
        high: float = 1.0,
        points: int | None = None,
        center: bool = False,
    ) -> None:
        _check_part(low, high, points)
        self.low, self.high, self.points, self.center = low, high, points, center

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`anchor` and `kept` int64 `[B]`, and `order` `[B, N]`, in which the part is repeated."""
        kept = draws.uniform("kept", low=self.low, high=self.high).mul(shape[2]).round().long()
        return {
            "anchor": draws.integers("anchor", high=shape[2]),
            "kept": kept.clamp(1, shape[2]),
            "order": draws.permutation("order", shape[2]),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """The nearest points to the anchor, in the drawn order."""
        anchor = x.gather(2, params["anchor"].view(-1, 1, 1).expand(-1, x.shape[1], 1))
        # Shuffled first: which of the part's points are repeated must not depend on how far they
        # are.
        order = params["order"]
        distance = (x - anchor).square().sum(dim=1).gather(1, order)
        rank = distance.argsort(dim=1, stable=True).argsort(dim=1)
        inside = (rank >= params["kept"].unsqueeze(1)).byte().argsort(dim=1, stable=True)
        part = _repeated(x, order.gather(1, inside), params["kept"], self.points)
        return part - part.mean(dim=2, keepdim=True) if self.center else part

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """With the points asked for."""
        return (*shape[:2], self.points or shape[2])


def _repeated(x: Tensor, order: Tensor, kept: Tensor, points: int | None) -> Tensor:
    """Points `order[i mod kept]`, `[B, C, points]`."""
    place = torch.arange(points or x.shape[2], device=x.device) % kept.unsqueeze(1)
    return x.gather(2, order.gather(1, place).unsqueeze(1).expand(-1, x.shape[1], -1))


def _rotation(angle: Tensor, axis: int) -> Tensor:
    """Matrices `[B, 3, 3]` that turn counter-clockwise about an axis."""
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    turn = torch.eye(3, device=angle.device).repeat(len(angle), 1, 1)
    cos, sin = angle.cos(), angle.sin()
    turn[:, i, i], turn[:, i, j], turn[:, j, i], turn[:, j, j] = cos, -sin, sin, cos
    return turn


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(
            f"got {name}={value}; allowed is {low:g} to {high:g}: give a number in between"
        )


def _check_part(low: float, high: float, points: int | None) -> None:
    if not 0.0 < low <= high <= 1.0:
        raise ValueError(
            f"got low={low}, high={high}; allowed is 0 < low <= high <= 1: 0.5 and 1 keep half at least"
        )
    if points is not None and points < 1:
        raise ValueError(
            f"got points={points}; allowed is 1 or more: leave it out to keep the number"
        )
