"""The contract of a network that finds things in images, built around an encoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mezzotint.component import Component
from mezzotint.data.scenes import Scene
from mezzotint.encoders.resnet import ResNet
from mezzotint.transfer.average_precision import Found

Needs = Literal["boxes", "masks", "classes"]
Norm = Literal["train", "frozen"]


class Localizer(nn.Module, Component, ABC):
    """Learns from scenes, and finds their objects or classes; its positional arguments are injected.

    The encoder is registered before anything that is made of its parts, so that its tensors are named `encoder.…`
    in parameter groups and checkpoints.

    Attributes:
        encoder: whose stages the network is made of.
        needs: what scenes must have for it.
    """

    needs: Needs

    def __init__(self, encoder: ResNet, norm: Norm) -> None:
        super().__init__()
        self.encoder = encoder
        self._frozen = [m for m in encoder.modules() if isinstance(m, _BatchNorm)] if norm == "frozen" else []
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; frozen norms keep their statistics."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @abstractmethod
    def losses(self, images: Sequence[Tensor], scenes: Sequence[Scene]) -> dict[str, Tensor]:
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
