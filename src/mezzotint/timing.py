"""Where time goes: parts of the work that have names, measured on few steps.

Code says `with part("crop"):` around what is worth a line. As long as no stopwatch runs, that is a
look at a variable. While one does, a part gets the time that passes in it and not in a part inside
of it, so that parts add up to the whole. On an accelerator, which works behind the program's back,
a running stopwatch waits at both ends of each part; that is why only one step in many is measured.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_EVERY = 50
_NOTHING = nullcontext()


class Stopwatch:
    """Adds up the seconds of each part.

    Args:
        wait: waits until the device has done what it was given; `None` where it does that anyway.

    Attributes:
        seconds: by the name of the part.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._wait = wait
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part; the part around it rests meanwhile."""
        self._note()
        self._open.append(name)
        try:
            yield
        finally:
            self._note()
            self._open.pop()

    def _note(self) -> None:
        """Give the innermost part the time that has passed since the last change."""
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_running: Stopwatch | None = None


def part(name: str) -> AbstractContextManager[None]:
    """Measure what is inside, if a stopwatch runs in this process."""
    return _NOTHING if _running is None else _running.part(name)


@contextmanager
def measuring(whole: str, device: "torch.device | None" = None) -> Iterator[Stopwatch]:
    """Run a stopwatch.

    Args:
        whole: name of what is left when all parts inside are taken away.
        device: that is waited for, where it is an accelerator.
    """
    global _running
    watch, before = Stopwatch(_wait_for(device)), _running
    _running = watch
    try:
        with watch.part(whole):
            yield watch
    finally:
        _running = before


def _wait_for(device: "torch.device | None") -> Callable[[], None] | None:
    if device is None or device.type == "cpu":
        return None
    import torch

    return lambda: torch.accelerator.synchronize(device)


def is_measured(step: int) -> bool:
    """Whether a step, from 0, is measured: one in 50, beginning with the second, since the first is never typical."""
    return step % _EVERY == 1
