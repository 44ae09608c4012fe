"""Freed blocks stay with the process, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PROBE = """
import ctypes, resource
from mezzotint.memory import keep_freed_memory
kept = keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def used():
    block = library.malloc(256 * 2**20)
    ctypes.memset(block, 1, 256 * 2**20)
    library.free(block)
used()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
used()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({}, True),
        ({"MALLOC_MMAP_MAX_": "65536"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}, False),
    ],
)
def test_the_second_use_of_a_large_block_asks_the_system_for_nothing(
    chosen: dict[str, str], kept: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in NAMES} | chosen
    out = subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, check=True, capture_output=True, text=True
    ).stdout.split()
    assert out[0] == str(kept)
    # Pages have 4 kB, or 2 MB where the kernel gives huge ones.
    assert (int(out[1]) < 16) is kept


GIVEN_BACK = """
import ctypes, sys
from mezzotint import memory
memory.keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
block = library.malloc(256 * 2**20)
ctypes.memset(block, 1, 256 * 2**20)
library.free(block)
before = resident()
memory.give_back()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_is_free_goes_back_when_it_is_asked_for() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in NAMES}
    out = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], env=environment, check=True, capture_output=True
    ).stdout
    assert int(out) * os.sysconf("SC_PAGE_SIZE") > 250 * 2**20
