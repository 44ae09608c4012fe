"""A multilayer perceptron for the rows of a table: linear layers, each with BatchNorm and ReLU."""

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input


class TableMLP(Encoder, kind="table_mlp"):
    """Encode rows of a table by a perceptron on standardized values.

    Args:
        input: of rows `(features,)`.
        width: width of all layers, and number of features.
        layers: number of layers.
    """

    modalities = frozenset({"table"})

    def __init__(self, input: Input, *, width: int = 128, layers: int = 3) -> None:
        if width < 1 or layers < 1:
            raise ValueError(
                f"`width` and `layers` must be at least 1, got {width} and {layers}. Try 128 and 3."
            )
        super().__init__(input, dim=width)
        # No bias: the BatchNorm after each linear would cancel it.
        inputs = [input.shape[0], *[width] * (layers - 1)]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(n, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
                for n in inputs
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, F]` → `[B, width]`."""
        return self.layers(x)  # type: ignore[no-any-return]
