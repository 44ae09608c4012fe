"""Signals stop a run cleanly: they set a flag, which the loop reads at the next step.

A second signal ends the process at once. Process groups get signals as a whole (torchrun, scancel,
systemd, docker, timeout, Ctrl-C), and a run whose workers are gone cannot finish its step: so
workers let the first signal pass, and the main process saves.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The signals that stop a run."""


class Interrupted(Exception):
    """A signal stopped the run; its notes say what was saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that shells use: 128 + the signal's number."""
        return 128 + self.number


@dataclass
class StopFlag:
    """The signal that was received, or 0."""

    number: int = 0

    def check(self) -> None:
        """Raise `Interrupted` if a signal was received."""
        if self.number:
            raise Interrupted(self.number)


@contextmanager
def catch_signals() -> Iterator[StopFlag]:
    """Turn signals into a flag, until the end.

    They are SIGINT, SIGTERM, SIGHUP (a terminal that closes) and SIGUSR1 (SLURM's before
    preemption). Under nohup SIGHUP stays ignored.
    """
    flag = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        if flag.number:
            os._exit(128 + number)
        flag.number = number

    try:
        before = {
            number: signal.signal(number, note)
            for number in STOPPING
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        }
    except ValueError:  # not the main thread, where Python handles signals
        yield flag
        return
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
