"""Worker processes that read data: they outlive a signal to their group, and nobody waits forever.

A signal to a process group (torchrun, scancel, systemd, docker, timeout, Ctrl-C) reaches the
workers too. They let the first one pass, so that the main process can finish its step and save.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import functools
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_POLL_S = 2.0
_END = object()
_SHARED_MEMORY = Path("/dev/shm")


class WorkerLost(OSError):
    """A process that reads data ended, or gave nothing for too long."""


def read_in_workers(
    dataset: Dataset[Any],
    *,
    workers: int,
    timeout_s: float = 600.0,
    while_waiting: Callable[[], None] | None = None,
    collate: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Iterate over a `DataLoader`.

    Args:
        dataset: what the workers read.
        workers: number of processes; 0 reads in this one, where nothing can time out.
        timeout_s: seconds that an item may take.
        while_waiting: called every other second while an item is awaited; may raise.
        collate: makes an item of what the data set returns.
        options: other keywords of `DataLoader`.

    Raises:
        WorkerLost: when a worker ends early, or an item takes longer than `timeout_s`.
    """
    closing = multiprocessing.RawValue(ctypes.c_bool, False)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=_Pack(collate or _unchanged, workers),
        timeout=_POLL_S if workers else 0,
        worker_init_fn=functools.partial(_let_the_first_signal_pass, closing),
        **options,
    )
    with _child_signals_kept():
        iterator = iter(loader)
    # An error may keep this generator until the interpreter ends its daemons by one signal each.
    close = functools.partial(setattr, closing, "value", True)
    atexit.register(close)
    try:
        while (item := _next(iterator, timeout_s, while_waiting)) is not _END:
            yield item.unpack() if isinstance(item, _Piped) else item
    finally:
        close()  # the loader's own signal to a stuck worker is the last one
        atexit.unregister(close)
        del iterator


def _next(
    iterator: Iterator[Any], timeout_s: float, while_waiting: Callable[[], None] | None
) -> Any:
    """Wait for the next item; `_END` after the last."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            return next(iterator, _END)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise _explained(error) from error
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # A worker that died before its tensors were taken over leaves nobody to hand them over.
            if str(error).startswith("Caught "):
                raise
            raise _lost("it no longer answers") from error
        if while_waiting is not None:
            while_waiting()
    raise WorkerLost(
        f"The workers read nothing for {timeout_s:.0f} s. Is the disk or the network of the data "
        "stuck? Check it, or raise run.loader.timeout_seconds."
    )


@contextlib.contextmanager
def _child_signals_kept() -> Iterator[None]:
    """Keep the handler of SIGCHLD.

    The loader's own raises at whatever line the main process is, in the middle of an update too,
    when a worker dies. Without it the loader sees a dead worker when the next item is awaited.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _unchanged(item: Any) -> Any:
    return item


def _explained(error: RuntimeError) -> Exception:
    text = str(error)
    if "worker" not in text or not ("exited" in text or "killed" in text or "Bus error" in text):
        return error
    if "Bus error" in text or "shared memory" in text:
        return WorkerLost(
            "A process that reads data ended, because shared memory is full. Give the container "
            "more (docker --shm-size=2g), or use run.loader.workers=0."
        )
    return _lost(text.split("\n")[0].rstrip("."))


def _lost(reason: str) -> WorkerLost:
    return WorkerLost(
        f"A process that reads data ended ({reason}). Is memory short? Lower run.loader.workers or "
        "run.batch_size, or use run.loader.workers=0."
    )


def _let_the_first_signal_pass(closing: Any, worker: int) -> None:
    """Ignore one signal of each kind; a second one kills, and any while the loader closes."""
    received: set[int] = set()

    def note(number: int, frame: FrameType | None) -> None:
        if number in received or closing.value:
            os._exit(128 + number)
        received.add(number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclasses.dataclass(frozen=True)
class _Piped:
    """An item that goes through a pipe, because shared memory has no room for it."""

    content: bytes

    def unpack(self) -> Any:
        return pickle.loads(self.content)  # made by a worker of this process


class _Pack:
    """Collate an item, and keep it out of shared memory if that is nearly full.

    Writing into shared memory that has no room kills the process (docker gives 64 MB).
    """

    def __init__(self, collate: Callable[[Any], Any], workers: int) -> None:
        self.collate, self.workers = collate, workers

    def __call__(self, items: Any) -> Any:
        item = self.collate(items)
        if not self.workers:
            return item
        # Each worker may be about to write one more item of this size.
        needed = num_bytes(item) * (self.workers + 1)
        return _Piped(pickle.dumps(item)) if needed > free_shared_memory() else item


def free_shared_memory() -> float:
    """Return the free bytes of shared memory; inf where it has no file system of its own."""
    try:
        facts = os.statvfs(_SHARED_MEMORY)
    except OSError:
        return float("inf")
    return float(facts.f_bavail * facts.f_frsize)


def num_bytes(item: Any) -> int:
    """Count the bytes of the tensors in an item of tuples, lists, mappings and dataclasses."""
    if isinstance(item, Tensor):
        return item.numel() * item.element_size()
    if isinstance(item, Mapping):
        return sum(num_bytes(value) for value in item.values())
    if isinstance(item, (list, tuple)):
        return sum(num_bytes(value) for value in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return sum(num_bytes(getattr(item, f.name)) for f in dataclasses.fields(item))
    return 0
