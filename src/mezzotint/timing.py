"""Time by named parts of the work, measured on a few steps.

Code marks a part by `with part("crop"):`. Without a running stopwatch that costs one check of a
variable. With one, a part gets the time spent in it but not in nested parts, so that parts add up
to the whole. Accelerators work asynchronously, so a running stopwatch synchronizes at both ends of
each part; that is why only one step in 50 is measured.
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
        wait: function that synchronizes with the device; `None` for the CPU.

    Attributes:
        seconds: seconds of each part, by name.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._wait = wait
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part; the time of the enclosing part stops meanwhile."""
        self._note()
        self._open.append(name)
        try:
            yield
        finally:
            self._note()
            self._open.pop()

    def _note(self) -> None:
        """Add the time since the last change to the innermost part."""
        if self._wait is not None:
            self._wait()
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


_running: Stopwatch | None = None


def part(name: str) -> AbstractContextManager[None]:
    """Measure the enclosed code if a stopwatch runs in this process."""
    return _NOTHING if _running is None else _running.part(name)


@contextmanager
def measuring(whole: str, device: "torch.device | None" = None) -> Iterator[Stopwatch]:
    """Run a stopwatch.

    Args:
        whole: name of the time that belongs to no nested part.
        device: device to synchronize with; `None` or the CPU for none.
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
    """Return whether a step is measured: one in 50 from step 1 on, as step 0 is never typical."""
    return step % _EVERY == 1
