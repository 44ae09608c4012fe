"""Observers choose the range that a grid covers, from the values it will meet.

Every observer sees its values as rows `[R, N]`, one row for each range (one for a whole tensor, one
a channel, one a group), so that each is written once for every granularity. What is collected can
be read out for any number of bits, so one pass over the calibration data serves a whole table of
bit-widths.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.quant.grid import Bits, Scheme
from mezzotint.recipe.component import Component


class Observer(nn.Module, Component):
    """Collects values, and says which range to quantize.

    Attributes:
        live: the range is a differentiable function of the values themselves, cheap enough to be
            taken anew at each step; weights then need no stored range.
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
            rows: float `[R, N]`; R never changes. Values that are not finite make the range so, and
                are reported by whoever calibrates.
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


class MomentumMinMax(Observer):
    """An average over time of the extremes of each collection: a range that one odd batch cannot throw.

    What is averaged is the pair of extremes between two resets, exponentially, and a reset does not
    forget the average. The first collection is taken as it is.

    Args:
        momentum: weight of the past, from 0 (the last collection alone, as `MinMax`) to below 1.
    """

    def __init__(self, *, momentum: float = 0.99) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(
                f"got momentum={momentum}; allowed is 0 to below 1: choose 0.99 for a slow average"
            )
        super().__init__()
        self.momentum = momentum
        self.now = MinMax()
        for name in (
            "low",
            "high",
        ):  # kept with the weights, so that a resumed run goes on with the same average
            self.register_buffer(name, torch.full((1, 1), torch.nan))

    def reset(self) -> None:
        """Take the present extremes into the average, and begin a new collection."""
        if self.now.seen:
            self.low, self.high = self._average()
        self.now.reset()
        super().reset()

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Widen the present extremes."""
        self.now.update(rows)
        self.seen = True

    def synchronize(self) -> None:
        """Take the present extremes of all ranks; the averages are then equal too."""
        self.now.synchronize()

    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """The average with the present extremes in it."""
        return self._average()

    def _average(self) -> tuple[Tensor, Tensor]:
        before, now = torch.stack([self.low, self.high]), torch.stack([self.now.low, self.now.high])
        low, high = torch.where(before.isnan(), now, torch.lerp(now, before, self.momentum))
        return low, high

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("low", "high"):  # the number of rows is that of the file
            if f"{prefix}{name}" in state:
                setattr(
                    self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.low.device)
                )
        super()._load_from_state_dict(state, prefix, *args)


class Gaussian(Observer):
    """Mean ± k standard deviations, but never beyond the extremes: what the values would span were they normal.

    Without the extremes the range of a rectified activation would reach far below 0, where there is
    nothing.

    Args:
        sigmas: k. SSQL's source takes 2, which clips 5 % of a normal distribution; 3 clips 0.3 %.
    """

    sums: Tensor

    def __init__(self, *, sigmas: float = 3.0) -> None:
        if sigmas <= 0.0:
            raise ValueError(f"got sigmas={sigmas}; allowed is above 0: choose 3")
        super().__init__()
        self.sigmas = sigmas
        self.extremes = MinMax()
        self.register_buffer("sums", torch.zeros(3, 1, 1, dtype=torch.float64), persistent=False)

    def reset(self) -> None:
        """Forget the moments."""
        super().reset()
        self.extremes.reset()
        self.sums = torch.zeros_like(self.sums)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Add to the count, the sum and the sum of squares; in double precision, so that their difference is safe."""
        self.extremes.update(rows)
        values = rows.double()
        count = torch.full_like(values[:, :1], values.shape[1])
        sums = torch.stack(
            [count, values.sum(1, keepdim=True), values.square().sum(1, keepdim=True)]
        )
        self.sums = self.sums + sums
        self.seen = True

    def synchronize(self) -> None:
        """Add up the moments of all ranks."""
        self.extremes.synchronize()
        if dist.world_size() > 1:
            td.all_reduce(self.sums)

    def range(self, scheme: Scheme, bits: Bits) -> tuple[Tensor, Tensor]:
        """Whatever the grid."""
        count, total, squares = self.sums
        mean = total / count
        reach = self.sigmas * (squares / count - mean.square()).clamp_min(0.0).sqrt()
        low, high = (mean - reach).float(), (mean + reach).float()
        return torch.maximum(low, self.extremes.low), torch.minimum(high, self.extremes.high)
