"""Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505): a grid in place of a book.

Each of a few channels is bounded and rounded to a handful of levels; a code is the combination, so
nothing is learned, nothing can die, and no loss is needed. The bound and the order of codes are the
paper's (appendix A.1, first channel fastest). With an even number of levels its grid lies half a
step off center, so that 0 is a level.
"""

import math

import torch
from torch import Tensor

from mezzotint.codebooks.codebook import Codebook, full_precision, need_finite
from mezzotint.codebooks.kmeans import k_nearest
from mezzotint.quant.grid import round_ste
from mezzotint.types import Codes

_SLACK = 1e-3
"""The bound lies this share beyond the last level, so that it can be reached."""


class FSQ(Codebook):
    """A grid over a few channels; `dim` is how many.

    Args:
        levels: values of each channel, 3 or more; K is their product. The paper's (8, 5, 5, 5)
            stand for 1000 codes.
    """

    widths: Tensor
    steps: Tensor

    def __init__(self, *, levels: tuple[int, ...] = (8, 5, 5, 5)) -> None:
        if (
            not levels or min(levels) < 3
        ):  # with 2, the bound would put all values above −3.8 on one level
            raise ValueError(
                f"got levels={levels}; allowed are one or more numbers from 3 up: take e.g. (8, 5, 5, 5)"
            )
        super().__init__(len(levels), math.prod(levels))
        self.levels = tuple(levels)
        self.register_buffer("widths", torch.tensor(levels), persistent=False)
        steps = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("steps", torch.tensor(steps), persistent=False)

    def forward(self, z: Tensor) -> Codes:
        """Codes of vectors; see `Codebook.forward`. The loss is 0, and the residual is that of the bounded vectors."""
        with full_precision(z):
            bounded = self._bound(self._rows(z))
            rounded = round_ste(bounded)
            whole = rounded.detach()
            left, energy = (
                (whole - bounded.detach()).square().sum(),
                bounded.detach().square().sum(),
            )
            if not self.learning:
                need_finite(left.isfinite())
            indices = ((whole.nan_to_num() + self.widths // 2).long() * self.steps).sum(1)
            usage = whole.new_zeros(self.num_codes).index_add_(
                0, indices, whole.new_ones(1).expand(len(whole))
            )
            quantized = rounded / (self.widths // 2)
        return Codes(
            quantized.to(z.dtype).view(z.shape),
            indices.view(*z.shape[:-1], 1),
            left * 0.0,
            usage.unsqueeze(0),
            (left / energy.clamp_min(1e-30)).unsqueeze(0),
        )

    @torch.no_grad()
    def decode(self, indices: Tensor) -> Tensor:
        """Points of the grid, each channel in [−1, 1]: float32 `[…, D]` of whole numbers `[…, 1]`."""
        self._check_indices(indices)
        return self._points(indices.long()) / (self.widths // 2)

    @torch.no_grad()
    def nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest points of the grid, and squared distances in steps of the grid: `[…, 1, k]`, nearest first."""
        self._check_k(k)
        with full_precision(z):
            bounded = self._bound(self._rows(z))
            need_finite(bounded.isfinite().all())
            grid = self._points(torch.arange(self.num_codes, device=z.device).unsqueeze(1))
            indices, distances = k_nearest(bounded, grid, k)
        shape = (*z.shape[:-1], 1, k)
        return indices.view(shape), distances.view(shape)

    def _points(self, indices: Tensor) -> Tensor:
        """Whole numbers around 0, float32 `[…, D]`, of indices `[…, 1]`."""
        return (
            torch.div(indices, self.steps, rounding_mode="floor") % self.widths - self.widths // 2
        ).float()

    def _bound(self, x: Tensor) -> Tensor:
        half = (self.widths - 1) * (1.0 + _SLACK) / 2.0
        offset = (1 - self.widths % 2) * 0.5
        return (x + (offset / half).atanh()).tanh() * half - offset
