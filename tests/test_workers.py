"""Workers that are signalled, stuck, killed or out of shared memory."""

import atexit
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mezzotint import workers
from mezzotint.types import Batch
from mezzotint.workers import WorkerLost, num_bytes, read_in_workers


class Squares(Dataset[Tensor]):
    """Squares of the index; `trouble` happens at index 3, the first time that it is read.

    Args:
        trouble: what happens.
        marker: file that remembers that it happened, and gets the worker's number.
    """

    def __init__(self, trouble: str = "", marker: Path | None = None) -> None:
        self.trouble, self.marker = trouble, marker

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if index == 3 and self.marker is not None and not self.marker.exists():
            self.marker.write_text(str(os.getpid()))
            if self.trouble == "slow":
                time.sleep(1.0)
            elif self.trouble == "stuck":
                time.sleep(60.0)
            elif self.trouble == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.trouble == "error":
                raise RuntimeError("DataLoader timed out after reading a sentence like that")
            else:
                os.kill(os.getpid(), int(self.trouble))
        return torch.tensor([index * index])


def squares(data: Squares, **keywords: object) -> list[int]:
    return [int(x) for x in read_in_workers(data, workers=1, batch_size=None, **keywords)]  # type: ignore[arg-type]


EXPECTED = [index * index for index in range(8)]


@pytest.fixture(autouse=True)
def _short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_POLL_S", 0.2)
    # What PyTorch waits before it ends a worker that does not end by itself.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)


@pytest.mark.parametrize("count", [0, 2])
def test_items_come_in_order(count: int) -> None:
    found = list(read_in_workers(Squares(), workers=count, batch_size=3, collate=torch.stack))
    assert [x.flatten().tolist() for x in found] == [[0, 1, 4], [9, 16, 25], [36, 49]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_the_process_group_does_not_stop_a_worker(
    tmp_path: Path, number: signal.Signals
) -> None:
    assert squares(Squares(str(int(number)), tmp_path / "marker")) == EXPECTED


def test_one_signal_ends_a_worker_when_the_interpreter_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_exit: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    before = set(multiprocessing.active_children())
    items = read_in_workers(Squares(), workers=1)
    next(items)
    [worker] = set(multiprocessing.active_children()) - before
    for act in at_exit:
        act()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 128 + signal.SIGTERM
    items.close()  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_reader_that_somebody_keeps_does_not_keep_the_interpreter() -> None:
    code = (
        "from mezzotint.workers import read_in_workers\n"
        "kept = read_in_workers(range(100), workers=2)\n"
        "next(kept)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=100, check=False).returncode == 0


def test_an_item_that_takes_longer_than_a_poll_is_awaited(tmp_path: Path) -> None:
    polls: list[float] = []
    data = Squares("slow", tmp_path / "marker")
    assert squares(data, while_waiting=lambda: polls.append(time.monotonic())) == EXPECTED
    assert len(polls) >= 2


def test_a_stuck_read_ends_in_one_sentence_and_without_its_worker(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="read nothing for 1 s. Is the disk .*timeout_seconds"):
        squares(Squares("stuck", tmp_path / "marker"), timeout_s=1.0)
    worker = int((tmp_path / "marker").read_text())
    deadline = time.monotonic() + 30
    while _is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_running(worker)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_is_called_while_waiting_may_end_it(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyError("stop")

    began = time.monotonic()
    with pytest.raises(KeyError, match="stop"):
        squares(Squares("stuck", tmp_path / "marker"), while_waiting=stop)
    assert time.monotonic() - began < 30


def test_a_killed_worker_is_named_with_advice(tmp_path: Path) -> None:
    with pytest.raises(WorkerLost, match="process that reads data ended .*run.loader.workers=0"):
        squares(Squares("kill", tmp_path / "marker"))


def test_an_error_of_a_worker_is_no_timeout(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a sentence like that"):
        squares(Squares("error", tmp_path / "marker"))


@pytest.mark.parametrize("free", [float("inf"), 0.0])
def test_what_does_not_fit_shared_memory_goes_through_a_pipe(
    free: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[bool] = []

    def watched(data: bytes) -> object:
        pids.append(True)
        return loads(data)

    loads = pickle.loads
    monkeypatch.setattr(workers, "free_shared_memory", lambda: free)
    monkeypatch.setattr(pickle, "loads", watched)
    assert squares(Squares()) == EXPECTED
    assert len(pids) == (8 if free == 0.0 else 0)


def test_the_bytes_of_an_item_are_those_of_its_tensors() -> None:
    batch = Batch((torch.zeros(2, 3), torch.zeros(4, dtype=torch.uint8)), torch.arange(2))
    assert num_bytes(batch) == 24 + 4 + 16
    nested: Sequence[object] = [(0, torch.zeros(5)), {"x": torch.zeros(1, dtype=torch.int16)}, "a"]
    assert num_bytes(nested) == 20 + 2


def test_free_shared_memory_is_that_of_its_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = os.statvfs("/dev/shm")
    assert workers.free_shared_memory() == pytest.approx(facts.f_bavail * facts.f_frsize, rel=0.5)
    monkeypatch.setattr(workers, "_SHARED_MEMORY", tmp_path / "missing")
    assert workers.free_shared_memory() == float("inf")
