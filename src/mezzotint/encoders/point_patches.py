"""Patches of a point cloud: groups of near points around centers that lie far apart.

Point-BERT (Yu et al. 2022, arXiv 2111.14819), whose small PointNet has BatchNorm where this has
none, and whose first center is drawn at random where this is the point farthest from the mean: the
same cloud has the same groups.
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.patches import Patches, take


class PointPatches(Patches):
    """Groups of near points, each seen by a small PointNet from its center.

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
                f"got clouds of {shape[1]} points, groups={groups} and group_size={group_size}; allowed are 1 to "
                f"{shape[1]} of both: choose fewer groups, smaller ones, or more points"
            )
        self.grid, self.group_size = (groups,), group_size
        self.num_values = group_size * shape[0]
        self.point = nn.Sequential(nn.Linear(shape[0], 128), nn.GELU(), nn.Linear(128, 256))
        self.group = nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.Linear(512, dim))

    @property
    def axes(self) -> int:
        """Three: the center."""
        return 3

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 3, N]` → `[B, L, k, 3]`, neighbors as seen from their center and nearest first, and `[B, L, 3]`."""
        points = x.transpose(1, 2)
        if points.shape[1] < max(self.group_size, self.count):
            raise ValueError(
                f"got clouds of {points.shape[1]} points for {self.count} groups of {self.group_size}; allowed are "
                "clouds with as many points: keep more points, or take fewer or smaller groups"
            )
        with torch.no_grad():
            centers = take(points, farthest_points(points, self.count))
            distance = (centers.unsqueeze(2) - points.unsqueeze(1)).square().sum(dim=3)
            nearest = distance.topk(self.group_size, dim=2, largest=False).indices
        near = take(points, nearest.flatten(1)).view(*nearest.shape, -1)
        return near - centers.unsqueeze(2), centers

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', k, 3]` → `[B, L', D]`; the order within a group does not matter."""
        own = self.point(values)
        seen = torch.cat([own.amax(dim=2, keepdim=True).expand_as(own), own], dim=3)
        return self.group(seen).amax(dim=2)  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """`[B, L', k, 3]` → `[B, L', 3 k]`."""
        return values.flatten(2)

    def places(self, width: int) -> nn.Module:
        """Learned from the centers."""
        return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, width))


@torch.no_grad()
def farthest_points(points_BNC: Tensor, count: int) -> Tensor:
    """Points that lie far apart: each is the farthest from all before it, and the first the farthest from the mean.

    Returns:
        int64 `[B, count]`; which points they are does not depend on the order of points, except for
        ties.
    """
    distance = (points_BNC - points_BNC.mean(dim=1, keepdim=True)).square().sum(dim=2)
    chosen = [distance.argmax(dim=1)]
    distance = torch.full_like(distance, torch.inf)
    for _ in range(count - 1):
        last = take(points_BNC, chosen[-1].unsqueeze(1))
        distance = torch.minimum(distance, (points_BNC - last).square().sum(dim=2))
        chosen.append(distance.argmax(dim=1))
    return torch.stack(chosen, dim=1)
