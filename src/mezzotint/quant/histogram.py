"""Histogram of bounded size whose counts do not depend on the order of the values.

The width of a bin is a power of two, and one bin begins at 0. When a larger value arrives, pairs of
bins merge into bins of twice the width, and no bin is split. Histograms of several processes
therefore add up to exactly the histogram of one process. The exponent is chosen on the device, so
that counting never waits for it.

The largest magnitude of a row lies between the middle and the end of its half, so a quarter to a
half of the bins cover the magnitudes from 0 to the largest. The resolution is lower for values far
from 0 with little spread, such as 100 to 101.
"""

import math

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.quant.observers import MinMax

_MOST, _LEAST, _SHARED = 16384, 2048, 2**19
_ZEROS_ONLY = -100  # exponent of a row without other values; 2^100 is still finite in float32


class Histogram(nn.Module):
    """Count the values of each row.

    One row has 16,384 bins; many rows have fewer, but at least 2,048 (16 kB per row).

    Attributes:
        extremes: exact extremes of all values.
        counts: int64 `[R, bins]`; bin i counts the values in `(i − bins / 2 + [0, 1)) · width`,
            without zeros.
        zeros: int64 `[R, 1]`, number of values that are exactly 0, as half of all activations are.
        exponent: int32 `[R, 1]`; magnitudes are below `2^exponent = width · bins / 2`.
    """

    counts: Tensor
    zeros: Tensor
    exponent: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.extremes = MinMax()
        self.register_buffer("counts", torch.zeros(1, 0, dtype=torch.int64), persistent=False)
        self.register_buffer("zeros", torch.zeros(1, 1, dtype=torch.int64), persistent=False)
        self.register_buffer(
            "exponent", torch.full((1, 1), _ZEROS_ONLY, dtype=torch.int32), persistent=False
        )

    @property
    def bins(self) -> int:
        """Number of bins per row."""
        return self.counts.shape[1]

    def reset(self) -> None:
        self.extremes.reset()
        self.counts = torch.zeros_like(self.counts)
        self.zeros = torch.zeros_like(self.zeros)
        self.exponent = torch.full_like(self.exponent, _ZEROS_ONLY)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Count values, float `[R, N]`; non-finite ones count as zeros and show in the extremes."""
        self.extremes.update(rows)
        if self.counts.shape[0] != rows.shape[0] or self.bins == 0:
            bins = min(_MOST, max(_LEAST, 2 ** int(math.log2(_SHARED / rows.shape[0]))))
            self.counts = torch.zeros(rows.shape[0], bins, dtype=torch.int64, device=rows.device)
            self.zeros = self.zeros.new_zeros(rows.shape[0], 1)
            self.exponent = self.exponent.new_full((rows.shape[0], 1), _ZEROS_ONLY)
        rows = rows.nan_to_num(0.0, 0.0, 0.0)
        largest = torch.frexp(rows.abs().amax(dim=1, keepdim=True)).exponent
        self._widen(
            torch.maximum(
                self.exponent, torch.where(largest == 0, _exponent_of_half(rows), largest)
            )
        )
        half = self.bins // 2
        indices = (rows / self.width).floor_().long().add_(half)
        zero = rows == 0.0
        count = zero.sum(dim=1, keepdim=True)
        self.zeros = self.zeros + count
        self.counts.scatter_add_(1, indices, (~zero).long())

    def _widen(self, exponent: Tensor) -> None:
        """Merge bins until each row's range ends at `2^exponent`."""
        half = self.bins // 2
        shift = (exponent - self.exponent).clamp(0, 62).long()
        merged = (
            torch.arange(-half, half, device=self.counts.device).expand_as(self.counts) >> shift
        )
        self.counts = torch.zeros_like(self.counts).scatter_add_(1, merged + half, self.counts)
        self.exponent = exponent

    def synchronize(self) -> None:
        """Add up the counts of all ranks."""
        self.extremes.synchronize()
        if dist.world_size() > 1:
            exponent = self.exponent.clone()
            td.all_reduce(exponent, td.ReduceOp.MAX)
            self._widen(exponent)
            td.all_reduce(self.counts)
            td.all_reduce(self.zeros)

    def points(self, most: int = _MOST) -> tuple[Tensor, Tensor]:
        """Return the histogram as weighted points: the bin centers, and 0 as the last point.

        Args:
            most: largest number of bins; if there are more, neighbors are merged.

        Returns:
            Values, float32, and counts, int64, each `[R, bins + 1]`.
        """
        merged = max(1, self.bins // most)
        bins = self.bins // merged
        centers = torch.arange(-(bins // 2), bins // 2, device=self.counts.device) + 0.5
        values = centers * (self.width * merged)
        counts = self.counts.view(len(self.counts), bins, merged).sum(2)
        return torch.cat([values, torch.zeros_like(values[:, :1])], 1), torch.cat(
            [counts, self.zeros], 1
        )

    @property
    def width(self) -> Tensor:
        """Width of the bins, `[R, 1]`."""
        return torch.exp2(self.exponent.float()) / (self.bins // 2)


def _exponent_of_half(rows: Tensor) -> Tensor:
    """Distinguish the two cases of `frexp` exponent 0: a magnitude of 0, and one of 0.5 to 1."""
    some = rows.abs().amax(dim=1, keepdim=True) > 0.0
    return torch.where(some, 0, _ZEROS_ONLY).int()
