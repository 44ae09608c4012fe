"""What stops a run cleanly: numbers that are not finite, and signals.

The guard looks at the loss and at the gradient's norm of *every* step before the optimizer and any
momentum copy see them, so that the weights in memory and on disk are always finite. Signals only
set a flag, which the loop reads at the next step; a second one ends the process at once.
"""

import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import torch

from mezzotint import dist


class NotFinite(RuntimeError):
    """The loss or a gradient was not finite more often than the recipe allows."""


class Interrupted(Exception):
    """A signal asked the run to stop; a checkpoint was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells give it: 128 + the signal's number."""
        return 128 + self.number


@dataclass
class StepGuard:
    """Decides whether a step may change the weights.

    Attributes:
        patience: how many steps in a row may be left out.
        in_a_row: how many were.
        skipped: the steps left out so far.
    """

    patience: int
    in_a_row: int = 0
    skipped: list[int] = field(default_factory=list)

    def allows(self, step: int, loss: float, grad_norm: float, device: torch.device) -> bool:
        """Whether the loss and the gradient are finite on every process.

        Raises:
            NotFinite: after more than `patience` such steps in a row.
        """
        if dist.all_true(math.isfinite(loss) and math.isfinite(grad_norm), device):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.skipped.append(step)
        if self.in_a_row > self.patience:
            raise NotFinite(
                f"loss {loss:.4g} and gradient norm {grad_norm:.4g} at step {step}, not finite {self.in_a_row} times "
                "in a row; the last good weights are saved: lower optimizer.lr, set run.clip_norm, or use "
                "run.compute.precision=fp32"
            )
        return False


@dataclass
class StopFlag:
    """The signal that was received, or 0."""

    number: int = 0


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGUSR1 (which SLURM sends before it preempts) into a flag; restore them at the end."""
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        if flag.number:
            os._exit(128 + number)
        flag.number = number

    try:
        before = {
            s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
    except ValueError:  # not in the main thread: signals are somebody else's business there
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
