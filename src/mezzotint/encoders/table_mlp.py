"""A multilayer perceptron for the rows of a table: linear layers, each with BatchNorm and ReLU."""

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.types import Input


class TableMLP(Encoder, kind="table_mlp"):
    """Layers of one width over standardized features.

    Args:
        input: of rows, `(features,)`.
        width: of all layers, and number of features that come out.
        layers: how many.
    """

    modalities = frozenset({"table"})

    def __init__(self, input: Input, *, width: int = 128, layers: int = 3) -> None:
        if width < 1 or layers < 1 or len(input.shape) != 1:
            raise ValueError(
                f"got width={width}, layers={layers} and samples of shape {input.shape}; allowed are 1 or more, and "
                "rows of a table: choose an encoder that fits the data"
            )
        super().__init__(input, dim=width)
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
