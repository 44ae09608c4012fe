"""DGCNN (Wang et al. 2019, arXiv 1801.07829): convolution over each point's neighbors, found anew in every layer.

An edge convolution takes the maximum over the k nearest points j of h(x_i, x_j − x_i), h being
linear, BatchNorm and LeakyReLU(0.2). Widths 64, 64, 128, 256; their outputs side by side go through
one more layer of 1,024, whose maximum and mean over points are the features (section 4.1 and the
authors' code, k = 20).

The linear layer is split, W [x_i, x_j − x_i] = (W₁ − W₂) x_i + W₂ x_j, and applied to the points
instead of the edges: k times less work, and the same numbers up to rounding, which the tests hold
it to.
"""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input


def nearest_points(x: Tensor, k: int) -> Tensor:
    """The k nearest points of every point, itself among them, by Euclidean distance.

    Args:
        x: `[B, C, N]`.
        k: at most N are found.

    Returns:
        int64 `[B, N, min(k, N)]`, nearest first.
    """
    with torch.autocast(x.device.type, enabled=False):
        points = x.detach().float()
        # −‖x_i − x_j‖² up to ‖x_i‖², which is the same for all candidates of a point.
        closeness = (2.0 * points.transpose(1, 2)) @ points - points.square().sum(
            dim=1, keepdim=True
        )
        return closeness.topk(min(k, x.shape[2]), dim=2).indices


class EdgeConv(nn.Module):
    """One layer of DGCNN.

    Args:
        inputs: channels that go in.
        outputs: channels that come out.
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
        own, edge = self.linear.weight[:, :channels], self.linear.weight[:, channels:]
        center = nn.functional.conv1d(x, own - edge)
        point = nn.functional.conv1d(x, edge).transpose(
            1, 2
        )  # [B, N, outputs]: a neighbor's values lie together
        flat = (neighbors + torch.arange(batch, device=x.device).view(-1, 1, 1) * count).view(-1)
        around = (
            point.reshape(batch * count, -1)
            .index_select(0, flat)
            .view(batch, count, -1, point.shape[2])
        )
        edges = (around + center.transpose(1, 2).unsqueeze(2)).permute(0, 3, 1, 2)
        # A maximum and a rising activation commute; after the maximum there are k times fewer
        # values.
        return self.act(self.norm(edges).amax(dim=3))  # type: ignore[no-any-return]


class DGCNN(Encoder):
    """DGCNN without its classifier: 0.63 M parameters and 2,048 features at width 64.

    Args:
        input: of clouds, `(channels, points)`; any number of points is taken.
        width: of the first layers; 64 is the published network, whose features are 32 times as
            many.
        neighbors: of a point; 20 with 1,024 points, 40 with 2,048.
    """

    modalities = frozenset({"points"})

    def __init__(self, input: Input, *, width: int = 64, neighbors: int = 20) -> None:
        if width < 1 or neighbors < 1:
            raise ValueError(
                f"got width={width}, neighbors={neighbors}; allowed is 1 or more: 64 and 20 are published"
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
