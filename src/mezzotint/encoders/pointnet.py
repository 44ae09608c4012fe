"""PointNet (Qi et al. 2017, arXiv 1612.00593): a small network for each point, then a maximum.

Per-point widths are 64, 64, 64, 128 and 1024 (section 5 and supplement B), each followed by
BatchNorm and ReLU. Two optional transformer networks predict a 3 × 3 and a 64 × 64 matrix; they
start at the identity, as in the authors' code.

Differs from the paper: the transformer networks are off by default, because views that rotate the
point cloud give the same invariance without their 2.7 M parameters.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input

Transformers = Literal["none", "input", "both"]


def point_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Build a linear layer per point, BatchNorm and ReLU: `[B, inputs, N]` → `[B, outputs, N]`."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, 1, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
    )


class TNet(nn.Module):
    """Predicts one matrix for a point cloud, and multiplies its points by it.

    Args:
        channels: coordinates of a point; the matrix is `[channels, channels]`.
        width: width of the first layer; the next have 2 and 16 times as many units per point, then
            8 and 4 times as many per point cloud.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.points = nn.Sequential(
            point_layer(channels, width),
            point_layer(width, 2 * width),
            point_layer(2 * width, 16 * width),
        )
        self.cloud = nn.Sequential(
            nn.Linear(16 * width, 8 * width, bias=False), nn.BatchNorm1d(8 * width), nn.ReLU(),
            nn.Linear(8 * width, 4 * width, bias=False), nn.BatchNorm1d(4 * width), nn.ReLU(),
        )  # fmt: skip
        self.matrix = nn.Linear(4 * width, channels * channels)
        # With zero weights the bias alone, an identity, is the first matrix.
        nn.init.zeros_(self.matrix.weight)
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(channels).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, N]` → `[B, channels, N]`."""
        matrix = self.matrix(self.cloud(self.points(x).amax(dim=2)))
        return matrix.view(x.shape[0], x.shape[1], x.shape[1]) @ x  # type: ignore[no-any-return]


class PointNet(Encoder, kind="pointnet"):
    """Encode point clouds by PointNet: 0.15 M parameters and 1,024 features at width 64.

    Args:
        input: of point clouds `(channels, points)`, with any number of points.
        width: width of the first layers, 64 in the paper; there are 16 times as many features.
        transformers: learned matrices: on the `input` points, on `both` points and features, or
            `none`.
    """

    modalities = frozenset({"points"})

    def __init__(
        self, input: Input, *, width: int = 64, transformers: Transformers = "none"
    ) -> None:
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}. The paper uses 64.")
        if transformers not in ("none", "input", "both"):
            raise ValueError(f"`transformers` must be none, input or both, got {transformers!r}.")
        super().__init__(input, dim=16 * width)
        channels = input.shape[0]
        self.align_input = nn.Identity() if transformers == "none" else TNet(channels, width)
        self.local = nn.Sequential(point_layer(channels, width), point_layer(width, width))
        self.align_features = TNet(width, width) if transformers == "both" else nn.Identity()
        self.rest = nn.Sequential(
            point_layer(width, width),
            point_layer(width, 2 * width),
            nn.Conv1d(2 * width, 16 * width, 1, bias=False),
            nn.BatchNorm1d(16 * width),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, N]` → `[B, 16 · width]`."""
        x = self.align_features(self.local(self.align_input(x)))
        # The maximum comes first: it commutes with ReLU, which then works on far fewer values.
        return self.act(self.rest(x).amax(dim=2))  # type: ignore[no-any-return]
