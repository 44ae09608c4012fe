"""Observers choose the range that a grid covers, from the values it will meet.

Every observer sees its values as rows `[R, N]`, one row for each range (one for a whole tensor, one a channel, one a
group), so that each is written once for every granularity. What is collected can be read out for any number of bits,
so one pass over the calibration data serves a whole table of bit-widths.
"""

from typing import ClassVar

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.component import Component
from mezzotint.quant.grid import Bits, Scheme


class Observer(nn.Module, Component):
    """Collects values, and says which range to quantize.

    Attributes:
        live: the range is a differentiable function of the values themselves, cheap enough to be taken anew at each
            step; weights then need no stored range.
    """

    live: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def reset(self) -> None:
        """Forget what was collected."""
        self.seen = False

    def update(self, rows: Tensor) -> None:
        """Collect values.

        Args:
            rows: float `[R, N]`; R never changes. Values that are not finite make the range so, and are reported by
                whoever calibrates.
        """
        raise TypeError(f"{type(self).__name__} has no update")

    def synchronize(self) -> None:
        """Pool what the ranks have collected; all of them call it together. Nothing to do on one process."""
        raise TypeError(f"{type(self).__name__} has no synchronize")

    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """Least and greatest value to be represented, each `[R, 1]`.

        Args:
            scheme: of the grid.
            bits: of the grid.
        """
        raise TypeError(f"{type(self).__name__} has no range")


class MinMax(Observer):
    """The least and the greatest value since the last reset: the papers' protocol."""

    live: ClassVar[bool] = True
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.full((1, 1), torch.inf), persistent=False)
        self.register_buffer("high", torch.full((1, 1), -torch.inf), persistent=False)

    def reset(self) -> None:
        """Forget the extremes."""
        super().reset()
        self.low = torch.full_like(self.low, torch.inf)
        self.high = torch.full_like(self.high, -torch.inf)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Widen the range to hold these values."""
        low, high = self.of(rows)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.seen = True

    def synchronize(self) -> None:
        """Take the extremes of all ranks."""
        if dist.world_size() > 1:
            both = torch.stack([-self.low, self.high])
            td.all_reduce(both, td.ReduceOp.MAX)
            self.low, self.high = -both[0], both[1]

    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """The extremes, whatever the grid."""
        return self.low, self.high

    @staticmethod
    def of(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Extremes of each row, differentiable: `[R, N]` → two of `[R, 1]`."""
        return rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)
