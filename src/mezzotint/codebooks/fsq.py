"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505): a grid instead of a codebook.

Each of a few channels is bounded and rounded to a few levels; a code is their combination. So
nothing is learned, no code can die, and no loss is needed. The bound and the order of codes are the
paper's (appendix A.1, first channel fastest). With an even number of levels the grid is half a step
off center, so that 0 is a level.
"""

import math

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook, full_precision
from mezzotint.codebooks.kmeans import k_nearest
from mezzotint.quant.grid import round_ste
from mezzotint.types import Codes

_SLACK = 1e-3
"""The bound is this fraction beyond the last level, so that rounding can reach it."""


class FSQ(Codebook):
    """Round each of a few channels to a grid; `dim` is the number of channels.

    Args:
        levels: number of values of each channel, 3 or more; K is their product. The paper's
            (8, 5, 5, 5) give 1000 codes.
    """

    sizes: Tensor
    steps: Tensor

    def __init__(self, *, levels: tuple[int, ...] = (8, 5, 5, 5)) -> None:
        # With 2 levels the bound would map all values above −3.8 to one of them.
        if not levels or min(levels) < 3:
            raise ValueError(
                f"`levels` must be one or more numbers of at least 3, got {levels}. "
                "Try (8, 5, 5, 5)."
            )
        super().__init__(len(levels), math.prod(levels))
        self.levels = tuple(levels)
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        steps = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    def forward(self, z: Tensor) -> Codes:
        """Encode vectors; the loss is 0, and the residual is relative to the bounded vectors."""
        with full_precision(z):
            bounded = self._bound(self._rows(z))
            rounded = round_ste(bounded)
            whole = rounded.detach()
            residual, energy = (
                (whole - bounded.detach()).square().sum(),
                bounded.detach().square().sum(),
            )
            if not self.learning:
                self._need_finite(residual.isfinite())
            indices = ((whole.nan_to_num() + self.sizes // 2).long() * self.steps).sum(1)
            usage = whole.new_zeros(self.num_codes).index_add_(
                0, indices, whole.new_ones(1).expand(len(whole))
            )
            quantized = rounded / (self.sizes // 2)
        return Codes(
            quantized.to(z.dtype).view(z.shape),
            indices.view(*z.shape[:-1], 1),
            residual * 0.0,  # NaN if a vector is not finite, which the training loop detects
            usage.unsqueeze(0),
            (residual / energy.clamp_min(1e-30)).unsqueeze(0),
        )

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Return points of the grid, each channel in [−1, 1]: `[…, 1]` → float32 `[…, D]`."""
        self._check_indices(indices)
        return self._points(indices.long()) / (self.sizes // 2)

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest points, and squared distances in steps of the grid, `[…, 1, k]`."""
        self._check_k(k)
        with full_precision(z):
            bounded = self._bound(self._rows(z))
            self._need_finite(bounded.isfinite().all())
            grid = self._points(torch.arange(self.num_codes, device=z.device).unsqueeze(1))
            indices, distances = k_nearest(bounded, grid, k)
        shape = (*z.shape[:-1], 1, k)
        return indices.view(shape), distances.view(shape)

    def _points(self, indices: Tensor) -> Tensor:
        """Return grid points as whole numbers around 0, `[…, 1]` → float32 `[…, D]`."""
        return (
            torch.div(indices, self.steps, rounding_mode="floor") % self.sizes - self.sizes // 2
        ).float()

    def _bound(self, x: Tensor) -> Tensor:
        half = (self.sizes - 1) * (1.0 + _SLACK) / 2.0
        offset = (1 - self.sizes % 2) * 0.5
        return (x + (offset / half).atanh()).tanh() * half - offset
