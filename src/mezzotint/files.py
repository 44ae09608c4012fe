"""Atomic writes: a reader finds the old file or the new one, even after a run is killed."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TEMPORARY = re.compile(r"\.tmp-(\d+)-")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder, which replaces `path` unless writing fails.

    The content is on disk before the name is: after a power cut the file is the old or the new one.
    """
    # The suffix stays, because some writers choose the format by it.
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's umask; some writers set their own mode
        yield temporary
        os.chmod(temporary, mode)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> list[Path]:
    """Remove temporary files that killed processes left in a folder and its subfolders.

    Returns:
        The removed files.
    """
    removed = []
    for path in folder.rglob(".tmp-*"):
        match = _TEMPORARY.match(path.name)
        if match and path.is_file() and not is_owner_alive(int(match[1]), path):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def is_owner_alive(pid: int, path: Path) -> bool:
    """Tell whether the process that made a file is running on this machine.

    A process that started after the file was last changed has the number of one that is gone.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return _start_of(pid) <= path.lstat().st_mtime + 2.0  # clocks of 10 ms, rounded boot time
    except (OSError, ValueError, IndexError):
        return True  # no /proc: trust the number


def _start_of(pid: int) -> float:
    """Return when a process started, in seconds since the epoch; Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(fields.rpartition(")")[2].split()[19])
    lines = Path("/proc/stat").read_text(encoding="utf-8").splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    return boot + ticks / os.sysconf("SC_CLK_TCK")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically, in ASCII so that file names in no known encoding survive.

    Raises:
        ValueError: for NaN or inf, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
