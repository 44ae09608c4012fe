"""The domain-agnostic transformer of DABS (Tamkin et al. 2021, arXiv 2111.12062): one size for every kind of data.

A class token and learned positions, 12 pre-norm blocks of width 256 with 8 heads of 64 and 512
hidden units, dropout of 0.1 in them and on what goes in; the feature is the mean over all tokens,
the class token among them, without a last LayerNorm. How a sample becomes tokens is as in
`patches`, which is as in DABS: patches and segments through a linear, tokens by a table, features
of a row by a vector each. Published patches: 16 × 16 for images and spectrograms, 5 steps of
sensors, 8 for EuroSAT, 4 for wafers.

Differs from the published code in that linears are Xavier-uniform, and that probes are learned from
features without dropout: there the encoder was frozen and left in training mode, so its features
were noisy while the probe learned.
"""

import math

from torch import Tensor, nn

from mezzotint.encoders.vit import Attention, ViT, initialize
from mezzotint.types import Input


class DomainAgnosticBlock(nn.Module):
    """A pre-norm block with dropout after every linear but the first two of attention.

    Args:
        width: D.
        heads: of attention.
        inner: width of all heads together.
        hidden: units of the perceptron.
        dropout: probability.
    """

    def __init__(self, width: int, heads: int, inner: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, inner, bias=False)
        self.drop = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, L, D]` → `[B, L, D]`; `mask` as for `Attention`."""
        x = x + self.drop(self.attn(self.norm1(x), mask))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class LearnedPlaces(nn.Module):
    """A learned vector for each place of a grid, standard normal at first.

    Args:
        grid: patches along each axis.
        width: D.
    """

    def __init__(self, grid: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.grid = grid
        self.table = nn.Embedding(math.prod(grid), width)

    def forward(self, where: Tensor) -> Tensor:
        """Rows and columns `[…, L, A]` → `[…, L, D]`.

        Raises:
            ValueError: for more patches than there are places.
        """
        if where.shape[-2] > self.table.num_embeddings:
            raise ValueError(
                f"got {where.shape[-2]} patches; allowed are at most the {self.table.num_embeddings} whose positions "
                "are learned: cut the samples, or use vit"
            )
        number = where[..., 0].long()
        for axis, size in enumerate(self.grid[1:], 1):
            number = number * size + where[..., axis].long()
        return self.table(number)  # type: ignore[no-any-return]


class DomainAgnostic(ViT):
    """The transformer of DABS: 6.5 M parameters beside the embedding of the domain.

    Args:
        input: of any modality.
        width: of the tokens, and of the features.
        depth: number of blocks.
        heads: of attention.
        patch: side of a patch along each axis, or of all.
        inner: width of all heads together; by default twice `width`.
        hidden: units of the perceptrons; by default twice `width`.
        dropout: probability.
    """

    def __init__(
        self,
        input: Input,
        *,
        width: int = 256,
        depth: int = 12,
        heads: int = 8,
        patch: int | list[int] | None = None,
        inner: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"got dropout={dropout}; allowed is 0 to less than 1: DABS has 0.1")
        inner, hidden = inner or 2 * width, hidden or 2 * width
        super().__init__(input, width=width, depth=depth, heads=1, patch=patch, pool="cls")
        self.heads = heads
        made = [DomainAgnosticBlock(width, heads, inner, hidden, dropout) for _ in range(depth)]
        self.drop, self.blocks = nn.Dropout(dropout), nn.Sequential(*made)
        initialize(self.blocks)
        self.norm = nn.Identity()  # type: ignore[assignment]
        if self.patches.axes == len(
            self.patches.grid
        ):  # points stand anywhere: their places are learned already
            self.places = LearnedPlaces(self.patches.grid, width)
        assert self.cls is not None
        nn.init.normal_(self.cls)
        for module in self.patches.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)

    def placed(self, embedded: Tensor, where: Tensor) -> Tensor:
        """As in `ViT`, with dropout."""
        return self.drop(super().placed(embedded, where))  # type: ignore[no-any-return]

    def pool(self, out: Tensor, there: Tensor | None = None) -> Tensor:
        """The mean over all tokens, the class token among them."""
        return self._mean(out, there)
