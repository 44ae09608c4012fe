"""Where the levels of a quantizer lie: from fractions, drawn or even, to the thresholds and values of rows.

The fractions do not depend on the data, so that they can be drawn before it is seen, kept, and applied again.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Where the levels of rows lie, as fractions of what is to be divided.

    Attributes:
        bins: number of bins k.
        edges: `[R, k − 1]`, each edge as a fraction of its row's range, in any order; None for evenly spaced edges.
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
        edges, values, counts = (None if t is None else t[rows] for t in (self.edges, self.values, self.counts))
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
    point = torch.where(span.isinf(), left * (1 - fraction) + right * fraction, left + fraction * span)
    return torch.minimum(point, right)
