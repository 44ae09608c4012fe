"""Videos rendered on first use: the embedded furniture, rotating before a camera.

Each of the 820 point clouds rotates around its upright axis by `degrees`, from an angle of its own,
seen slightly from above as a depth map: near points are bright, the background is black. Tasks and
splits are the same as for the point clouds (`points/embedded.py`).
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.data.memory import InMemory, moments
from mezzotint.data.points.embedded import Furniture
from mezzotint.data.source import Source, Task
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

_PITCH = math.radians(25.0)
_FAR, _NEAR = 64, 255


class RotatingObjects(InMemory):
    """Render videos of 820 rotating models of furniture, uint8 `[1, frames, size, size]`.

    Args:
        frames: frames per clip.
        size: height and width in pixels.
        degrees: rotation of a model within a clip, any number; negative ones turn the other way.

    Attributes:
        credit: attribution of the models.
    """

    modality = "video"
    embedded = ("rotating_objects",)
    credit = Furniture.credit

    def __init__(self, *, frames: int = 8, size: int = 32, degrees: float = 180.0) -> None:
        if frames < 2 or not 8 <= size <= 128:
            raise ValueError(
                f"`frames` must be 2 or more and `size` 8 to 128 pixels, got frames={frames} and "
                f"size={size}. 8 and 32 are the defaults; 1,024 points leave holes in larger "
                "pictures."
            )
        self._furniture = Furniture()
        self.images = _rendered(frames, size, degrees)
        self.labels, self.ids = (
            self._furniture.labels,
            [f"rotating_objects/{name}" for name in self._furniture.ids],
        )
        mean, std = moments(self.images)
        self.input = Input(tuple(self.images.shape[1:]), mean, std, "video")

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all clips, and the tasks of the furniture."""
        return self, self._furniture.evaluation()[1]


@functools.lru_cache(maxsize=2)
def _rendered(frames: int, size: int, degrees: float) -> Tensor:
    """Render uint8 `[820, 1, frames, size, size]`, each model from an angle drawn by its number."""
    points = Furniture().images
    start = Draws(torch.arange(len(points)), key_of("spins")).uniform("yaw", high=2.0 * math.pi)
    turn = torch.linspace(0.0, math.radians(degrees), frames)
    parts = [
        render(part.float(), yaws.unsqueeze(1) + turn, size)
        for part, yaws in zip(torch.split(points, 64), torch.split(start, 64), strict=True)
    ]
    return torch.cat(parts).unsqueeze(1)


def render(points: Tensor, yaws: Tensor, size: int) -> Tensor:
    """Render point clouds as depth maps: each point fills 2 x 2 pixels, nearest points on top.

    Args:
        points: `[B, 3, P]`, z up, within the unit sphere.
        yaws: angles around z in radians, `[B, T]`.
        size: height and width.

    Returns:
        uint8 `[B, T, size, size]`: 0 for the background, 64 (far) to 255 (near) for points.
    """
    x, y, z = points.unsqueeze(2).unbind(1)  # [B, 1, P]
    cos, sin = yaws.cos().unsqueeze(2), yaws.sin().unsqueeze(2)
    right, away = cos * x - sin * y, sin * x + cos * y
    up = math.cos(_PITCH) * z + math.sin(_PITCH) * away
    nearness = math.sin(_PITCH) * z - math.cos(_PITCH) * away
    brightness = (_FAR + (_NEAR - _FAR) * (nearness + 1.0) / 2.0).round().clamp(_FAR, _NEAR)
    scale = (size - 2) / 2.0
    column, row = (
        ((right + 1.0) * scale).long().clamp(0, size - 2),
        ((1.0 - up) * scale).long().clamp(0, size - 2),
    )
    pictures = torch.zeros(*yaws.shape, size * size)
    for down in (0, 1):
        for across in (0, 1):
            pixel = (row + down) * size + column + across
            pictures.scatter_reduce_(2, pixel, brightness, "amax")
    return pictures.view(*yaws.shape, size, size).to(torch.uint8)
