"""Random projection quantizer of BEST-RQ (Chiu et al. 2022, arXiv 2202.01855): untrained labels.

Vectors are normalized and projected by a fixed random matrix (Xavier); the label is the nearest of
K fixed random directions. Several codebooks, each with its own projection, give several labels
(Zhang et al. 2023, arXiv 2303.01037). The paper normalizes inputs over its data set; here each
vector is normalized by itself, which `normalize: false` turns off for normalized inputs.

Nothing is learned and there is no gradient to the input. Projections and directions are drawn from
the seed, equal on every rank, and saved in the checkpoint.
"""

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook, full_precision
from mezzotint.codebooks.gradient import unit
from mezzotint.codebooks.kmeans import k_nearest
from mezzotint.codebooks.kmeans import nearest as nearest_code
from mezzotint.recipe.component import require_sizes
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Codes


class RandomProjection(Codebook):
    """Encode vectors by fixed random projections and codes, one level per codebook.

    `quantized` and `decode` concatenate the directions of all codebooks.

    Args:
        dim: dimensions of the vectors.
        num_codes: number of directions of each codebook, 2 or more.
        num_codebooks: number of codebooks, and so of labels of one vector.
        code_dim: dimensions of the projection.
        normalize: scale each vector to mean 0 and variance 1 over its channels first.
        seed: seed of projections and directions, any whole number.
    """

    differentiable = False
    projections: Tensor
    directions: Tensor

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 8192,
        num_codebooks: int = 1,
        code_dim: int = 16,
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        require_sizes("codebook", num_codebooks=num_codebooks)
        super().__init__(dim, num_codes, num_codebooks, num_codebooks * code_dim)
        if code_dim < 1:
            raise ValueError(
                f"`code_dim` must be 1 or more, got {code_dim}. Try 16, as in the paper."
            )
        self.code_dim, self.normalize = code_dim, normalize
        limit = (6.0 / (dim + code_dim)) ** 0.5
        uniform = Draws(torch.arange(num_codebooks), key_of(seed, "projection")).uniform(
            "xavier", code_dim, dim
        )
        normal = Draws(torch.arange(num_codebooks), key_of(seed, "directions")).normal(
            "sphere", num_codes, code_dim
        )
        self.register_buffer("projections", (2.0 * uniform - 1.0) * limit)
        self.register_buffer("directions", unit(normal))

    @torch.no_grad()
    def forward(self, z: Tensor) -> Codes:
        """Encode vectors, without gradient and with loss 0."""
        with full_precision(z):
            projected = self._project(z)
            by_level = [
                nearest_code(p, directions, on_sphere=True)[0]
                for p, directions in zip(projected, self.directions, strict=True)
            ]
            usage = projected.new_zeros(self.num_levels, self.num_codes)
            for row, chosen in zip(usage, by_level, strict=True):
                row.index_add_(0, chosen, row.new_ones(1).expand(len(chosen)))
            indices = torch.stack(by_level, 1).view(*z.shape[:-1], self.num_levels)
            quantized = self.decode(indices)
            codes = quantized.view(-1, self.num_levels, self.code_dim).transpose(0, 1)
            energy = (projected - codes).square().sum((1, 2))
            residual = energy / projected.square().sum((1, 2)).clamp_min(1e-30)
            loss = energy.sum() * 0.0  # NaN if a vector is not finite
        return Codes(quantized.to(z.dtype), indices, loss, usage, residual)

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Return concatenated directions of s codebooks, `[…, s]` → float32 `[…, s · code_dim]`."""
        self._check_indices(indices)
        levels = indices.long().unbind(-1)
        return torch.cat(
            [own[chosen] for own, chosen in zip(self.directions, levels, strict=False)], -1
        )

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest directions of each codebook, and their squared distances."""
        self._check_k(k)
        with full_precision(z):
            pairs = zip(self._project(z), self.directions, strict=True)
            by_level = [k_nearest(projected, own, k, on_sphere=True) for projected, own in pairs]
        shape = (*z.shape[:-1], self.num_levels, k)
        indices, distances = (
            torch.stack(parts, 1).view(shape) for parts in zip(*by_level, strict=True)
        )
        return indices, distances

    def _project(self, z: Tensor) -> Tensor:
        """Return the directions of the projected vectors, `[S, N, code_dim]`."""
        x = self._rows(z)
        self._need_finite(x.isfinite().all())
        x = torch.nn.functional.layer_norm(x, (self.dim,)) if self.normalize else x
        return unit(torch.einsum("nd,scd->snc", x, self.projections))
