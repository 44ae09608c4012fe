"""Try many damaged files in a process of its own, which may crash, hang or eat memory."""

import contextlib
import json
import multiprocessing
import os
import re
import resource
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

CPU_SECONDS = 10.0
"""Processor time that one file may take; the machine may be slow, and a hang takes far more."""
MEGABYTES = 400
_WALL_SECONDS = 180.0

Result = dict[str, Any]
"""`outcome` (what became of one try), and words on it."""


def refusal(error: BaseException) -> Result:
    """Judge an error of a reader: a refusal in words is right, all others are wrong kinds."""
    from mezzotint.types import Unreadable

    text = str(error)
    if isinstance(error, (ValueError, Unreadable, OSError)) and text.strip():
        return {"outcome": "refused", "said": text[:300]}
    if isinstance(error, MemoryError):
        return {"outcome": "memory", "said": text[:300]}
    return {"outcome": "wrong kind", "said": f"{type(error).__name__}: {text[:300]}"}


def _peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def _measured(one: Callable[[int], Result], number: int) -> Result:
    """Try one number; a result that takes too long or too much memory is a fault of its own."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = _peak_megabytes(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = one(number)
        except Exception as error:
            result = refusal(error)
    seconds, grown = time.process_time() - began, _peak_megabytes() - before
    if seconds > CPU_SECONDS:
        result = {**result, "outcome": "time", "seconds": round(seconds, 1)}
    if grown > MEGABYTES:
        result = {**result, "outcome": "memory", "megabytes": round(grown)}
    return result


def _child(one: Callable[[int], Result], numbers: list[int], current: Any, path: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # C libraries complain about damaged files
    with Path(path).open("a", encoding="utf-8") as file:
        for number in numbers:
            current.value = number
            result = _measured(one, number)
            file.write(json.dumps({"number": number, **result}) + "\n")
            file.flush()
    current.value = -1


def run_isolated(
    one: Callable[[int], Result], numbers: Iterable[int], path: Path, in_time: Callable[[], bool]
) -> None:
    """Append the outcome of each number to a file; a crash or a hang is the outcome `crash`.

    Args:
        one: tries one number; an error is judged by `refusal`.
        numbers: to try.
        path: file of JSON lines.
        in_time: whether to go on.
    """
    context = multiprocessing.get_context("fork")
    left = list(numbers)
    while left and in_time():
        part, current = left[:100], context.Value("q", part_start := left[0])
        process = context.Process(target=_child, args=(one, part, current, str(path)))
        process.start()
        since, last = time.monotonic(), part_start
        while process.is_alive():
            process.join(0.2)
            if current.value != last:
                since, last = time.monotonic(), current.value
            if time.monotonic() - since > _WALL_SECONDS:
                process.kill()
                process.join()
        if process.exitcode == 0:
            left = left[len(part) :]
            continue
        fault = {"outcome": "crash", "said": f"the process ended with {process.exitcode}"}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"number": last, **fault}) + "\n")
        left = left[left.index(last) + 1 :]
