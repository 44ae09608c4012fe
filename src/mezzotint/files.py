"""Atomic writes: a reader finds the old file or the new one, even after a run is killed.

Names of files can have any character but `/` and NUL: `shown` makes them safe to print.
"""

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_SEALS = "seals.json"
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DISK = (*_FULL, errno.EIO, errno.EROFS)
_NUMBER = re.compile(r"\(os error (\d+)\)|\bcode: (\d+)\b")  # as libraries in Rust write it


def shown(text: str) -> str:
    """Return text for a terminal: what would move its cursor, color it or end a line is escaped.

    These are control characters, line ends, marks that turn the direction of writing, and bytes of
    a name that are no text.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_TEMPORARY = re.compile(r"\.(tmp|old)-(\d+)(?:\.(\w+))?-")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_DAY_S = 86_400.0
_swept: set[Path] = set()


def _temporary(path: Path, kind: str = "tmp") -> Path:
    """Name a temporary neighbor of this process, after removing those of processes that are gone.

    A process looks once into a folder, which may have a million files. `kind` is `old` for what a
    new folder replaces.
    """
    if path.parent not in _swept:
        _swept.add(path.parent)
        sweep(path.parent, recursive=False)
    return path.with_name(f".{kind}-{os.getpid()}.{_HOST}-{path.name}")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the same folder, which replaces `path` unless writing fails.

    The content is on disk before the name is: after a power cut the file is the old or the new one.

    Raises:
        OSError: in one sentence with `path`, when the disk is full or does not take the file.
    """
    # The suffix stays, because some writers choose the format by it.
    temporary = _temporary(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's umask; some writers set their own mode
        yield temporary
        os.chmod(temporary, mode)
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except Exception as error:
        explained = _explained(error, path, temporary)
        if explained is None:
            raise
        raise explained from error
    finally:
        with suppress(OSError):  # the folder is gone, or cannot be written
            temporary.unlink(missing_ok=True)


def _explained(error: Exception, path: Path, temporary: Path) -> OSError | None:
    """Name the file that could not be written; `None` for an error of another kind."""
    if isinstance(error, OSError):
        number, name = error.errno, error.filename
        own = name is not None and os.fsdecode(name) == str(temporary)
        if number is None or not (own or (name is None and number in _DISK)):
            return None
    else:
        found = _NUMBER.search(str(error))
        number = int(found[1] or found[2]) if found else 0
        if number not in _DISK:
            return None
    reason, advice = os.strerror(number), "Choose a folder that can be written"
    if number in _FULL:
        free = shutil.disk_usage(path.parent).free
        reason, advice = f"{reason}; {free / 1e6:.1f} MB are free", "Free some space"
    return OSError(
        number,
        f"`{path}` could not be written ({reason}), and nothing was changed. {advice}, and run the "
        "command again.",
    )


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `target`, which replaces it unless writing fails.

    Its content is on disk before its name is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = _temporary(target), _temporary(target, "old")
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            flush(path)
        if target.exists():
            os.rename(target, old)  # a folder cannot replace one that has files
        os.rename(temporary, target)
        flush(target.parent)
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def sweep(folder: Path, *, recursive: bool = True) -> list[Path]:
    """Remove temporary files and folders that killed processes left in a folder.

    A folder that was about to be replaced gets its name back, unless the new one is there.

    Args:
        folder: to look into.
        recursive: look into its subfolders too.

    Returns:
        What was removed.
    """
    removed = []
    look = folder.rglob if recursive else folder.glob
    for path in [*look(".tmp-*"), *look(".old-*")]:
        match = _TEMPORARY.match(path.name)
        if match and _is_left_behind(path, match):
            target = path.with_name(path.name[match.end() :])
            if match[1] == "old" and not os.path.lexists(target):
                os.rename(path, target)
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _is_left_behind(path: Path, match: re.Match[str]) -> bool:
    """Whether the process that made a temporary file is gone; of another machine, for a day."""
    if not os.path.lexists(path):
        return False
    if match[3] not in (None, _HOST):
        return time.time() - path.lstat().st_mtime > _DAY_S
    return not is_owner_alive(int(match[2]), path)


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


@contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """Yield a temporary file that replaces `path`, and keep the SHA-256 of what was written.

    The hashes of a folder are in its `seals.json`. While a file is replaced, the old and the new
    one both count, so that a kill at any time leaves a file that is accepted.
    """
    with replacing(path) as temporary:
        yield temporary
        new = _hash(temporary)
        _accept(path, [new, *_accepted(path)])
    _accept(path, [new])


def seal(path: Path) -> None:
    """Keep the SHA-256 of a file as it is."""
    _accept(path, [_hash(path)])


def require_seal(path: Path) -> None:
    """Check that a file is what was written; a file without a seal is taken as it is.

    Raises:
        ValueError: when its content changed.
    """
    accepted = _accepted(path)
    if accepted and path.is_file() and _hash(path) not in accepted:
        raise ValueError(
            f"`{path}` changed after it was written. Restore it; if you changed it yourself, "
            f"remove its entry from {path.with_name(_SEALS)}."
        )


def _accepted(path: Path) -> list[str]:
    return [str(digest) for digest in _read_seals(path.with_name(_SEALS)).get(path.name, ())]


def _accept(path: Path, digests: list[str]) -> None:
    seals = path.with_name(_SEALS)
    write_json(seals, _read_seals(seals) | {path.name: digests})


def _read_seals(seals: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(seals.read_bytes())
        return {str(name): list(digests) for name, digests in content.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"`{seals}` cannot be read ({error}), so that no file next to it can be checked. "
            "Restore it, or remove it to go without the check."
        ) from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str, *, sealed: bool = False) -> None:
    """Write UTF-8 text atomically; with `sealed`, `require_seal` finds later changes."""
    with (sealing if sealed else replacing)(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, sealed: bool = False) -> None:
    """Write strict JSON atomically, in ASCII so that file names in no known encoding survive.

    Raises:
        ValueError: for NaN or inf, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", sealed=sealed)


def read_json(path: Path) -> Any:
    """Read a JSON file that `write_json` wrote.

    Raises:
        ValueError: when its content changed, or is not JSON.
        OSError: when the file cannot be read.
    """
    require_seal(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`{path}` is not valid JSON ({error}). Restore it, or remove it and run the command "
            "that writes it again."
        ) from error
