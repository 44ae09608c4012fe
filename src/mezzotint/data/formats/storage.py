"""Files on a local disk, or at a URL that fsspec knows (`s3://`, `gs://`, `file://`, `memory://`).

Remote files are read by ranges, never copied whole, and only through what fsspec and its plug-ins
register. A local path needs no fsspec.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

_URL = re.compile(r"[a-z][a-z0-9+.:-]+://")


def is_url(root: str) -> bool:
    """Return whether a root is a URL, and not a local path."""
    return bool(_URL.match(root))


def join(root: str, name: str) -> str:
    """Return the path or URL of a file below a root."""
    return f"{root.rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def names_below(root: str, suffix: str) -> list[str]:
    """List the names of the files directly below a root that end in a suffix, sorted.

    Raises:
        ValueError: when the root is no folder, or cannot be listed.
    """
    try:
        if is_url(root):
            system, path = _system(root)
            found = [str(name) for name in system.ls(path, detail=False)]
        else:
            found = os.listdir(root)
    except (OSError, NotADirectoryError) as error:
        raise ValueError(
            f"`{root}` cannot be listed ({error}). It must be a folder of shards, or a URL of one. "
            "Check `data.root`."
        ) from error
    names = {name.rstrip("/").rpartition("/")[2] for name in found}
    return sorted(name for name in names if name.endswith(suffix))


def size_of(path: str) -> int:
    """Return the bytes of a file.

    Raises:
        OSError: when it is missing or cannot be reached.
    """
    if not is_url(path):
        return os.stat(path).st_size
    system, inner = _system(path)
    return int(system.size(inner))


def read_range(path: str, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset` on; fewer at the end of the file.

    Raises:
        OSError: when the file is missing or cannot be reached.
    """
    if is_url(path):
        system, inner = _system(path)
        return cast(bytes, system.cat_file(inner, start=offset, end=offset + size))
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading; it can seek."""
    if is_url(path):
        system, inner = _system(path)
        with system.open(inner, "rb") as file:
            yield file
    else:
        with open(path, "rb") as file:
            yield file


def _system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Raises:
        ModuleNotFoundError: without fsspec, or the plug-in of the protocol.
        ValueError: for a chain of protocols, or one that nobody registered.
    """
    if "::" in url:
        raise ValueError(
            f"`{url}` chains protocols. A root must be one folder, such as s3://bucket/shards. "
            "Leave the chain out."
        )
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "URLs need fsspec. Install it with pip install 'mezzotint[shards]'.", name="fsspec"
        ) from error
    try:
        # fsspec keeps one file system for each process and thread.
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"`{url}` needs a plug-in of fsspec ({error}). Install it.", name=error.name
        ) from error
    except ValueError as error:
        raise ValueError(
            f"`{url}` cannot be opened ({error}). Use a protocol that fsspec knows, such as "
            "s3://, gs://, https:// or file://."
        ) from error
    return system, path
