"""A residual network taken apart: its stem and stages, for networks that look at feature maps."""

from collections import OrderedDict

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import BasicBlock, Bottleneck, ResNet


def residual(encoder: Encoder, purpose: str) -> ResNet:
    """The encoder, if it is a residual network, whose stages can be taken apart.

    Raises:
        ValueError: when it has no feature maps by stage.
    """
    if not isinstance(encoder, ResNet):
        kind = encoder.config["kind"]
        raise ValueError(
            f"got an encoder of kind {kind}, which has no feature maps by stage; allowed for {purpose} are resnet8, "
            "resnet10, resnet18, resnet34 and resnet50: pretrain one of these"
        )
    return encoder


def stage_of(encoder: ResNet, stage: int) -> nn.Sequential:
    """A stage by its number, from 1."""
    found = encoder.get_submodule(f"layer{stage}")
    assert isinstance(found, nn.Sequential)
    return found


def channels(encoder: ResNet, stage: int) -> int:
    """Width of a stage's feature map."""
    last = stage_of(encoder, stage)[-1]
    assert isinstance(last, (BasicBlock, Bottleneck))
    return last.last_norm.num_features


def stride(encoder: ResNet, stage: int) -> int:
    """Pixels of the image from one place of a stage's feature map to the next."""
    pool = encoder.maxpool.stride if isinstance(encoder.maxpool, nn.MaxPool2d) else 1
    assert isinstance(pool, int)
    return int(encoder.conv1.stride[0]) * pool * int(2 ** (stage - 1))


class Stages(nn.Module):
    """Feature maps after some of the stages, by name `"0"`, `"1"` and so on, as torchvision's networks take them.

    The modules are the encoder's own and not copies: what is trained here is the encoder.

    Args:
        encoder: a residual network.
        taken: numbers of the stages whose maps are returned, from 1, rising; later ones are not computed.
    """

    def __init__(self, encoder: ResNet, taken: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.act1, encoder.maxpool)
        self.stages = nn.ModuleList(stage_of(encoder, number + 1) for number in range(taken[-1]))
        self.taken = taken
        self.out_channels = channels(encoder, taken[-1])

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """`[B, 3, H, W]` → `[B, C, H / stride, W / stride]` for each stage that is taken."""
        x = self.stem(x)
        found: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            if number in self.taken:
                found[str(len(found))] = x
        return found
