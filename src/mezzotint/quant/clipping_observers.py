"""Observers that clip: what to give up at the ends so that the rest is represented more finely.

Each collects a histogram, so one collection answers for every width and grid, costs bounded memory,
and is exactly the same on several processes as on one. Searches try candidates one after the other,
all rows at once, and wait for no device; they need neither a second pass over the data nor
processes of their own.
"""

from typing import Literal

import torch
from torch import Tensor

from mezzotint.quant.grid import SYMMETRIC, Bits, Scheme, make_grid
from mezzotint.quant.histogram import Histogram
from mezzotint.quant.observers import Observer

Tails = Literal["magnitude", "both"]
_CANDIDATES = 80
_LEVELS = 256
_COARSELY = [
    2.0 ** (-place / 6) for place in range(61)
]  # to a thousandth: one outlier may be that far away
_FINELY = [2.0 ** (place / 48) for place in range(-7, 8) if place]
_ENDS = [(True, True), (False, True), (True, False)]
_COARSE = 2048  # in finer bins the divergence would measure the noise of the sample


class _Binned:
    """Mixed into an observer that reads a histogram."""

    histogram: Histogram
    seen: bool

    def reset(self) -> None:
        """Forget the values."""
        self.seen = False
        self.histogram.reset()

    def update(self, rows: Tensor) -> None:
        """Count the values."""
        self.histogram.update(rows)
        self.seen = True

    def synchronize(self) -> None:
        """Add up the counts of all ranks."""
        self.histogram.synchronize()

    def _extremes(self) -> tuple[Tensor, Tensor]:
        return self.histogram.extremes.low, self.histogram.extremes.high


class Percentile(_Binned, Observer):
    """Leaves a fixed share of the values outside the range.

    The share is counted to one bin of the histogram, and at most that share is left out.

    Args:
        alpha: share of the values left outside.
        tails: `"magnitude"` clips the largest magnitudes, as SSQL's source does; `"both"` clips
            half of the share at either end, for distributions that are not centered at 0.
    """

    def __init__(self, *, alpha: float = 1e-4, tails: Tails = "magnitude") -> None:
        if not 0.0 <= alpha < 1.0:
            raise ValueError(f"got alpha={alpha}; allowed is 0 to below 1: choose 1e-4")
        super().__init__()
        self.alpha, self.tails, self.histogram = alpha, tails, Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """Whatever the grid."""
        low, high = self._extremes()
        values, counts = self.histogram.points()
        half = self.histogram.width / 2
        if self.tails == "magnitude":
            bound = _quantile(values.abs(), counts, 1.0 - self.alpha) + half
            return torch.maximum(low, -bound), torch.minimum(high, bound)
        lower = -_quantile(-values, counts, 1.0 - self.alpha / 2) - half
        upper = _quantile(values, counts, 1.0 - self.alpha / 2) + half
        return torch.maximum(low, lower), torch.minimum(high, upper)


def _quantile(values: Tensor, counts: Tensor, share: float) -> Tensor:
    """The least value at or below which this share of the counts lies: `[R, P]` → `[R, 1]`."""
    values, order = values.sort(dim=1)
    below = counts.gather(1, order).cumsum(1)
    wanted = (below[:, -1:].double() * share).ceil().long()
    return values.gather(1, (below < wanted).sum(1, keepdim=True).clamp_max(values.shape[1] - 1))


