"""Clipping observers: cut off the tails so that the other values get a finer grid.

Each collects a histogram. One collection then serves every bit-width and grid, takes bounded
memory, and is exactly the same on several processes as on one. A search evaluates its candidates
one after the other, for all rows at once, without waiting for the device and without a second pass
over the data.

The histogram has a bounded size, and its counts do not depend on the order of the values. The width
of a bin is a power of two, and one bin begins at 0. When a larger value arrives, pairs of bins
merge into bins of twice the width, and no bin is split. Histograms of several processes therefore
add up to exactly the histogram of one process. The exponent is chosen on the device, so that
counting never waits for it.

The largest magnitude of a row lies between the middle and the end of its half, so a quarter to a
half of the bins cover the magnitudes from 0 to the largest. The resolution is lower for values far
from 0 with little spread, such as 100 to 101.
"""

import math
from typing import Literal

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.quant.grid import SYMMETRIC, BitWidth, Scheme, make_grid
from mezzotint.quant.observers import MinMax, Observer

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


Tails = Literal["magnitude", "both"]
_CANDIDATES = 80
_LEVELS = 256
# Down to 1/1024 of the extremes: a single outlier may be that far away from the other values.
_COARSE_FACTORS = [2.0 ** (-step / 6) for step in range(61)]
_FINE_FACTORS = [2.0 ** (step / 48) for step in range(-7, 8) if step]
_ENDS = [(True, True), (False, True), (True, False)]
_ENTROPY_BINS = 2048  # in finer bins the divergence would measure the noise of the sample


class _Binned:
    """Mix-in of an observer that reads a histogram."""

    histogram: Histogram
    seen: bool

    def reset(self) -> None:
        self.seen = False
        self.histogram.reset()

    def update(self, rows: Tensor) -> None:
        self.histogram.update(rows)
        self.seen = True

    def synchronize(self) -> None:
        """Add up the counts of all ranks."""
        self.histogram.synchronize()

    def _extremes(self) -> tuple[Tensor, Tensor]:
        return self.histogram.extremes.low, self.histogram.extremes.high


class Percentile(_Binned, Observer):
    """Clip a fixed fraction of the values.

    The fraction is exact to one bin of the histogram and never larger than `alpha`.

    Args:
        alpha: fraction of the values outside the range.
        tails: `"magnitude"` clips the largest magnitudes, as SSQL's source does; `"both"` clips
            half of the fraction at either end, for distributions that are not centered at 0.
    """

    def __init__(self, *, alpha: float = 1e-4, tails: Tails = "magnitude") -> None:
        if not 0.0 <= alpha < 1.0:
            raise ValueError(f"`alpha` must be at least 0 and below 1, got {alpha}. Try 1e-4.")
        super().__init__()
        self.alpha, self.tails, self.histogram = alpha, tails, Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Return the clipped range; it does not depend on the grid."""
        low, high = self._extremes()
        values, counts = self.histogram.points()
        half = self.histogram.width / 2
        if self.tails == "magnitude":
            bound = _quantile(values.abs(), counts, 1.0 - self.alpha) + half
            return torch.maximum(low, -bound), torch.minimum(high, bound)
        lower = -_quantile(-values, counts, 1.0 - self.alpha / 2) - half
        upper = _quantile(values, counts, 1.0 - self.alpha / 2) + half
        return torch.maximum(low, lower), torch.minimum(high, upper)


def _quantile(values: Tensor, counts: Tensor, fraction: float) -> Tensor:
    """Return the smallest value with this fraction of the counts at or below it, `[R, 1]`."""
    values, order = values.sort(dim=1)
    below = counts.gather(1, order).cumsum(1)
    target = (below[:, -1:].double() * fraction).ceil().long()
    return values.gather(1, (below < target).sum(1, keepdim=True).clamp_max(values.shape[1] - 1))


class MSE(_Binned, Observer):
    """Choose the range with the smallest quantization error.

    Candidates are the extremes shrunk by one factor, from 1 to 1/1024, first in steps of 12 % and
    then of 1.5 %. On asymmetric grids the upper and then the lower end is searched again on its
    own, since the two ends of a ReLU or GELU output are unrelated.

    Differs from SSQL's source, which uses the first batch only, an error of power 2.4, and a
    ternary search that assumes a single minimum.

    Args:
        norm: exponent of the error: 2, or 2.4, which weighs large errors more.
    """

    def __init__(self, *, norm: float = 2.0) -> None:
        if norm < 1.0:
            raise ValueError(f"`norm` must be at least 1, got {norm}. Try 2 or 2.4.")
        super().__init__()
        self.norm, self.histogram = norm, Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Search the range for this grid and these bits."""
        low, high = self._extremes()
        values, counts = self.histogram.points()
        weights = counts.to(values.dtype)

        def error(a: Tensor, b: Tensor) -> Tensor:
            distance = make_grid(scheme, a, b, bits).quantize(values) - values
            powered = distance.square() if self.norm == 2.0 else distance.abs().pow(self.norm)
            return (powered * weights).sum(1, keepdim=True)

        finite = low.isfinite() & high.isfinite()
        first, last = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
        a, b = first, last
        best = error(a, b)
        for lower, upper in _ENDS[:1] if scheme in SYMMETRIC else _ENDS:
            for factors, around in ((_COARSE_FACTORS, (first, last)), (_FINE_FACTORS, None)):
                from_a, from_b = around or (a, b)
                kept_a, kept_b = a, b
                for factor in factors:
                    to_a, to_b = (
                        from_a * factor if lower else kept_a,
                        from_b * factor if upper else kept_b,
                    )
                    candidate = error(to_a, to_b)
                    better = candidate < best
                    a, b = torch.where(better, to_a, a), torch.where(better, to_b, b)
                    best = torch.where(better, candidate, best)
        return torch.where(finite, a, low), torch.where(finite, b, high)


