"""The contract of a network that finds things in images, built around an encoder.

A residual network taken apart: its stem and stages, for networks that look at feature maps.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.data.detection.source import DetectionSample
from mezzotint.detection.average_precision import Found
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import BasicBlock, Bottleneck, ResNet
from mezzotint.recipe.component import Component

Needs = Literal["boxes", "masks", "classes"]
Norm = Literal["train", "frozen"]


class Localizer(nn.Module, Component, ABC, abstract=True):
    """Learns from scenes, and finds their objects or classes; its positional arguments are injected.

    The encoder is registered before anything that is made of its parts, so that its tensors are
    named `encoder.…` in parameter groups and checkpoints.

    Attributes:
        encoder: whose stages the network is made of.
        needs: what scenes must have for it.
    """

    needs: Needs

    def __init__(self, encoder: ResNet, norm: Norm) -> None:
        super().__init__()
        self.encoder = encoder
        self._frozen = (
            [m for m in encoder.modules() if isinstance(m, _BatchNorm)] if norm == "frozen" else []
        )
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; frozen norms keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @abstractmethod
    def losses(
        self, images: Sequence[Tensor], scenes: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """The parts of the loss, to be added.

        Args:
            images: float `[3, H, W]` in [0, 1], each of its own size, on the network's device.
            scenes: what is in them; anywhere.
        """

    @abstractmethod
    def find(self, images: Sequence[Tensor]) -> list[Found] | list[Tensor]:
        """What is in images: objects, or maps of classes int64 `[H, W]` (0 for none); on the CPU."""

    def own_tensors(self) -> dict[str, Tensor]:
        """All parameters and buffers, each once, by its first name: what is saved and put back."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


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
        taken: numbers of the stages whose maps are returned, from 1, rising; later ones are not
            computed.
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
