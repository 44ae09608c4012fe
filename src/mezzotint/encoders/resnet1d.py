"""A residual network over time, for sensor series.

ResNet's basic block (He et al. 2015, arXiv 1512.03385) with convolutions over time: of 5 steps
instead of 3, since a step has fewer neighbors than a pixel (Wang et al. 2017, arXiv 1611.06455, use
8, 5 and 3). The stem covers 7 steps; stages halve the time and double the channels; the features
are the mean over time, with `pool: mean_max` also the maximum.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input

Pool = Literal["mean", "mean_max"]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class SeriesBlock(nn.Module):
    """Two convolutions and a shortcut.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: stride of the first convolution.
        kernel: steps of a convolution, an odd number.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel, stride)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(outputs, outputs, kernel)
        self.bn2 = nn.BatchNorm1d(outputs)
        self.act2 = nn.ReLU()
        same = stride == 1 and inputs == outputs
        shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm1d(outputs))
        self.downsample = nn.Identity() if same else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, T]` → `[B, outputs, T / stride]`."""
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(out + self.downsample(x))  # type: ignore[no-any-return]


class ResNet1D(Encoder, kind="resnet1d"):
    """Encode time series by a small residual network: 2.8 M parameters, 512 features at width 64.

    Args:
        input: of series `(channels, steps)`, with any number of steps.
        width: channels of the first stage; each later stage doubles them.
        depths: blocks in each stage.
        kernel: steps of a convolution, an odd number.
        stem_stride: stride of the first convolution; 1 for short series.
        pool: `mean` over time, or `mean_max`, mean and maximum: twice as many features.
    """

    modalities = frozenset({"series"})

    def __init__(
        self,
        input: Input,
        *,
        width: int = 64,
        depths: tuple[int, ...] = (1, 1, 1, 1),
        kernel: int = 5,
        stem_stride: int = 2,
        pool: Pool = "mean",
    ) -> None:
        if min(width, stem_stride, *depths, len(depths)) < 1:
            raise ValueError(
                f"`width`, `depths` and `stem_stride` must be at least 1, got {width}, "
                f"{list(depths)} and {stem_stride}. Try 64, [1, 1, 1, 1] and 2."
            )
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd and positive, got {kernel}. Try 5.")
        if pool not in ("mean", "mean_max"):
            raise ValueError(f"`pool` must be mean or mean_max, got {pool!r}.")
        super().__init__(input, dim=width * 2 ** (len(depths) - 1) * (1 if pool == "mean" else 2))
        self.pool = pool
        self.stem = nn.Sequential(
            _conv(input.shape[0], width, 7, stem_stride), nn.BatchNorm1d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            outputs = width * 2**stage
            for number in range(depth):
                stride = 2 if number == 0 and stage > 0 else 1
                blocks.append(SeriesBlock(inputs, outputs, stride, kernel))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def map_layer(self) -> tuple[nn.Module, bool]:
        return self.blocks, False

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` → `[B, dim]`."""
        x = self.blocks(self.stem(x))
        if self.pool == "mean":
            return x.mean(dim=2)
        return torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)
