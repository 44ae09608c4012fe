"""Keep NaN and inf out of a run.

The guard checks the loss and the gradient's norm of *every* step before the optimizer and any
momentum copy use them, or after that where the step can be undone (`train.undo`), so that the state
on disk is always finite.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mezzotint import dist


class NotFinite(RuntimeError):
    """The loss or a gradient was NaN or inf in more steps than the recipe tolerates.

    Args:
        message: what was found, and what to do.
        step: number of steps that are done and that count, if an error of training.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class StepScalars:
    """The scalars of a step on the host.

    Attributes:
        loss: mean over the processes.
        grad_norm: norm of the gradient, before it is clipped.
        moved_finite: whether the state that forward passes move is finite on every process.
        logs: what the method logs, of this process.
    """

    loss: float
    grad_norm: float
    moved_finite: bool
    logs: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether loss, gradient and moved state are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm) and self.moved_finite

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged of the step."""
        return {"loss": self.loss, "grad_norm": self.grad_norm, **self.logs}


class SentScalars:
    """The scalars of a step on their way to the host.

    Args:
        loss: of this process, float `[]`, like all others.
        grad_norm: norm of the gradient, before it is clipped.
        moved_finite: whether what forward passes moved is finite.
        logs: what the method logs.
    """

    def __init__(
        self, loss: Tensor, grad_norm: Tensor, moved_finite: Tensor, logs: Mapping[str, Tensor]
    ) -> None:
        # The loss of any process that is NaN or inf makes the mean NaN or inf on all of them.
        shared = dist.mean(torch.stack([loss.float(), moved_finite.float()]))
        rest = [value.detach().float() for value in (grad_norm, *logs.values())]
        self._names, self._values = tuple(logs), torch.stack([*shared, *rest])
        self._event: torch.cuda.Event | None = None
        if self._values.is_cuda:
            self._values = self._values.to("cpu", non_blocking=True)  # in pinned memory
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> StepScalars:
        """Wait for the scalars: the only time in a step that the host waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        loss, fraction, norm, *logs = self._values.tolist()
        return StepScalars(loss, norm, fraction == 1.0, dict(zip(self._names, logs, strict=True)))


@dataclass
class StepGuard:
    """Decides whether a step may change the weights.

    Attributes:
        patience: steps in a row that may be skipped.
        in_a_row: steps that were skipped in a row, up to now.
        skipped: all skipped steps.
        rejected: scalars of the last of them; `None` before the first in this process.
    """

    patience: int
    in_a_row: int = 0
    skipped: list[int] = field(default_factory=list)
    rejected: StepScalars | None = None

    def allows(self, step: int, scalars: StepScalars, *, overflow: bool = False) -> bool:
        """Count a step that is not finite, and stop the run after too many.

        Args:
            step: number of the step, from 0.
            scalars: of the step; every process passes the same loss, norm and `moved_finite`.
            overflow: whether the gradient may be NaN or inf, because a scaler skips such steps.

        Raises:
            NotFinite: after more than `patience` such steps in a row.
        """
        loss, norm = scalars.loss, scalars.grad_norm
        numbers = math.isfinite(loss) and (overflow or math.isfinite(norm))
        if numbers and scalars.moved_finite:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.skipped.append(step)
        self.rejected = scalars
        if self.in_a_row > self.patience:
            what = (
                "The forward pass makes running statistics NaN or inf"
                if numbers
                else f"The loss is {loss:.4g} and the gradient norm {norm:.4g}"
            )
            raise NotFinite(
                f"{what} at step {step}: NaN or inf {self.in_a_row} times in a row. Lower "
                "optimizer.lr, set run.clip_norm, or use run.compute.precision=fp32.",
                step,
            )
        return False


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor with NaN or inf; `None` if all are finite."""
    named = [(name, t) for name, t in tensors if t.is_floating_point()]
    if not named:
        return None
    # One reading from the device for all tensors. A sum is the fastest reading of memory; where it
    # is not finite, each number is looked at, because finite ones can have a sum that is not.
    finite = torch.stack([t.sum(dtype=_summed_in(t)).isfinite() for _, t in named]).tolist()
    return next(
        (
            name
            for (name, t), good in zip(named, finite, strict=True)
            if not good and not bool(t.isfinite().all())
        ),
        None,
    )


def _summed_in(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
