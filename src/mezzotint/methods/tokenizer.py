"""Tokenizers of masked prediction: from the patches of a view to vectors, which a codebook turns into codes.

`ColdStart` needs no training: each patch, normalized by itself, through a fixed random projection,
as in BEST-RQ (Chiu et al. 2022, arXiv 2202.01855). It does not see where a patch stands. With
`positions`, as in BRIDLE's source (Nguyen et al. 2025, arXiv 2502.02118), patches are embedded by a
random linear, fixed positions are added, and a second random linear follows; a good part of the
codes then names positions, which tell the encoder nothing.

`LearnedTokenizer` is a ViT of its own with a head of two linears, as in BEATs (Chen et al. 2022,
arXiv 2212.09058); its vectors are scaled to mean 0 and variance 1, which these are not, so that a
Euclidean codebook does not have to follow vectors that grow. What it learns from is the
`Estimator`: it has to make the encoder's features out of codes.

Shapes: B samples, L patches, P values of a patch, A axes, D width of the codes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from mezzotint.encoders.vit import ViT, blocks, initialize
from mezzotint.modality.patches import SinCos
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of


class Tokenizer(Component, ABC, abstract=True):
    """How patches become vectors.

    Attributes:
        learns: whether it has to be trained in a phase of its own.
    """

    learns: bool

    @abstractmethod
    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """A network whose `forward(x, vectors, where)` takes a view and its patches, and gives `[B, L, dim]`."""


class ColdStart(Tokenizer):
    """A random projection of each patch.

    Args:
        project: to the width of the codebook; without, a codebook that projects by itself sees the
            patches.
        normalize: scale each patch to mean 0 and variance 1 first; never single values.
        positions: add positions to randomly embedded patches, as BRIDLE's source does.
        seed: of the projection, the same on every rank.
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
                "got positions=True and project=False; allowed is one of them: positions need a projection"
            )
        self.project, self.normalize, self.positions, self.seed = (
            project,
            normalize,
            positions,
            seed,
        )

    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """The fixed network."""
        return _Projection(encoder, self, dim)


class _Projection(nn.Module):
    def __init__(self, encoder: ViT, settings: ColdStart, dim: int) -> None:
        super().__init__()
        values = encoder.patches.num_values
        if not settings.project and values != dim:
            raise ValueError(
                f"got patches of {values} values, project=False and a codebook of dim={dim}; allowed are equal widths: "
                f"choose codebook.dim={values}, or project"
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
            reach = (6.0 / (inputs + outputs)) ** 0.5  # Xavier, as a linear's
            self.register_buffer(
                f"weight{number}", draws.uniform("xavier", inputs, low=-reach, high=reach)
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
    """A ViT with a head of two linears and a tanh; as large as the encoder unless stated.

    Args:
        width: of its tokens.
        depth: number of blocks.
        heads: of attention.
    """

    learns = True

    def __init__(
        self, *, width: int | None = None, depth: int | None = None, heads: int | None = None
    ) -> None:
        self.size = {"width": width, "depth": depth, "heads": heads}

    def build(self, encoder: ViT, dim: int) -> nn.Module:
        """A network with fresh weights."""
        return _Learned(
            encoder, {key: value for key, value in self.size.items() if value is not None}, dim
        )


class _Learned(nn.Module):
    def __init__(self, encoder: ViT, size: dict[str, int], dim: int) -> None:
        super().__init__()
        own = {
            key: value for key, value in encoder.config.items() if key not in ("kind", "drop_path")
        }
        self.network = ViT(encoder.input, **{**own, **size})
        self.head = nn.Sequential(
            nn.Linear(self.network.dim, self.network.dim),
            nn.Tanh(),
            nn.Linear(self.network.dim, dim),
            nn.LayerNorm(dim, elementwise_affine=False),
        )
        initialize(self.head)

    def forward(self, x: Tensor, vectors: Tensor, where: Tensor) -> Tensor:
        """`[B, *sizes]` → `[B, L, D]`, of all patches, each with its position and all others in sight."""
        return self.head(self.network.tokens(x))  # type: ignore[no-any-return]


class Estimator(nn.Module):
    """Makes the encoder's features out of quantized vectors, so that these have to hold what the encoder knows.

    Args:
        encoder: whose features.
        dim: of the vectors.
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
