"""Runs as real processes: signals to the whole group, terminals that go away, restarts."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics

STEPS = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(48):
        folder = root / ("cat" if number % 2 else "dog")
        folder.mkdir(exist_ok=True)
        pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def command(photos: Path, out: Path, *more: str) -> list[str]:
    return [
        "-m", "mezzotint", "pretrain", "image/folder_simclr", f"data.root={photos}",
        "encoder={kind: resnet8, stem: small, width: 2}", "views.crop.size=16",
        "method={kind: byol, hidden_dim: 8, dim: 8}", "optimizer={kind: sgd, lr: 0.01}",
        "run.batch_size=8", f"run.epochs={STEPS // 6}", "run.loader.workers=2",
        "run.log.every_steps=1", "run.log.knn_epochs=0", "--train-only", "--out", str(out), *more,
    ]  # fmt: skip


def environment(fault: str = "") -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MEZZOTINT_FAULT": fault}


def steps_of(out: Path) -> list[int]:
    return [line["step"] for line in read_metrics(out / "metrics.jsonl")]


def wait_for_steps(out: Path, count: int) -> None:
    deadline = time.monotonic() + 90
    while len(steps_of(out)) < count and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_process_group_saves_and_the_same_command_goes_on(
    photos: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """torchrun, scancel, systemd, docker and timeout signal the workers too."""
    out = tmp_path / "run"
    arguments = [sys.executable, *command(photos, out, "--resume", "auto")]
    with subprocess.Popen(
        arguments, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # tests may run under nohup
    ) as process:  # fmt: skip
        wait_for_steps(out, 3)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "Stopped. The last good weights are saved in" in errors and "Traceback" not in errors
    saved, problems = CheckpointStore(out / "checkpoints").latest()
    assert saved is not None and not problems and saved.step == steps_of(out)[-1]
    done = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and f"resumed at step {saved.step}" in done.stderr, done.stderr
    assert steps_of(out) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("streams", [["stderr"], ["stdout", "stderr"]])
@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_a_terminal_that_goes_away_does_not_end_a_training(
    photos: Path, tmp_path: Path, streams: Sequence[str], mode: list[str]
) -> None:
    out = tmp_path / "run"
    arguments = [sys.executable, *command(photos, out, *mode)]
    with subprocess.Popen(
        arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for name in streams:
            getattr(process, name).close()
        for name in {"stdout", "stderr"} - set(streams):
            getattr(process, name).read()
        process.wait(120)
    assert steps_of(out)[-1] == STEPS and (out / "encoder" / "encoder.json").is_file()


def test_torchrun_goes_on_after_a_process_has_died(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1",
        "--standalone", *command(photos, out, "run.checkpoints.every_steps=20"),
    ]  # fmt: skip
    done = subprocess.run(
        arguments, env=environment("checkpoint.after_rename:step=20:kill"),
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed at step 20" in done.stderr
    assert steps_of(out) == list(range(1, STEPS + 1))
