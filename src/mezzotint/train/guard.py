"""Stop a run cleanly: at a loss or gradient that is NaN or inf, and at signals.

The guard checks the loss and the gradient's norm of *every* step before the optimizer and any
momentum copy use them, so that the weights in memory and on disk are always finite. Signals only
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
    """The loss or a gradient was NaN or inf in more steps than the recipe tolerates."""


class Interrupted(Exception):
    """A signal stopped the run, after a checkpoint was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that shells use: 128 + the signal's number."""
        return 128 + self.number


@dataclass
class StepGuard:
    """Decides whether a step may change the weights.

    Attributes:
        patience: steps in a row that may be skipped.
        in_a_row: steps that were skipped in a row, up to now.
        skipped: all skipped steps.
    """

    patience: int
    in_a_row: int = 0
    skipped: list[int] = field(default_factory=list)

    def allows(self, step: int, loss: float, grad_norm: float, device: torch.device) -> bool:
        """Check that the loss and the gradient are finite on every process.

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
                f"The loss is {loss:.4g} and the gradient norm {grad_norm:.4g} at step {step}, "
                f"NaN or inf {self.in_a_row} times in a row. The last good weights are saved. "
                "Lower optimizer.lr, set run.clip_norm, or use run.compute.precision=fp32."
            )
        return False


@dataclass
class StopFlag:
    """The signal that was received, or 0."""

    number: int = 0


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Turn SIGINT, SIGTERM and SIGUSR1 (SLURM's before preemption) into a flag, until the end."""
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        if flag.number:
            os._exit(128 + number)
        flag.number = number

    try:
        before = {
            s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        }
    except ValueError:  # not the main thread, where Python handles signals
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