class MSE(_Binned, Observer):
    """The range whose grid represents the values with the least error.

    Candidates are the extremes shrunk by one factor, from 1 to 1/1024, first in steps of 12 % and
    then of 1.5 %. Where the grid is asymmetric, the upper and then the lower end is searched once
    more by itself, since a rectifier's two ends have nothing to do with each other.

    Differs from SSQL's source, which takes the first batch only, an error of power 2.4, and a
    search by thirds that presumes a single minimum.

    Args:
        norm: power of the error: 2, or 2.4, which minds large errors more.
    """

    def __init__(self, *, norm: float = 2.0) -> None:
        if norm < 1.0:
            raise ValueError(f"got norm={norm}; allowed is 1 or more: choose 2, or 2.4")
        super().__init__()
        self.norm, self.histogram = norm, Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """For this grid at this width."""
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
            for factors, around in ((_COARSELY, (first, last)), (_FINELY, None)):
                from_a, from_b = around or (a, b)
                kept_a, kept_b = a, b
                for factor in factors:
                    to_a, to_b = (
                        from_a * factor if lower else kept_a,
                        from_b * factor if upper else kept_b,
                    )
                    tried = error(to_a, to_b)
                    better = tried < best
                    a, b = torch.where(better, to_a, a), torch.where(better, to_b, b)
                    best = torch.where(better, tried, best)
        return torch.where(finite, a, low), torch.where(finite, b, high)


class Entropy(_Binned, Observer):
    """The range that loses the least information: Kullback and Leibler's divergence of before and after.

    TensorRT's calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): clip the histogram,
    adding what is outside to its last bins; merge its bins to the grid's levels; spread each level
    evenly over its bins that were not empty; and compare. Candidates clip magnitudes at 1/16 …
    16/16 of the largest.

    Differs from it and from SSQL's source: those count |x|, so a signed distribution is merged with
    its mirror image and half of the levels stay unused. Here the values keep their signs, and
    levels are the grid's own codes. Values of exactly 0 do not count, since the grid represents
    them exactly and their mass would hide all else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histogram = Histogram()

    @torch.no_grad()
    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """For this grid at this width."""
        low, high = self._extremes()
        values, counts = self.histogram.points(_COARSE)
        counts[:, -1] = 0
        finite = low.isfinite() & high.isfinite()
        first, last = torch.where(finite, low, 0.0), torch.where(finite, high, 0.0)
        largest = torch.maximum(first.abs(), last.abs())
        a, b, best = first, last, torch.full_like(first, torch.inf)
        for place in range(_CANDIDATES, _CANDIDATES // 16 - 1, -1):
            bound = largest * (place / _CANDIDATES)
            to_a, to_b = torch.maximum(first, -bound), torch.minimum(last, bound)
            tried = _divergence(values, counts.to(values.dtype), to_a, to_b, scheme, bits)
            better = tried < best
            a, b = torch.where(better, to_a, a), torch.where(better, to_b, b)
            best = torch.where(better, tried, best)
        return torch.where(finite, a, low), torch.where(finite, b, high)


def _divergence(
    values: Tensor, counts: Tensor, low: Tensor, high: Tensor, scheme: Scheme, bits: Bits
) -> Tensor:
    """Of the clipped histogram from what a grid over `low … high` leaves of it: `[R, P]` → `[R, 1]`."""
    grid = make_grid(scheme, low, high, bits)
    inside = (values >= low) & (values <= high)
    kept = counts * inside
    levels = (grid.codes(values) - grid.low).long().clamp_(0, _LEVELS - 1)
    mass = kept.new_zeros(len(kept), _LEVELS).scatter_add_(1, levels, kept)
    places = kept.new_zeros(len(kept), _LEVELS).scatter_add_(1, levels, (kept > 0.0).to(kept.dtype))
    after = (mass / places.clamp_min(1.0)).gather(1, levels) * (kept > 0.0)
    before = kept.clone()
    first = torch.where(inside, values, torch.inf).argmin(1, keepdim=True)
    last = torch.where(inside, values, -torch.inf).argmax(1, keepdim=True)
    for outside, edge in ((values < low, first), (values > high, last)):
        before.scatter_add_(1, edge, (counts * outside).sum(1, keepdim=True))
    total = counts.sum(1, keepdim=True).clamp_min(1.0)
    p, q = before / total, after / after.sum(1, keepdim=True).clamp_min(1.0)
    least = 0.5 / total  # half a value where the clipped tail fell into a bin that was empty
    return (p * ((p.clamp_min(1e-30)).log() - torch.maximum(q, least).log())).sum(1, keepdim=True)
