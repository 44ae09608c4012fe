"""DGCNN (Wang et al. 2019, arXiv 1801.07829): convolution over the nearest neighbors of each point.

Every layer searches the neighbors again, in its own features. An edge convolution takes the maximum
over the k nearest points j of h(x_i, x_j − x_i), where h is a linear layer, BatchNorm and
LeakyReLU(0.2). Widths are 64, 64, 128 and 256; their concatenated outputs go through one more layer
of 1,024, whose maximum and mean over points are the features (section 4.1 and the authors' code,
k = 20).

The linear layer is split, W [x_i, x_j − x_i] = (W₁ − W₂) x_i + W₂ x_j, and applied to the points
instead of the edges: k times less work and the same numbers up to rounding, as the tests check.
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input


def nearest_points(x: Tensor, k: int) -> Tensor:
    """Find the k nearest points of every point, itself among them, by Euclidean distance.

    Args:
        x: `[B, C, N]`.
        k: number of neighbors, at most N.

    Returns:
        int64 `[B, N, min(k, N)]`, nearest first.
    """
    # Half precision would confuse near neighbors; the choice itself has no gradient.
    with torch.autocast(x.device.type, enabled=False):
        points = x.detach().float()
        # −‖x_i − x_j‖² up to ‖x_i‖², which is the same for all candidates of a point.
        norms = points.square().sum(dim=1, keepdim=True)
        similarity = (2.0 * points.transpose(1, 2)) @ points - norms
        return similarity.topk(min(k, x.shape[2]), dim=2).indices


class EdgeConv(nn.Module):
    """One layer of DGCNN.

    Args:
        inputs: input channels.
        outputs: output channels.
        k: neighbors of a point.
    """

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.linear = nn.Conv1d(2 * inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, N]` → `[B, outputs, N]`."""
        batch, channels, count = x.shape
        neighbors = nearest_points(x, self.k)
        # The stored weight is for [x_i, x_j − x_i]; only the computation is split.
        own, edge = self.linear.weight[:, :channels], self.linear.weight[:, channels:]
        center = nn.functional.conv1d(x, own - edge)
        # [B, N, outputs], so that the values of a neighbor are contiguous.
        point = nn.functional.conv1d(x, edge).transpose(1, 2)
        width = point.shape[2]
        flat = (neighbors + torch.arange(batch, device=x.device).view(-1, 1, 1) * count).view(-1)
        rows = point.reshape(batch * count, width).index_select(0, flat)
        around = rows.view(batch, count, neighbors.shape[2], width)
        edges = (around + center.transpose(1, 2).unsqueeze(2)).permute(0, 3, 1, 2)
        # The maximum comes first: it commutes with a monotonic activation, on k times more values.
        return self.act(self.norm(edges).amax(dim=3))  # type: ignore[no-any-return]


class DGCNN(Encoder):
    """Encode point clouds by DGCNN: 0.63 M parameters and 2,048 features at width 64.

    Args:
        input: of point clouds `(channels, points)`, with any number of points.
        width: width of the first layers, 64 in the paper; there are 32 times as many features.
        neighbors: neighbors of a point; 20 for 1,024 points, 40 for 2,048.
    """

    modalities = frozenset({"points"})

    def __init__(self, input: Input, *, width: int = 64, neighbors: int = 20) -> None:
        if width < 1 or neighbors < 1:
            raise ValueError(
                f"`width` and `neighbors` must be at least 1, got {width} and {neighbors}. "
                "The paper uses 64 and 20."
            )
        super().__init__(input, dim=32 * width)
        widths = [input.shape[0], width, width, 2 * width, 4 * width]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.layers = nn.ModuleList(
            EdgeConv(inputs, outputs, neighbors) for inputs, outputs in pairs
        )
        self.rest = nn.Sequential(
            nn.Conv1d(8 * width, 16 * width, 1, bias=False),
            nn.BatchNorm1d(16 * width),
            nn.LeakyReLU(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, channels, N]` → `[B, 32 · width]`."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        x = self.rest(torch.cat(outputs, dim=1))
        return torch.cat([x.amax(dim=2), x.mean(dim=2)], dim=1)
