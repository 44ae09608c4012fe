"""Observers: collect values and choose the range that a grid covers.

Values arrive as rows `[R, N]`, one row for each range (per tensor, per channel or per group), so
that each observer is written once for every granularity. The range can be read for any number of
bits, so one pass over the calibration data serves a whole table of bit-widths.
"""

from typing import Any, ClassVar

import torch
import torch.distributed as td
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.quant.grid import BitWidth, Scheme
from mezzotint.recipe.component import Component


class Observer(nn.Module, Component):
    """Base of all observers.

    Attributes:
        dynamic: whether the range is a differentiable function of the values that is cheap enough
            to compute at each step; weights then need no saved range.
    """

    dynamic: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.seen = False

    def reset(self) -> None:
        """Forget the collected values, so that the next batch starts a new range."""
        self.seen = False

    def update(self, rows: Tensor) -> None:
        """Collect values.

        Args:
            rows: float `[R, N]`; R never changes. Non-finite values make the range non-finite, and
                calibration reports them.
        """
        raise TypeError(f"{type(self).__name__} has no update")

    def synchronize(self) -> None:
        """Pool the values of all ranks, which call this together; no-op on one process."""
        raise TypeError(f"{type(self).__name__} has no synchronize")

    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Return the smallest and largest value to represent, each `[R, 1]`.

        Args:
            scheme: scheme of the grid.
            bits: bits of the grid.
        """
        raise TypeError(f"{type(self).__name__} has no range")


class MinMax(Observer):
    """Use the smallest and the largest value, as the papers' protocol does."""

    dynamic: ClassVar[bool] = True
    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.full((1, 1), torch.inf), persistent=False)
        self.register_buffer("high", torch.full((1, 1), -torch.inf), persistent=False)

    def reset(self) -> None:
        super().reset()
        self.low = torch.full_like(self.low, torch.inf)
        self.high = torch.full_like(self.high, -torch.inf)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Widen the range to these values."""
        low, high = self.of(rows)
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.seen = True

    def synchronize(self) -> None:
        """Take the extremes of all ranks."""
        if dist.world_size() > 1:
            both = torch.stack([-self.low, self.high])
            td.all_reduce(both, td.ReduceOp.MAX)
            self.low, self.high = -both[0], both[1]

    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Return the extremes; they do not depend on the grid."""
        return self.low, self.high

    @staticmethod
    def of(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the extremes of each row, differentiably: `[R, N]` → two of `[R, 1]`."""
        return rows.amin(dim=1, keepdim=True), rows.amax(dim=1, keepdim=True)


class MomentumMinMax(Observer):
    """Use a moving average of the extremes, which is robust to a single unusual batch.

    The extremes between two resets enter an exponential moving average, which a reset keeps. The
    first extremes initialize the average.

    Args:
        momentum: weight of the past, from 0 (the last extremes alone, as `MinMax`) to below 1.
    """

    def __init__(self, *, momentum: float = 0.99) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(
                f"`momentum` must be at least 0 and below 1, got {momentum}. Try 0.99 for a slow "
                "average."
            )
        super().__init__()
        self.momentum = momentum
        self.now = MinMax()
        # Persistent, so that a resumed run continues with the same average.
        for name in ("low", "high"):
            self.register_buffer(name, torch.full((1, 1), torch.nan))

    def reset(self) -> None:
        """Add the current extremes to the average, and start new ones."""
        if self.now.seen:
            self.low, self.high = self._average()
        self.now.reset()
        super().reset()

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Widen the current extremes to these values."""
        self.now.update(rows)
        self.seen = True

    def synchronize(self) -> None:
        """Pool the current extremes of all ranks, which makes the averages equal too."""
        self.now.synchronize()

    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Return the average, including the current extremes."""
        return self._average()

    def _average(self) -> tuple[Tensor, Tensor]:
        before, now = torch.stack([self.low, self.high]), torch.stack([self.now.low, self.now.high])
        low, high = torch.where(before.isnan(), now, torch.lerp(now, before, self.momentum))
        return low, high

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("low", "high"):  # the checkpoint decides the number of rows
            if f"{prefix}{name}" in state:
                setattr(
                    self, name, torch.empty_like(state[f"{prefix}{name}"], device=self.low.device)
                )
        super()._load_from_state_dict(state, prefix, *args)


class Gaussian(Observer):
    """Use mean ± k standard deviations, but never more than the extremes.

    Without the limit, the range of a ReLU output would reach far below 0, where it has no values.

    Args:
        sigmas: k. SSQL's source uses 2, which clips 5 % of a normal distribution; 3 clips 0.3 %.
    """

    sums: Tensor

    def __init__(self, *, sigmas: float = 3.0) -> None:
        if sigmas <= 0.0:
            raise ValueError(f"`sigmas` must be positive, got {sigmas}. Try 3.")
        super().__init__()
        self.sigmas = sigmas
        self.extremes = MinMax()
        self.register_buffer("sums", torch.zeros(3, 1, 1, dtype=torch.float64), persistent=False)

    def reset(self) -> None:
        super().reset()
        self.extremes.reset()
        self.sums = torch.zeros_like(self.sums)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Add to the count, the sum and the sum of squares."""
        self.extremes.update(rows)
        values = rows.double()  # avoids cancellation in the variance below
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

    def range(self, scheme: Scheme, bits: BitWidth) -> tuple[Tensor, Tensor]:
        """Return the range; it does not depend on the grid."""
        count, total, squares = self.sums
        mean = total / count
        reach = self.sigmas * (squares / count - mean.square()).clamp_min(0.0).sqrt()
        low, high = (mean - reach).float(), (mean + reach).float()
        return torch.maximum(low, self.extremes.low), torch.minimum(high, self.extremes.high)
