"""Tokenizers of masked prediction: networks from patches to the vectors that a codebook encodes.

`ColdStart` needs no training: each patch is normalized by itself and goes through a fixed random
projection, as in BEST-RQ (Chiu et al. 2022, arXiv 2202.01855). It does not use positions. With
`positions`, as in BRIDLE's source (Nguyen et al. 2025, arXiv 2502.02118), a random linear layer
embeds patches, fixed position embeddings are added, and a second random linear layer follows; many
codes then encode positions, from which the encoder learns nothing.

`LearnedTokenizer` is a separate ViT with a head of two linear layers, as in BEATs (Chen et al.
2022, arXiv 2212.09058). Unlike there, its vectors are scaled to mean 0 and variance 1, so that a
Euclidean codebook does not have to follow growing vectors; `normalize: false` leaves them. It is
trained through the `Estimator`, which predicts the encoder's features from codes.

Shapes: B samples, L patches, P values of a patch, A axes, D width of the codes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mezzotint.encoders.vit import ViT, blocks, initialize
from mezzotint.modality.patches import SinCos
from mezzotint.recipe.component import Component, require_sizes
from mezzotint.seeding import Draws, key_of


class Tokenizer(Component, ABC, abstract=True):
    """Settings of a network from patches to vectors.

    Attributes:
        learns: whether it must be trained in a separate phase.
    """

    learns: bool

    @abstractmethod
    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """Build a network whose `forward(x, vectors, where)` returns vectors `[B, L, dim]`.

        Its inputs are a view, the values of its patches and their positions.
        """


class ColdStart(Tokenizer):
    """Project each patch by a fixed random matrix.

    Args:
        project: project to the width of the codebook; otherwise the codebook gets the patches, and
            must project them itself.
        normalize: scale each patch to mean 0 and variance 1 first, except single values.
        positions: add positions to randomly embedded patches, as in BRIDLE's source.
        seed: seed of the projection, any whole number, the same on every rank.
    """

    learns = False

    def __init__(
        self,
        *,
        project: bool = True,
        normalize: bool = True,
        positions: bool = False,
        seed: int = 0,
    ) -> None:
        if positions and not project:
            raise ValueError(
                "`tokenizer.positions` needs a projection, got project=False. Set `project: "
                "true`, or "
                "`positions: false`."
            )
        self.project, self.normalize, self.positions, self.seed = (
            project,
            normalize,
            positions,
            seed,
        )

    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """Build the fixed network."""
        return _Projection(encoder, self, dim)


class _Projection(nn.Module):
    def __init__(self, encoder: ViT, settings: ColdStart, dim: int) -> None:
        super().__init__()
        values = encoder.patches.num_values
        if not settings.project and values != dim:
            raise ValueError(
                f"`codebook.dim` must be {values}, the values of a patch, without a projection, "
                "got "
                f"{dim}. Set it, or set `tokenizer.project: true`."
            )
        self.normalize = settings.normalize and values > 1
        self.places = SinCos(encoder.patches.axes, encoder.dim) if settings.positions else None
        widths = (
            [values, encoder.dim, dim]
            if settings.positions
            else [values, dim]
            if settings.project
            else []
        )
        for number, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
            draws = Draws(torch.arange(outputs), key_of(settings.seed, "cold start", number))
            bound = (6.0 / (inputs + outputs)) ** 0.5  # Xavier, as in a linear layer
            self.register_buffer(
                f"weight{number}", draws.uniform("xavier", inputs, low=-bound, high=bound)
            )
        self.layers = len(widths) - 1

    def forward(self, x: Tensor, vectors: Tensor, where: Tensor) -> Tensor:
        """`[B, L, P]` → `[B, L, D]`."""
        with torch.autocast(x.device.type, enabled=False):
            z = vectors.float()
            z = layer_norm(z, z.shape[-1:]) if self.normalize else z
            for number in range(self.layers):
                z = z @ self.get_buffer(f"weight{number}").T
                if number == 0 and self.places is not None:
                    z = z + self.places(where)
            return z


class LearnedTokenizer(Tokenizer):
    """Train a ViT with a head of two linear layers; as large as the encoder by default.

    Args:
        width: width of its tokens.
        depth: number of blocks.
        heads: number of attention heads.
        normalize: scale its vectors to mean 0 and variance 1; BRIDLE's source does not.
    """

    learns = True

    def __init__(
        self,
        *,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        normalize: bool = True,
    ) -> None:
        require_sizes(
            "method.tokenizer",
            width=1 if width is None else width,
            depth=1 if depth is None else depth,
            heads=1 if heads is None else heads,
        )
        self.size = {"width": width, "depth": depth, "heads": heads}
        self.normalize = normalize

    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """Build a network with new weights."""
        size = {key: value for key, value in self.size.items() if value is not None}
        return _Learned(encoder, size, dim, self.normalize)


class _Learned(nn.Module):
    def __init__(self, encoder: ViT, size: dict[str, int], dim: int, normalize: bool) -> None:
        super().__init__()
        own = {
            key: value for key, value in encoder.config.items() if key not in ("kind", "drop_path")
        }
        self.network = ViT(encoder.input, **{**own, **size})
        self.head = nn.Sequential(
            nn.Linear(self.network.dim, self.network.dim),
            nn.Tanh(),
            nn.Linear(self.network.dim, dim),
            nn.LayerNorm(dim, elementwise_affine=False) if normalize else nn.Identity(),
        )
        initialize(self.head)

    def forward(self, x: Tensor, vectors: Tensor, where: Tensor) -> Tensor:
        """`[B, *sizes]` → `[B, L, D]`."""
        return self.head(self.network.tokens(x))  # type: ignore[no-any-return]


class Estimator(nn.Module):
    """Predicts the encoder's features from quantized vectors.

    Args:
        encoder: encoder whose features are predicted.
        dim: width of the vectors.
        depth: number of blocks; 3 in BEATs and BRIDLE.
    """

    def __init__(self, encoder: ViT, dim: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, encoder.dim)
        self.places = encoder.patches.position_embedding(encoder.dim)
        self.blocks = blocks(encoder.dim, depth, encoder.heads)
        self.norm = nn.LayerNorm(encoder.dim, eps=1e-6)
        self.head = nn.Linear(encoder.dim, encoder.dim)
        initialize(self)

    def forward(self, quantized: Tensor, where: Tensor) -> Tensor:
        """`[B, L, D]` and `[1 or B, L, A]` → `[B, L, encoder.dim]`."""
        x = self.embed(quantized) + self.places(where)
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]
