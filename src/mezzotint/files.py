"""Writing files so that a reader, or a run that is killed, finds the old file or the new one, never half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to; it takes the place of `path` at the end, and is removed if writing fails."""
    temporary = path.with_name(
        f".tmp-{os.getpid()}-{path.name}"
    )  # the suffix stays: some writers go by it
    try:
        temporary.touch()
        mode = (
            temporary.stat().st_mode
        )  # what the user's umask gives a new file; some writers choose their own
        yield temporary
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a file by UTF-8 text."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a file by strict JSON in ASCII, which also holds file names that are not text.

    Raises:
        ValueError: for a number that is not finite, which no reader could take.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
