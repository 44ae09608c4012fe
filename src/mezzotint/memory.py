"""Freed memory stays with the process, so that the next step need not ask the system for it."""

import ctypes
import functools
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt(3), from glibc's malloc.h."""
_IS_GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
_CHOSEN_BY_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_")


@functools.cache
def keep_freed_memory() -> bool:
    """Let the C library keep the memory of temporaries instead of returning it to the system.

    glibc asks the system for each block of more than 32 MB, which fills it with zeros page by page:
    up to three quarters of the time of a forward pass (benchmarks/results/freed_memory.md). From
    here on such blocks come from the heap, and up to 2 GB of it stay with the process when they are
    free. Values that are computed do not change.

    Returns:
        Whether it was set: not for another C library, or where the environment variables of glibc
        say something else.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not _IS_GLIBC or "glibc.malloc" in tunables or any(n in os.environ for n in _CHOSEN_BY_USER):
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, 2**31 - 1))


def give_back() -> None:
    """Return memory that is free to the system, after work that needed far more than what follows.

    Elsewhere than with glibc nothing happens.
    """
    if _IS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)
