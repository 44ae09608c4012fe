"""A run that is killed with its workers: nothing stays, and the same command goes on at once."""

import os
import time
from pathlib import Path

import pytest

from mezzotint.train.log import read_metrics
from tests.faults import kills, victims


@pytest.mark.parametrize("point", ["loop.after_backward:step=3", "checkpoint.after_model:step=4"])
def test_a_killed_run_leaves_no_process_no_memory_and_no_file(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills.make_photos(tmp_path)
    command = next(job for job in kills.jobs() if job.name == "pretrain, workers").command
    monkeypatch.setenv("MEZZOTINT_FAULT", f"{point}:kill")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shared = set(Path("/dev/shm").glob("torch_*"))
    first = victims.start(command, tmp_path, mark := f"orphan-{os.getpid()}-{time.monotonic_ns()}")
    assert first.wait(90) == -9
    deadline = time.monotonic() + 20.0
    while kills.alive({mark}, {first.pid}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not kills.alive({mark}, {first.pid})
    monkeypatch.delenv("MEZZOTINT_FAULT")
    assert victims.start(command, tmp_path, mark).wait(90) == 0
    assert not kills.alive({mark}, {first.pid})
    own = {p for p in Path("/dev/shm").glob(f"torch_{first.pid}_*")}
    assert not own - shared and not list((tmp_path / "out").rglob(".*tmp-*"))
    assert read_metrics(tmp_path / "out/metrics.jsonl")[-1]["step"] == 32
