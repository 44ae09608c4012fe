"""Residual networks (He et al. 2015, arXiv 1512.03385), with a width multiplier and three stems.

Layout, names and initialization are torchvision's, so that its state dicts load: with
`stem="imagenet"` and `width=64` the tensors are exactly the tensors of
`torchvision.models.resnet18` without its classifier. `stem="small"` is the 3 × 3, stride-1 stem
without max-pooling that is usual for CIFAR. `stem="patch"` cuts the image into patches of 4 × 4
pixels, as ConvNeXt does (Liu et al. 2022, arXiv 2201.03545), for a sixteenth of the compute of
`small`. The last BatchNorm of a residual branch can start at zero. With `grid=2` the features are
four concatenated averages, one for each quarter of the image: they keep positions, which an average
over the whole image loses.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.component import factory
from mezzotint.types import Input

Stem = Literal["imagenet", "small", "patch"]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 3, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU()
        self.downsample = _shortcut(inputs, planes, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that ends the residual branch."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` → `[B, planes, H / stride, W / stride]`."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.act2(out + self.downsample(x))  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (which strides) and 1 × 1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU()
        self.conv2 = _conv(planes, planes, 3, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU()
        self.conv3 = _conv(planes, planes * 4, 1)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.act3 = nn.ReLU()
        self.downsample = _shortcut(inputs, planes * 4, stride)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that ends the residual branch."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, H, W]` → `[B, 4 · planes, H / stride, W / stride]`."""
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.act3(out + self.downsample(x))  # type: ignore[no-any-return]


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class ResNet(Encoder):
    """A stem, stages of residual blocks, and an average over positions.

    Args:
        input: of images or spectrograms.
        block: class of the residual blocks.
        depths: blocks in each stage.
        stem: first layer: `imagenet` (7 × 7, stride 2, max-pool); for images of about 32 pixels
            `small` (3 × 3, stride 1) or `patch` (4 × 4, stride 4), which is 16 times cheaper.
        width: channels of the first stage; each later stage doubles them.
        zero_init_residual: start each residual branch at zero.
        grid: parts along each side that are averaged separately, so that features keep positions;
            1 is the published network.
        feature_stages: number of last stages whose averages are the features; 1 is the published
            network.
    """

    modalities = frozenset({"image", "audio"})

    def __init__(
        self,
        input: Input,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        *,
        stem: Stem,
        width: int,
        zero_init_residual: bool,
        grid: int,
        feature_stages: int = 1,
    ) -> None:
        if not 1 <= feature_stages <= len(depths):
            raise ValueError(
                f"`feature_stages` must be 1 to {len(depths)}, the stages of the network, got "
                f"{feature_stages}. 1 is the published network."
            )
        if width < 1:
            raise ValueError(f"`width` must be at least 1, got {width}. The paper uses 64.")
        channels = [width * 2**stage * block.expansion for stage in range(len(depths))]
        super().__init__(input, dim=sum(channels[-feature_stages:]) * grid**2)
        strides = {"imagenet": 4, "small": 1, "patch": 4}[stem] * 2 ** (len(depths) - 1)
        smallest = min(-(-side // strides) for side in input.shape[1:])
        if not 1 <= grid <= smallest:
            raise ValueError(
                f"`grid` must be 1 to {smallest}, the positions along a side of the last stage, "
                f"got {grid}. Choose fewer parts, or larger images."
            )
        self.grid, self.feature_stages = grid, feature_stages
        kernel, stride, padding = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "patch": (4, 4, 0)}[
            stem
        ]
        self.conv1 = nn.Conv2d(input.shape[0], width, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        inputs = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            blocks: list[nn.Module] = []
            for number in range(depth):
                # The stem has reduced the size already, so the first stage keeps it.
                stride = 2 if number == 0 and stage > 0 else 1
                blocks.append(block(inputs, planes, stride))
                inputs = planes * block.expansion
            # The names of torchvision, from which checkpoints come.
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.num_stages = len(depths)
        self._initialize(zero_init_residual)

    def _initialize(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                nn.init.zeros_(module.last_norm.weight)

    def feature_map(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, dim, H', W']` of the last stage, before the average."""
        return self._feature_maps(x)[-1]

    def map_layer(self) -> tuple[nn.Module, bool]:
        return self.get_submodule(f"layer{self.num_stages}"), False

    def _feature_maps(self, x: Tensor) -> list[Tensor]:
        """`[B, C, H, W]` → the map of each stage that gives features."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        maps = []
        for stage in range(self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            if stage >= self.num_stages - self.feature_stages:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` → `[B, dim]`."""
        maps = self._feature_maps(x)
        parts = [
            each.mean(dim=(2, 3))
            if self.grid == 1
            else nn.functional.adaptive_avg_pool2d(each, self.grid).flatten(1)
            for each in maps
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


# Block and depths of each network; parameters and features in their summaries are for width 64.
_DEPTHS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet8": (BasicBlock, (1, 1, 1)),
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


@factory
def resnet8(
    input: Input,
    *,
    stem: Stem = "imagenet",
    width: int = 64,
    zero_init_residual: bool = False,
    grid: int = 1,
    feature_stages: int = 1,
) -> ResNet:
    """Encode images by ResNet-8: basic blocks 1-1-1, 1.2 M parameters, 256 features."""
    return ResNet(
        input, *_DEPTHS["resnet8"], grid=grid, stem=stem, width=width,
        zero_init_residual=zero_init_residual, feature_stages=feature_stages,
    )  # fmt: skip


@factory
def resnet10(
    input: Input,
    *,
    stem: Stem = "imagenet",
    width: int = 64,
    zero_init_residual: bool = False,
    grid: int = 1,
    feature_stages: int = 1,
) -> ResNet:
    """Encode images by ResNet-10: basic blocks 1-1-1-1, 4.9 M parameters, 512 features."""
    return ResNet(
        input, *_DEPTHS["resnet10"], grid=grid, stem=stem, width=width,
        zero_init_residual=zero_init_residual, feature_stages=feature_stages,
    )  # fmt: skip


@factory
def resnet18(
    input: Input,
    *,
    stem: Stem = "imagenet",
    width: int = 64,
    zero_init_residual: bool = False,
    grid: int = 1,
    feature_stages: int = 1,
) -> ResNet:
    """Encode images by ResNet-18: basic blocks 2-2-2-2, 11.2 M parameters, 512 features."""
    return ResNet(
        input, *_DEPTHS["resnet18"], grid=grid, stem=stem, width=width,
        zero_init_residual=zero_init_residual, feature_stages=feature_stages,
    )  # fmt: skip


@factory
def resnet34(
    input: Input,
    *,
    stem: Stem = "imagenet",
    width: int = 64,
    zero_init_residual: bool = False,
    grid: int = 1,
    feature_stages: int = 1,
) -> ResNet:
    """Encode images by ResNet-34: basic blocks 3-4-6-3, 21.3 M parameters, 512 features."""
    return ResNet(
        input, *_DEPTHS["resnet34"], grid=grid, stem=stem, width=width,
        zero_init_residual=zero_init_residual, feature_stages=feature_stages,
    )  # fmt: skip


@factory
def resnet50(
    input: Input,
    *,
    stem: Stem = "imagenet",
    width: int = 64,
    zero_init_residual: bool = False,
    grid: int = 1,
    feature_stages: int = 1,
) -> ResNet:
    """Encode images by ResNet-50: bottlenecks 3-4-6-3, 23.5 M parameters, 2048 features."""
    return ResNet(
        input, *_DEPTHS["resnet50"], grid=grid, stem=stem, width=width,
        zero_init_residual=zero_init_residual, feature_stages=feature_stages,
    )  # fmt: skip
