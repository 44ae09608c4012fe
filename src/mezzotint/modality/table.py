"""Tables: one row of numbers, float32 `[F]`."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mezzotint.modality.modality import Example, Modality
from mezzotint.modality.patches import Patches, PatchSize, grid_positions

if TYPE_CHECKING:
    from mezzotint.types import Input


class TableModality(Modality):
    """Rows of features, one number for each column.

    They have no hand-made features of their own: a table's columns are scaled to a std of 1 and
    its categories are one-hot vectors, so the raw input is what one would make by hand.
    """

    plural = "rows"
    axes = ("features",)
    has_picture = False
    recipe = "table/csv_simclr"
    large_recipe = "table/csv_simclr_large"
    sizes = ((), ("encoder.width=64",))
    example = Example(data={"kind": "table_sample"}, encoder={"kind": "table_mlp", "width": 16})

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return TablePatches(input.shape, dim)


class TablePatches(Patches):
    """Each feature of a row is a patch: its value times a learned vector.

    Args:
        shape: `(F,)`.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.grid, self.num_values = shape, 1
        self.table = nn.Embedding(shape[0], dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, F]` → `[B, F, 2]`, value and index of the feature, and `[1, F, 1]`."""
        positions = grid_positions(x.shape[1:], x.device)
        # The index travels with the value: masking drops patches, and each feature has its own
        # vector.
        index = positions.expand(x.shape[0], -1, -1).to(x.dtype)
        return torch.cat([x.unsqueeze(2), index], dim=2), positions

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', 2]` → `[B, L', D]`."""
        return values[..., :1] * self.table(values[..., 1].long())  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """`[B, L', 2]` → the value alone, `[B, L', 1]`."""
        return values[..., :1]

    def position_embedding(self, width: int) -> nn.Module:
        """Build a learned vector for each feature."""
        return _LearnedIndex(self.grid[0], width)


class _LearnedIndex(nn.Module):
    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(count, width)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, positions: Tensor) -> Tensor:
        return self.table(positions[..., 0].long())  # type: ignore[no-any-return]
