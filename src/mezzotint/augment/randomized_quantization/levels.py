"""Looking levels up: `y = values[number of thresholds ≤ x]`, for rows with thresholds and values of their own.

There are three ways, equal bit for bit; `tests/augment/test_level_lookup.py` holds them against
each other.

* *Search and gather*, on the whole tensor: on a GPU, and for many levels.
* *Steps*: a pass over the thresholds, `y = where(x ≥ threshold, value, y)`. `torch.compile` makes
  one loop of them. On a CPU without it they are written with `ge` into the dtype of `x` and `lerp`
  with a weight of 0 or 1, which are exact, and which torch vectorizes; comparisons into bool,
  `where`, `searchsorted` and `gather` it does not, and they take from 4 to over 100 times as long.
* *Snaps*, for uint8 on a CPU. The 256 values are a ring. Rotated so that an edge lies at 0, the bin
  on its left ends at 255 and the bin on its right begins at 0: one minimum and one maximum snap
  both to their values, in place.

On a CPU the rows are taken in chunks that stay in the cache.

Where the levels of a quantizer lie: from fractions, drawn or even, to the thresholds and values of
rows.

The fractions do not depend on the data, so that they can be drawn before it is seen, kept, and
applied again.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_STEP_CHUNK = 1 << 20
_SNAP_CHUNK = 1 << 23
"""Numbers in a chunk: so few that three arrays of float32, or one of uint8, stay in the cache, and so many that
starting an operation on all threads costs little beside it."""
_MAX_FUSED = 32
"""Bins up to which a compiled graph spells the steps out."""
_MAX_STEPS = 96
_MAX_SNAPS = 256
"""Bins up to which passes over the thresholds are faster than a search."""


def without_branches(rows: Tensor) -> bool:
    """Whether to stay clear of choices that depend on data: they cut a compiled graph, and make a GPU wait."""
    return torch.compiler.is_compiling() or rows.device.type != "cpu"


def code_dtype(bins: int) -> torch.dtype:
    """The dtype of codes of so many bins."""
    return torch.uint8 if bins <= 256 else torch.int32


def look_up(
    rows: Tensor, thresholds: Tensor, values: Tensor, return_codes: bool
) -> tuple[Tensor, Tensor | None]:
    """Values, and on request their indices (`code_dtype`), of the numbers in `rows`.

    Args:
        rows: `[R, S]`, contiguous. NaN gets any of the values.
        thresholds: `[R, k − 1]`, ascending, infinite where unused; in float32 or float64 as `rows`
            needs, and integers if `rows` are.
        values: `[R, k]`, ascending, of the same dtype.
        return_codes: whether indices are wanted.
    """
    if without_branches(rows):
        fused = torch.compiler.is_compiling() and values.shape[1] <= _MAX_FUSED
        y, codes = (_fused_steps if fused else _search)(rows, thresholds, values)
        return y, codes if return_codes else None
    return _in_chunks(rows, thresholds, values, return_codes)


def _search(rows: Tensor, thresholds: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Search and gather."""
    codes = torch.searchsorted(thresholds, rows.to(values.dtype), right=True)
    return values.gather(1, codes).to(rows.dtype), codes.to(code_dtype(values.shape[1]))


