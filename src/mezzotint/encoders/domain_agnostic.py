"""The domain-agnostic transformer of DABS (Tamkin et al. 2021, arXiv 2111.12062).

One size for every kind of data: a class token and learned positions, 12 pre-norm blocks of width
256 with 8 heads of 64 and 512 hidden units, dropout of 0.1 in the blocks and on their input. The
feature is the mean over all tokens, the class token among them, without a last LayerNorm. Samples
become tokens as in DABS, which is what `modality` does: patches and segments through a linear
layer, tokens through an embedding, features of a row through one vector each. Published patches:
16 × 16 for images and spectrograms, 5 steps of sensors, 8 for EuroSAT, 4 for wafers.

Differs from the published code: linears are Xavier-uniform, and probes are trained on features
without dropout. The published code leaves the frozen encoder in training mode, so that its features
are noisy while the probe trains.
"""

from typing import ClassVar

from torch import Tensor, nn

from mezzotint.encoders.vit import Attention, ViT, initialize
from mezzotint.modality.patches import LearnedPositions
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Input


class DomainAgnosticBlock(nn.Module):
    """A pre-norm block with dropout after every linear but the queries, keys and values.

    Args:
        width: D.
        heads: number of attention heads.
        inner: width of all heads together.
        hidden: hidden units of the perceptron.
        dropout: probability of dropping a value.

    Attributes:
        residual_ends: last layer of each residual branch, which muP scales by depth.
    """

    residual_ends: ClassVar[tuple[str, ...]] = ("attn.proj", "mlp.3")

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


class DomainAgnostic(ViT):
    """Encode samples of any modality as DABS does: 6.5 M parameters without the patch embedding.

    Args:
        input: of any modality.
        width: width of the tokens, and number of features.
        depth: number of blocks.
        heads: number of attention heads.
        patch: side of a patch, one for all axes or one for each; by default 16.
        inner: width of all heads together; by default twice `width`.
        hidden: hidden units of the perceptrons; by default twice `width`.
        dropout: probability of dropping a value in training.
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
            raise ValueError(
                f"`dropout` must be at least 0 and below 1, got {dropout}. DABS uses 0.1."
            )
        inner = 2 * width if inner is None else inner
        hidden = 2 * width if hidden is None else hidden
        require_sizes("encoder", width=width, heads=heads, inner=inner, hidden=hidden)
        # Blocks of `ViT` are replaced below; one head fits any width.
        super().__init__(input, width=width, depth=depth, heads=1, patch=patch, pool="cls")
        self.heads = heads
        made = [DomainAgnosticBlock(width, heads, inner, hidden, dropout) for _ in range(depth)]
        self.drop, self.blocks = nn.Dropout(dropout), nn.Sequential(*made)
        initialize(self.blocks)
        self.norm = nn.Identity()  # type: ignore[assignment]
        # Positions of points are coordinates, whose embedding is learned already.
        if self.patches.axes == len(self.patches.grid):
            self.places = LearnedPositions(self.patches.grid, width)
        assert self.cls is not None
        nn.init.normal_(self.cls)
        # All embeddings of DABS start standard normal, which `ViT` does for tokens alone.
        for module in self.patches.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight)

    def with_positions(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Add positions and the class token as `ViT` does, then drop values in training."""
        return self.drop(super().with_positions(embedded, positions))  # type: ignore[no-any-return]

    def pool(self, out: Tensor, valid: Tensor | None = None) -> Tensor:
        """Average all valid tokens, the class token among them."""
        return self._mean(out, valid)
