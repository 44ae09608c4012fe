"""Levels of a quantizer: from fractions to thresholds and values of rows, and the lookup.

`Levels` turns fractions, random or even, into thresholds and values of rows. The fractions do not
depend on the data, so they can be drawn before the data is read, stored, and applied again.

`look_up` computes `y = values[number of thresholds ≤ x]` in one of three ways, which are equal bit
for bit (`tests/augment/randomized_quantization/test_levels.py` compares them):

* *Search and gather*, on the whole tensor: on a GPU, and for many levels.
* *Steps*: a loop over the thresholds, `y = where(x ≥ threshold, value, y)`. `torch.compile` fuses
  it. On a CPU without compilation it uses `ge` into the dtype of `x` and `lerp` with a weight of 0
  or 1, which are exact, and which torch vectorizes. Torch does not vectorize comparisons into bool,
  `where`, `searchsorted` and `gather`, which take from 4 to over 100 times as long.
* *Snaps*, for uint8 on a CPU. The 256 values form a ring. Rotated so that an edge is at 0, the bin
  on its left ends at 255 and the bin on its right begins at 0: one minimum and one maximum snap
  both to their values, in place.

On a CPU the rows are processed in chunks that stay in the cache.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_STEP_CHUNK = 1 << 20
_SNAP_CHUNK = 1 << 23
"""Numbers in a chunk: few enough that three arrays of float32, or one of uint8, stay in the cache,
and enough that starting an operation on all threads costs little in comparison."""
_MAX_FUSED = 32
"""Bins up to which a compiled graph unrolls the steps."""
_MAX_STEPS = 96
_MAX_SNAPS = 256
"""Bins up to which a loop over the thresholds is faster than a search."""


def without_branches(rows: Tensor) -> bool:
    """Return whether to avoid branches on data: they break a compiled graph and stall a GPU."""
    return torch.compiler.is_compiling() or rows.device.type != "cpu"


def code_dtype(bins: int) -> torch.dtype:
    """Return the dtype of codes for this number of bins."""
    return torch.uint8 if bins <= 256 else torch.int32


def look_up(
    rows: Tensor, thresholds: Tensor, values: Tensor, return_codes: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the value of each number in `rows`, and on request its index (`code_dtype`).

    Args:
        rows: numbers `[R, S]`, contiguous. NaN gets any of the values.
        thresholds: thresholds `[R, k − 1]`, ascending, infinite if unused; in float32 or float64
            as `rows` needs, and whole numbers if `rows` are integers.
        values: values `[R, k]`, ascending, of the same dtype.
        return_codes: whether to return indices.
    """
    if without_branches(rows):
        fused = torch.compiler.is_compiling() and values.shape[1] <= _MAX_FUSED
        y, codes = (_fused_steps if fused else _search)(rows, thresholds, values)
        return y, codes if return_codes else None
    return _in_chunks(rows, thresholds, values, return_codes)


def _search(rows: Tensor, thresholds: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Look levels up by search and gather."""
    codes = torch.searchsorted(thresholds, rows.to(values.dtype), right=True)
    return values.gather(1, codes).to(rows.dtype), codes.to(code_dtype(values.shape[1]))


def _fused_steps(rows: Tensor, thresholds: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Look levels up by steps that a compiler fuses."""
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
    """Look levels up in chunks that stay in the cache, by the fastest way for their dtype."""
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
            y[part], indices = _search(rows[part], thresholds[part], values[part])
            if codes is not None:
                codes[part] = indices
    return y, codes


def _step(
    rows: Tensor, thresholds: Tensor, values: Tensor, out: Tensor, codes: Tensor | None
) -> None:
    """Look levels up by steps, see the module's docstring."""
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
    """Look levels up on the ring of uint8, see the module's docstring."""
    inner = thresholds.clamp(max=256).to(torch.int32)
    edges = torch.cat(
        [torch.zeros_like(inner[:, :1]), inner, torch.full_like(inner[:, :1], 256)], dim=1
    )
    left, right, value = edges[:, :-1], edges[:, 1:], values.to(torch.int32)
    filled = left < right  # an empty bin has nothing to snap
    floors = torch.where(filled, value - left, 0).to(torch.uint8).T.unsqueeze(2)
    # −1 is 255 on the ring.
    caps = torch.where(filled, value - right, -1).to(torch.uint8).T.unsqueeze(2)
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
    """Levels of R rows, as fractions of a range.

    Attributes:
        bins: number of bins k.
        edges: edges as fractions of the row's range, `[R, k − 1]`, in any order; None for evenly
            spaced edges.
        values: values as fractions of their bins, `[R, k]`; None for the midpoints.
        counts: number of bins of each row, at most k, int `[R]`; None if all have k.
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

    def scaled(self, low: Tensor, high: Tensor, integral: bool) -> tuple[Tensor, Tensor]:
        """Return thresholds `[R, k − 1]`, ascending, and values `[R, k]` for the rows' ranges.

        Args:
            low: smallest number of each row, `[R, 1]`, in the dtype of the computation.
            high: largest number of each row, `[R, 1]`.
            integral: whether rows hold integers; thresholds and values are whole numbers then.
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
        if self.reference:  # the published code multiplies a float32 step
            step = torch.full((), 1 / self.bins, dtype=torch.float32, device=low.device)
            return (steps * step).to(low.dtype).expand(len(low), -1)
        return (steps / self.bins).to(low.dtype).expand(len(low), -1)


def _between(left: Tensor, right: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate from `left` to `right`, never outside, even if `right − left` overflows."""
    span = right - left
    point = torch.where(
        span.isinf(), left * (1 - fraction) + right * fraction, left + fraction * span
    )
    return torch.minimum(point, right)
