"""Point clouds: float32 `[3, N]`, the second axis up.

Patches are groups of near points around centers that lie far apart, as in Point-BERT (Yu et al.
2022, arXiv 2111.14819).

Differs from Point-BERT: its small PointNet has no BatchNorm, and the first center is the point
farthest from the mean instead of a random one, so that the same points always have the same groups.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mezzotint.modality.image import histogram
from mezzotint.modality.modality import PICTURE_SIZE, Example, Modality
from mezzotint.modality.patches import Patches, PatchSize, take

if TYPE_CHECKING:
    from mezzotint.types import Input

_YAW, _PITCH = math.radians(35.0), math.radians(20.0)
_MAX_COORDINATES = 512
_PAIRED, _BINS, _LONGEST = 128, 16, 3.0  # points of the distances, bins, and radii of a histogram


def shape_statistics(x: Tensor) -> Tensor:
    """Describe point clouds `[B, 3, N]` by moments and by histograms: `[B, F]`.

    Moments: logarithm of the radius (root mean square of the distance from the mean), then in units
    of it the eigenvalues of the covariance, and std, skewness and extent of each axis.
    Histograms: distances of pairs of points (D2 of Osada et al., TOG 2002), distances from the
    mean, from the vertical axis through it, and heights.
    """
    centered = x - x.mean(dim=2, keepdim=True)
    radius = centered.square().sum(dim=1).mean(dim=1).sqrt().view(-1, 1, 1)
    points = centered / radius.clamp(min=1e-6)
    covariance = points @ points.transpose(1, 2) / x.shape[2]
    std = covariance.diagonal(dim1=1, dim2=2).sqrt()
    skewness = (points / std.clamp(min=1e-3).unsqueeze(2)).pow(3).mean(dim=2)
    extent = points.amax(dim=2) - points.amin(dim=2)
    eigenvalues = torch.linalg.eigvalsh(covariance.nan_to_num(0.0))
    parts = [radius.flatten(1).log1p(), eigenvalues, std, skewness.clamp(-3.0, 3.0), extent]
    moments = torch.cat(parts, dim=1)
    # Some points stand for all: the number of pairs grows with the square of theirs.
    some = points[:, :, :: -(-x.shape[2] // _PAIRED)].transpose(1, 2)
    rows, columns = torch.triu_indices(some.shape[1], some.shape[1], 1 if some.shape[1] > 1 else 0)
    distances = (
        torch.cdist(some, some)[:, rows, columns],
        points.norm(dim=1),
        points[:, [0, 2]].norm(dim=1),
        points[:, 1] + _LONGEST / 2,
    )
    blocks = [histogram(each, 0.0, _LONGEST, _BINS) for each in distances]
    return torch.cat([moments / math.sqrt(moments.shape[1]), *blocks], dim=1)


class PointsModality(Modality):
    """Sets of points in space, in no order."""

    plural = "point clouds"
    axes = ("3", "points")
    thumbnails = True
    handmade = "moments and histograms of distances"
    recipe = "points/folder_simclr"
    large_recipe = "points/folder_simclr_large"
    sizes = (
        ("encoder.width=64", "data.points=1024", "views.transforms.0.points=512"),
        (),
        ("data.points=256", "views.transforms.0.points=128"),
    )
    example = Example(
        data={"kind": "furniture"},
        encoder={"kind": "pointnet", "width": 4},
        patches={"groups": 8, "group_size": 8},
        transforms=[
            {"kind": "point_jitter"},
            {"kind": "randomized_quantization", "bins": 4, "p": 0.5},
        ],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return PointPatches(input.shape, size.groups, size.group_size, dim)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        return shape_statistics(x)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Draw a point cloud from the front right and a little above, near points dark."""
        values = x.detach().float().nan_to_num(0.0).cpu().numpy()
        middle = (values.max(axis=1, keepdims=True) + values.min(axis=1, keepdims=True)) / 2
        east, y, z = values - middle
        right = math.cos(_YAW) * east + math.sin(_YAW) * z
        depth = math.cos(_YAW) * z - math.sin(_YAW) * east
        up, depth = (
            math.cos(_PITCH) * y - math.sin(_PITCH) * depth,
            math.cos(_PITCH) * depth + math.sin(_PITCH) * y,
        )
        # The largest coordinate fills 92 % of the picture; 1e-6 is for equal points.
        reach = max(float(np.abs(np.stack([right, up])).max()), 1e-6)
        columns = np.rint((right / reach * 0.46 + 0.5) * (PICTURE_SIZE - 1)).astype(int)
        rows = np.rint((0.5 - up / reach * 0.46) * (PICTURE_SIZE - 1)).astype(int)
        order = np.argsort(depth)  # near points are drawn last, over the far ones
        nearness = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6)
        far, near = np.array([196.0, 205.0, 214.0]), np.array([24.0, 52.0, 84.0])
        colors = np.rint(far + (near - far) * nearness[order, None]).astype(np.uint8)
        sheet = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 255, np.uint8)
        sheet[rows[order], columns[order]] = colors
        return torch.from_numpy(np.ascontiguousarray(sheet.transpose(2, 0, 1)))

    def coordinates(self, x: Tensor) -> Tensor:
        """Scale a point cloud into a cube of ±127 and keep at most 512 points: int8 `[N, 3]`."""
        points = x.detach().float().nan_to_num(0.0).cpu()[:, :: -(-x.shape[1] // _MAX_COORDINATES)]
        points = points - (points.amax(dim=1, keepdim=True) + points.amin(dim=1, keepdim=True)) / 2
        scaled = points / points.norm(dim=0).max().clamp_min(1e-6) * 127.0
        whole: Tensor = scaled.round().to(torch.int8)
        return whole.T.contiguous()


class PointPatches(Patches):
    """Groups of near points; a small PointNet embeds each, relative to its center.

    Args:
        shape: `(3, N)`.
        groups: L.
        group_size: k, points of a group.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], groups: int, group_size: int, dim: int) -> None:
        super().__init__()
        if not (1 <= groups <= shape[1] and 1 <= group_size <= shape[1]):
            raise ValueError(
                f"`groups` and `group_size` must be 1 to {shape[1]} for {shape[1]} "
                f"points, got {groups} and {group_size}. Choose fewer or smaller groups, or more "
                "points."
            )
        self.grid, self.group_size = (groups,), group_size
        self.num_values = group_size * shape[0]
        self.point = nn.Sequential(nn.Linear(shape[0], 128), nn.GELU(), nn.Linear(128, 256))
        self.group = nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, dim))

    @property
    def axes(self) -> int:
        """Three, the coordinates of the center."""
        return 3

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, N]` → neighbors `[B, L, k, 3]`, nearest first, and centers `[B, L, 3]`.

        Neighbors are relative to their center.
        """
        points = x.transpose(1, 2)
        if points.shape[1] < max(self.group_size, self.count):
            raise ValueError(
                f"Clouds must have at least {max(self.group_size, self.count)} points for "
                f"{self.count} groups of {self.group_size}, got {points.shape[1]}. Keep more "
                "points, or choose fewer or smaller groups."
            )
        # Which points form a group is a choice without a gradient.
        with torch.no_grad():
            centers = take(points, farthest_points(points, self.count))
            distance = (centers.unsqueeze(2) - points.unsqueeze(1)).square().sum(dim=3)
            nearest = distance.topk(self.group_size, dim=2, largest=False).indices
        near = take(points, nearest.flatten(1)).view(*nearest.shape, points.shape[2])
        return near - centers.unsqueeze(2), centers

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', k, 3]` → `[B, L', D]`; the order within a group does not matter."""
        own = self.point(values)
        both = torch.cat([own.amax(dim=2, keepdim=True).expand_as(own), own], dim=3)
        return self.group(both).amax(dim=2)  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """`[B, L', k, 3]` → `[B, L', 3 k]`."""
        return values.flatten(2)

    def position_embedding(self, width: int) -> nn.Module:
        """Build a small network on the coordinates of the centers."""
        return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))


@torch.no_grad()
def farthest_points(points_BNC: Tensor, count: int) -> Tensor:
    """Choose points that lie far apart: each is the farthest from those before it.

    The first is the farthest from the mean.

    Returns:
        int64 `[B, count]`; the choice does not depend on the order of points, except for ties.
    """
    distance = (points_BNC - points_BNC.mean(dim=1, keepdim=True)).square().sum(dim=2)
    chosen = [distance.argmax(dim=1)]
    # From here on distances are to the chosen points; the mean was only for the first choice.
    distance = torch.full_like(distance, torch.inf)
    for _ in range(count - 1):
        last = take(points_BNC, chosen[-1].unsqueeze(1))
        distance = torch.minimum(distance, (points_BNC - last).square().sum(dim=2))
        chosen.append(distance.argmax(dim=1))
    return torch.stack(chosen, dim=1)
