"""The contract of an encoder: what is evaluated, quantized and exported."""

from typing import Any, ClassVar

from torch import Tensor, nn

from mezzotint.recipe.component import Component
from mezzotint.types import Input


class Encoder(nn.Module, Component):
    """Maps a batch to one feature vector a sample.

    An encoder states what it is; nothing is found out by running it.

    Attributes:
        dim: width of the features.
        input: shape and normalization of what it takes.
    """

    modalities: ClassVar[frozenset[str]] = frozenset()
    """Modalities of the samples that it takes; empty for any."""

    dim: int
    input: Input
    config: dict[str, Any]

    def __init__(self, input: Input, dim: int) -> None:
        super().__init__()
        self.input = input
        self.dim = dim

    @property
    def modality(self) -> str:
        """Name of the input's modality."""
        return self.input.modality

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]`, normalized → `[B, dim]`."""
        raise TypeError(f"{type(self).__name__} has no forward")