class Entropy(_Binned, Observer):
    """Choose the range with the smallest KL divergence between the histograms before and after.

    TensorRT's calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): clip the histogram
    and add the clipped counts to its last bins, merge the bins to the grid's levels, spread each
    level evenly over its non-empty bins, and compare. Candidates clip magnitudes at 1/16 … 16/16 of
    the largest.

    Differs from TensorRT and SSQL's source, which count |x|: a signed distribution is then merged
    with its mirror image, and half of the levels stay unused. Here values keep their signs, and the
    levels are the grid's own codes. Values of exactly 0 are left out, since the grid represents
    them exactly and their mass would hide all other values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histogram = Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Search the range for this grid and these bits."""
        low, high = self._extremes()
        values, counts = self.histogram.points(_ENTROPY_BINS)
        counts[:, -1] = 0
        finite = low.isfinite() & high.isfinite()
        first, last = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
        largest = torch.maximum(first.abs(), last.abs())
        a, b, best = first, last, torch.full_like(first, torch.inf)
        for step in range(_CANDIDATES, _CANDIDATES // 16 - 1, -1):
            bound = largest * (step / _CANDIDATES)
            to_a, to_b = torch.maximum(first, -bound), torch.minimum(last, bound)
            candidate = _divergence(values, counts.to(values.dtype), to_a, to_b, scheme, bits)
            better = candidate < best
            a, b = torch.where(better, to_a, a), torch.where(better, to_b, b)
            best = torch.where(better, candidate, best)
        return torch.where(finite, a, low), torch.where(finite, b, high)


def _divergence(
    values: Tensor, counts: Tensor, low: Tensor, high: Tensor, scheme: Scheme, bits: BitWidth
) -> Tensor:
    """Return the KL divergence of the clipped histogram from its quantized version, `[R, 1]`."""
    grid = make_grid(scheme, low, high, bits)
    inside = (values >= low) & (values <= high)
    kept = counts * inside
    levels = (grid.codes(values) - grid.low).long().clamp_(0, _LEVELS - 1)
    mass = kept.new_zeros(len(kept), _LEVELS).scatter_add_(1, levels, kept)
    filled = kept.new_zeros(len(kept), _LEVELS).scatter_add_(1, levels, (kept > 0.0).to(kept.dtype))
    after = (mass / filled.clamp_min(1.0)).gather(1, levels) * (kept > 0.0)
    before = kept.clone()
    first = torch.where(inside, values, torch.inf).argmin(1, keepdim=True)
    last = torch.where(inside, values, -torch.inf).argmax(1, keepdim=True)
    for outside, edge in ((values < low, first), (values > high, last)):
        before.scatter_add_(1, edge, (counts * outside).sum(1, keepdim=True))
    total = counts.sum(1, keepdim=True).clamp_min(1.0)
    p, q = before / total, after / after.sum(1, keepdim=True).clamp_min(1.0)
    # Half a count where the clipped tail was added to an empty bin, so that the log is finite.
    least = 0.5 / total
    return (p * ((p.clamp_min(1e-30)).log() - torch.maximum(q, least).log())).sum(1, keepdim=True)
