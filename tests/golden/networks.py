"""Small encoders that stand for the backbones of the published code."""

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views


class Flat(Encoder):
    """Linear, BatchNorm and ReLU over the values of an image."""

    def __init__(self, values: int = 12, dim: int = 8) -> None:
        super().__init__(Input((3, 2, 2), (0.0,) * 3, (1.0,) * 3), dim=dim)
        self.first = nn.Linear(values, dim)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.first(x.flatten(1))))


def as_views(*xs: Tensor) -> Views:
    """Wrap tensors as global views of the same samples."""
    return Views(xs, ("global",) * len(xs), Draws(torch.arange(len(xs[0])), 0))


class ConvNorm(Encoder):
    """A convolution and its BatchNorm."""

    def __init__(self) -> None:
        super().__init__(Input((3, 4, 4), (0.0,) * 3, (1.0,) * 3), dim=4)
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).mean(dim=(2, 3))
        return out
