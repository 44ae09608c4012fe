"""The contract of an encoder: what is evaluated, quantized and exported."""

from typing import Any, ClassVar

from torch import Tensor, nn

from mezzotint.modality.modality import modality_of
from mezzotint.recipe.component import Component
from mezzotint.types import Input


class Encoder(nn.Module, Component):
    """Maps a batch to one feature vector per sample.

    An encoder states its sizes; nothing is found out by running it.

    Args:
        input: shape and normalization of the samples.
        dim: number of features.

    Attributes:
        modalities: names of the modalities that it takes; empty for any.
        dim: number of features.
        input: shape and normalization of the samples.
        preprocessing: how the training samples were made of files, see `Source.preprocessing`;
            empty for an encoder that was not saved with them.

    Raises:
        ValueError: for an input of another modality.
    """

    modalities: ClassVar[frozenset[str]] = frozenset()

    dim: int
    input: Input
    config: dict[str, Any]
    preprocessing: dict[str, Any]

    def __init__(self, input: Input, dim: int) -> None:
        super().__init__()
        self.require_modality(input)
        self.input = input
        self.dim = dim
        self.preprocessing = {}
        # Looked up once: `__call__` is traced by torch.compile and torch.export.
        self._channels = modality_of(input).required_channels(input)

    @classmethod
    def require_modality(cls, input: Input) -> None:
        """Refuse an input of a modality that this class does not take.

        Raises:
            ValueError: with the modalities that it takes.
        """
        if cls.modalities and input.modality not in cls.modalities:
            taken = " or ".join(modality_of(name).plural for name in sorted(cls.modalities))
            raise ValueError(
                f"`{cls.__name__}` takes {taken}, got {modality_of(input).plural} of shape "
                f"{input.shape}. Choose an encoder of that modality, or other data."
            )

    @property
    def modality(self) -> str:
        """Name of the input's modality."""
        return self.input.modality

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Check the shape of a batch, then compute its features.

        Raises:
            ValueError: for samples with another number of axes or channels than `input` states.
        """
        if x.ndim != len(self.input.shape) + 1 or self._channels not in (None, x.shape[1]):
            raise ValueError(
                f"Samples must have the shape [batch, {', '.join(map(str, self.input.shape))}], "
                f"got {list(x.shape)}. Only sizes after the channels may differ."
            )
        return super().__call__(x, *args, **kwargs)

    def map_layer(self) -> tuple[nn.Module, bool]:
        """Name the module that has the feature map, and whether as its input or as its output.

        Raises:
            ValueError: for a network without such a map.
        """
        raise ValueError(
            f"{self.config['kind']} has no feature map or patch tokens of a grid. Use a ResNet, a "
            "ViT on a grid, AudioNTT, ResNet1D or a network of timm."
        )

    def as_map(self, values: Tensor, x: Tensor) -> Tensor:
        """Arrange what `map_layer` has as `[B, C, h, w]`; a map over time has h = 1."""
        return values if values.ndim == 4 else values.unsqueeze(2)

    def features_and_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features `[B, dim]` and, in the same pass, the feature map `[B, C, h, w]`.

        Raises:
            ValueError: for a network without such a map.
        """
        found: list[Tensor] = []
        layer, is_input = self.map_layer()
        # A hook leaves the output of the encoder, which others hook too, what it is.
        handle = layer.register_forward_hook(
            lambda _, inputs, output: found.append(inputs[0] if is_input else output)
        )
        try:
            features: Tensor = self(x)
        finally:
            handle.remove()
        return features, self.as_map(found[-1], x)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]`, normalized → `[B, dim]`."""
        raise TypeError(f"{type(self).__name__} has no forward")
