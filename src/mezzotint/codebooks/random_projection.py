"""Random projection quantizer of BEST-RQ (Chiu et al. 2022, arXiv 2202.01855): labels that need no training.

Vectors are normalized, projected by a fixed random matrix (Xavier), and given the index of the
nearest of K fixed random directions. Several books side by side, each with its projection, are
several labels (Zhang et al. 2023, arXiv 2303.01037). The paper normalizes inputs over its data set;
here each vector is normalized by itself, unless it is said to be normalized already.

Nothing is learned and there is no gradient to the input. Projection and directions are drawn from
the seed, the same on every rank, and kept in the checkpoint.
"""

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook, full_precision, need_finite
from mezzotint.codebooks.gradient import unit
from mezzotint.codebooks.kmeans import k_nearest
from mezzotint.codebooks.kmeans import nearest as nearest_code
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Codes


class RandomProjection(Codebook):
    """Fixed random books, side by side: a level each. `quantized` and `decode` give their directions one after another.

    Args:
        dim: width of the vectors.
        num_codes: directions of each book, 2 or more.
        num_books: labels for one vector.
        code_dim: width of the projection.
        normalize: scale each vector to mean 0 and variance 1 over its channels first.
        seed: of projections and directions.
    """

    projections: Tensor
    directions: Tensor

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 8192,
        num_books: int = 1,
        code_dim: int = 16,
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, num_codes, num_books, num_books * code_dim)
        if code_dim < 1:
            raise ValueError(f"got code_dim={code_dim}; allowed is 1 or more: the paper's is 16")
        self.code_dim, self.normalize = code_dim, normalize
        reach = (6.0 / (dim + code_dim)) ** 0.5
        uniform = Draws(torch.arange(num_books), key_of(seed, "projection")).uniform(
            "xavier", code_dim, dim
        )
        normal = Draws(torch.arange(num_books), key_of(seed, "directions")).normal(
            "sphere", num_codes, code_dim
        )
        self.register_buffer("projections", (2.0 * uniform - 1.0) * reach)
        self.register_buffer("directions", unit(normal))

    @torch.no_grad()
    def forward(self, z: Tensor) -> Codes:
        """Codes of vectors; see `Codebook.forward`. No gradient, and loss 0."""
        with full_precision(z):
            projected = self._project(z)
            found = [
                nearest_code(p, book, on_sphere=True)[0]
                for p, book in zip(projected, self.directions, strict=True)
            ]
            usage = projected.new_zeros(self.num_levels, self.num_codes)
            for row, chosen in zip(usage, found, strict=True):
                row.index_add_(0, chosen, row.new_ones(1).expand(len(chosen)))
            indices = torch.stack(found, 1).view(*z.shape[:-1], self.num_levels)
            quantized = self.decode(indices)
            codes = quantized.view(-1, self.num_levels, self.code_dim).transpose(0, 1)
            left = (projected - codes).square().sum((1, 2))
            residual = left / projected.square().sum((1, 2)).clamp_min(1e-30)
        return Codes(quantized.to(z.dtype), indices, left.new_zeros(()), usage, residual)

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Directions of the first s books, one after another: float32 `[…, s · code_dim]` of whole numbers `[…, s]`."""
        self._check_indices(indices)
        levels = indices.long().unbind(-1)
        return torch.cat(
            [book[chosen] for book, chosen in zip(self.directions, levels, strict=False)], -1
        )

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest directions of each book, and squared distances between directions: `[…, S, k]`."""
        self._check_k(k)
        with full_precision(z):
            pairs = zip(self._project(z), self.directions, strict=True)
            found = [k_nearest(projected, book, k, on_sphere=True) for projected, book in pairs]
        shape = (*z.shape[:-1], self.num_levels, k)
        indices, distances = (
            torch.stack(parts, 1).view(shape) for parts in zip(*found, strict=True)
        )
        return indices, distances

    def _project(self, z: Tensor) -> Tensor:
        """Directions `[S, N, code_dim]`."""
        x = self._rows(z)
        need_finite(x.isfinite().all())
        x = torch.nn.functional.layer_norm(x, (self.dim,)) if self.normalize else x
        return unit(torch.einsum("nd,scd->snc", x, self.projections))