def _fused_steps(rows: Tensor, thresholds: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Steps for a compiler to fuse."""
    x = rows.to(values.dtype)
    y, codes = values[:, :1].expand_as(x), torch.zeros_like(x, dtype=code_dtype(values.shape[1]))
    for step in range(thresholds.shape[1]):
        passed = x >= thresholds[:, step : step + 1]
        y = torch.where(passed, values[:, step + 1 : step + 2], y)
        codes = codes + passed
    return y.to(rows.dtype), codes


def _in_chunks(
    rows: Tensor, thresholds: Tensor, values: Tensor, return_codes: bool
) -> tuple[Tensor, Tensor | None]:
    """In chunks that stay in the cache, the fastest way for what they hold."""
    y = torch.empty_like(rows)
    codes = torch.empty_like(rows, dtype=code_dtype(values.shape[1])) if return_codes else None
    bins = values.shape[1]
    snap = rows.dtype == torch.uint8 and codes is None and bins <= _MAX_SNAPS
    step = bins <= _MAX_STEPS and bool(
        (values[:, -1] - values[:, 0]).isfinite().all()
    )  # `lerp` takes differences
    length = max(1, (_SNAP_CHUNK if snap else _STEP_CHUNK) // rows.shape[1])
    for start in range(0, len(rows), length):
        part = slice(start, start + length)
        if snap:
            _snap(rows[part], thresholds[part], values[part], y[part])
        elif step:
            _step(
                rows[part],
                thresholds[part],
                values[part],
                y[part],
                None if codes is None else codes[part],
            )
        else:
            y[part], found = _search(rows[part], thresholds[part], values[part])
            if codes is not None:
                codes[part] = found
    return y, codes


def _step(
    rows: Tensor, thresholds: Tensor, values: Tensor, out: Tensor, codes: Tensor | None
) -> None:
    """`codes = number of thresholds ≤ rows; out = values[codes]`, see the module's docstring."""
    x = rows.to(values.dtype)
    y = out if out.dtype == x.dtype else torch.empty_like(x)
    y.copy_(values[:, :1].expand_as(x))
    passed = torch.empty_like(x)
    count = None if codes is None else torch.zeros_like(x)
    for threshold, value in zip(
        thresholds.T.unsqueeze(2), values[:, 1:].T.unsqueeze(2), strict=True
    ):
        torch.ge(x, threshold, out=passed)
        y.lerp_(value, passed)
        if count is not None:
            count.add_(passed)
    if y is not out:
        out.copy_(y)
    if codes is not None and count is not None:
        codes.copy_(count)


def _snap(rows: Tensor, thresholds: Tensor, values: Tensor, out: Tensor) -> None:
    """The same on the ring of uint8, see the module's docstring. An empty bin has nothing to snap."""
    inner = thresholds.clamp(max=256).to(torch.int32)
    edges = torch.cat(
        [torch.zeros_like(inner[:, :1]), inner, torch.full_like(inner[:, :1], 256)], dim=1
    )
    left, right, value = edges[:, :-1], edges[:, 1:], values.to(torch.int32)
    filled = left < right
    floors = torch.where(filled, value - left, 0).to(torch.uint8).T.unsqueeze(2)
    caps = (
        torch.where(filled, value - right, -1).to(torch.uint8).T.unsqueeze(2)
    )  # −1 is 255 on the ring
    turns = (right - left).to(torch.uint8).T.unsqueeze(2)
    torch.maximum(rows, floors[0], out=out)
    torch.minimum(out, caps[-1], out=out)
    for turn, floor, cap in zip(turns[:-1], floors[1:], caps[:-1], strict=True):
        out.sub_(turn)
        torch.maximum(out, floor, out=out)
        torch.minimum(out, cap, out=out)
    out.add_(left[:, -1:].to(torch.uint8))


@dataclass(frozen=True)
class Levels:
    """Where the levels of rows lie, as fractions of what is to be divided.

    Attributes:
        bins: number of bins k.
        edges: `[R, k − 1]`, each edge as a fraction of its row's range, in any order; None for
            evenly spaced edges.
        values: `[R, k]`, each value as a fraction of its bin; None for the midpoints.
        counts: int `[R]`, number of bins of each row, at most k; None if all have k.
        reference: the last bin ends at max + 1e-6.
    """

    bins: int
    edges: Tensor | None = None
    values: Tensor | None = None
    counts: Tensor | None = None
    reference: bool = False

    def __getitem__(self, rows: Any) -> "Levels":
        edges, values, counts = (
            None if t is None else t[rows] for t in (self.edges, self.values, self.counts)
        )
        return replace(self, edges=edges, values=values, counts=counts)

    def place(self, low: Tensor, high: Tensor, integral: bool) -> tuple[Tensor, Tensor]:
        """Thresholds `[R, k − 1]`, ascending, and values `[R, k]` of rows with the ranges `low`, `high` `[R, 1]`.

        Args:
            low: smallest number of each row, in the dtype to compute in.
            high: largest number of each row.
            integral: the rows hold integers, so thresholds and values are integers too.
        """
        thresholds = _between(low, high, self._edge_fractions(low))
        if self.counts is not None:  # a threshold at infinity is never reached
            unused = torch.arange(1, self.bins, device=low.device) >= self.counts.unsqueeze(1)
            thresholds = thresholds.masked_fill(unused, torch.inf)
        thresholds = thresholds.sort(dim=1).values
        bounds = torch.minimum(thresholds, high)
        left = torch.cat([low, bounds], dim=1)
        right = torch.cat([bounds, high + 1e-6 if self.reference else high], dim=1)
        if self.values is None:
            values = 0.5 * left + 0.5 * right
        else:
            values = _between(left, right, self.values.to(low.dtype))
        if integral:
            thresholds = thresholds.ceil()
            last = torch.cat([torch.minimum(thresholds - 1, high), high], dim=1)
            values = values.round().clamp(torch.cat([low, thresholds], dim=1), last)
        return thresholds, values

    def _edge_fractions(self, low: Tensor) -> Tensor:
        if self.edges is not None:
            return self.edges.to(low.dtype)
        steps = torch.arange(1, self.bins, device=low.device, dtype=torch.float64)
        if self.counts is not None:
            return (steps / self.counts.unsqueeze(1)).to(low.dtype)
        if self.reference:  # it multiplies a float32 step
            step = torch.tensor(1 / self.bins, dtype=torch.float32, device=low.device)
            return (steps * step).to(low.dtype).expand(len(low), -1)
        return (steps / self.bins).to(low.dtype).expand(len(low), -1)


def _between(left: Tensor, right: Tensor, fraction: Tensor) -> Tensor:
    """The point at `fraction` of the way, never outside, even where `right − left` rounds or overflows."""
    span = right - left
    point = torch.where(
        span.isinf(), left * (1 - fraction) + right * fraction, left + fraction * span
    )
    return torch.minimum(point, right)
