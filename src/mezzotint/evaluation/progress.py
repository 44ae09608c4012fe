"""Parts of a long measurement: lines for the terminal, and the time that they may take.

Code marks a part by `with part("raw input"):`, and asks `allows` before one that may be left out.
Without a running `TimedParts` both cost one check of a variable. With one, each part that takes a
second or more has a line when it ends, and a part that lasts has one every ten seconds, whatever it
does: a thread writes them.
"""

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator

from mezzotint.files import shown

EVERY_S = 10.0
"""Longest time without a line, in seconds."""

_SHORT_S = 1.0  # a part that took less has no line of its own
_TICK_S = 0.5


class TimedParts:
    """Follow the parts of a measurement.

    Args:
        say: takes a part's name, its seconds, and how far it is: `1,200 of 2,000`, or empty.
        limit_s: seconds that everything may take; see `allows`.
        clock: monotonic seconds.

    Attributes:
        seconds: seconds of each part that has ended, by name; those of one name are added up.
        left_out: names of the parts that did not fit.
    """

    def __init__(
        self,
        say: Callable[[str, float, str], None],
        *,
        limit_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.say, self.limit_s, self.clock = say, limit_s, clock
        self.seconds: dict[str, float] = {}
        self.left_out: list[str] = []
        self.began = self.last = clock()
        self._open: list[tuple[str, float]] = []
        self._far = ""

    def allows(self, name: str, like: str, reserve_s: float = 0.0) -> bool:
        """Return whether a part fits into the limit; else it counts as left out.

        Args:
            name: of the part.
            like: name of a part that has ended and takes as long.
            reserve_s: seconds to leave for later parts.
        """
        expected = self.seconds.get(like, 0.0) + reserve_s
        if self.clock() - self.began + expected <= self.limit_s:
            return True
        self.left_out.append(name)
        return False

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part; parts may lie within others."""
        began = self.clock()
        self._open.append((name, began))
        self._far = ""
        try:
            yield
        finally:
            self._open.pop()
            self._far = ""
            took = self.clock() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            if took >= _SHORT_S:
                self._line(name, took)

    def count(self, done: int, total: int) -> None:
        """Note how many samples of the innermost part are done."""
        self._far = f"{done:,} of {total:,}"

    def tick(self) -> None:
        """Write a line if the last one is ten seconds old."""
        now = self.clock()
        if self._open and now - self.last >= EVERY_S - _TICK_S:
            name, began = self._open[-1]
            self._line(name, now - began, self._far)

    def _line(self, name: str, seconds: float, far: str = "") -> None:
        self.last = self.clock()
        self.say(name, seconds, far)


_running: TimedParts | None = None


def part(name: str) -> contextlib.AbstractContextManager[None]:
    """Mark the enclosed code as a part of the measurement that runs, if one does."""
    return contextlib.nullcontext() if _running is None else _running.part(name)


def allows(name: str, like: str, reserve_s: float = 0.0) -> bool:
    """Return whether a part fits into the time of the measurement; see `TimedParts.allows`."""
    return _running is None or _running.allows(name, like, reserve_s)


def seconds_of(name: str) -> float:
    """Return the seconds of the parts of a name that have ended; 0 without a measurement."""
    return 0.0 if _running is None else _running.seconds.get(name, 0.0)


def count(done: int, total: int) -> None:
    """Note how many samples of the innermost part are done."""
    if _running is not None:
        _running.count(done, total)


@contextlib.contextmanager
def showing(
    mode: str, *, limit_s: float = math.inf, clock: Callable[[], float] = time.monotonic
) -> Iterator[TimedParts]:
    """Follow the parts of the enclosed code.

    Args:
        mode: `bar` for lines on stderr, `json` for an object a line on stdout, or `quiet`.
        limit_s: seconds that everything may take.
        clock: monotonic seconds.
    """
    global _running
    parts = TimedParts(_WRITERS[mode], limit_s=limit_s, clock=clock)
    before, _running = _running, parts
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(_TICK_S):
            parts.tick()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield parts
    finally:
        _running = before
        stop.set()
        thread.join()


def _bar(name: str, seconds: float, far: str) -> None:
    words = f"{far}, " if far else ""
    _print(shown(f"evaluation: {name}, {words}{seconds:.0f} s"), sys.stderr)


def _json(name: str, seconds: float, far: str) -> None:
    line = {"part": name, "seconds": round(seconds, 1), **({"done": far} if far else {})}
    _print(json.dumps(line), sys.stdout)


def _print(text: str, stream: object) -> None:
    # A closed pipe or a full disk never ends a measurement.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=stream, flush=True)  # type: ignore[call-overload]


_WRITERS: dict[str, Callable[[str, float, str], None]] = {
    "bar": _bar,
    "json": _json,
    "quiet": lambda name, seconds, far: None,
}
