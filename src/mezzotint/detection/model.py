"""The contract of detectors and segmenters, and the stages of the ResNet that they are built on."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.data.detection.source import DetectionSample
from mezzotint.detection.average_precision import Detections
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import BasicBlock, Bottleneck, ResNet
from mezzotint.recipe.component import Component

Needs = Literal["boxes", "masks", "classes"]
Norm = Literal["train", "frozen"]


class DetectionModel(nn.Module, Component, ABC, abstract=True):
    """A detector or segmenter on an encoder; its positional arguments are injected.

    The encoder is registered before anything that contains its parts, so that parameter groups and
    checkpoints name its tensors `encoder.…`.

    Attributes:
        encoder: ResNet whose stages are part of the network.
        needs: annotation that the network learns from.
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
        """Set the mode; frozen BatchNorms keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @abstractmethod
    def losses(
        self, images: Sequence[Tensor], samples: Sequence[DetectionSample]
    ) -> dict[str, Tensor]:
        """Compute the parts of the loss, to be summed.

        Args:
            images: float `[3, H, W]` in [0, 1] on the network's device, of any sizes.
            samples: what is in them; anywhere.
        """

    @abstractmethod
    def predict(self, images: Sequence[Tensor]) -> list[Detections] | list[Tensor]:
        """Detect objects, or predict class maps int64 `[H, W]` (0 for background), on the CPU."""

    def named_tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers, each once by its first name, to be saved."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}


def require_resnet(encoder: Encoder, purpose: str) -> ResNet:
    """Return the encoder if it is a ResNet, whose stages can be used one by one.

    Raises:
        ValueError: for an encoder without stages.
    """
    if not isinstance(encoder, ResNet):
        kind = encoder.config["kind"]
        raise ValueError(
            f"An encoder of kind {kind} has no stages, which {purpose} needs. Supported: resnet8, "
            "resnet10, resnet18, resnet34, resnet50. Pretrain one of them."
        )
    return encoder


def stage_of(encoder: ResNet, stage: int) -> nn.Sequential:
    """Return a stage by its number, from 1."""
    blocks = encoder.get_submodule(f"layer{stage}")
    assert isinstance(blocks, nn.Sequential)
    return blocks


def channels(encoder: ResNet, stage: int) -> int:
    """Return the channels of a stage's feature map."""
    last = stage_of(encoder, stage)[-1]
    assert isinstance(last, (BasicBlock, Bottleneck))
    return last.last_norm.num_features


def stride(encoder: ResNet, stage: int) -> int:
    """Return the stride of a stage's feature map, in pixels of the image."""
    pool = encoder.maxpool.stride if isinstance(encoder.maxpool, nn.MaxPool2d) else 1
    assert isinstance(pool, int)
    return int(encoder.conv1.stride[0]) * pool * int(2 ** (stage - 1))


class Stages(nn.Module):
    """Return feature maps of some stages under the names `"0"`, `"1"`, …, as torchvision expects.

    The modules are the encoder's own, not copies, so training them trains the encoder.

    Args:
        encoder: a ResNet.
        taken: numbers of the returned stages, from 1, rising; later stages are not computed.
    """

    def __init__(self, encoder: ResNet, taken: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Sequential(encoder.conv1, encoder.bn1, encoder.act1, encoder.maxpool)
        self.stages = nn.ModuleList(stage_of(encoder, number + 1) for number in range(taken[-1]))
        self.taken = taken
        self.out_channels = channels(encoder, taken[-1])

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """`[B, 3, H, W]` → `[B, C, H / stride, W / stride]` for each returned stage."""
        x = self.stem(x)
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            if number in self.taken:
                maps[str(len(maps))] = x
        return maps
