"""Runs as processes: signals to the whole group, terminals that go away, restarts."""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from tests.commands import by_agent, command, completed, started

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


def words(photos: Path, out: Path, *more: str) -> list[str]:
    return [
        "pretrain", "image/folder_simclr", f"data.root={photos}",
        "encoder={kind: resnet8, stem: small, width: 2}", "views.crop.size=16",
        "method={kind: byol, hidden_dim: 8, dim: 8}", "optimizer={kind: sgd, lr: 0.01}",
        "run.batch_size=8", f"run.epochs={STEPS // 6}", "run.loader.workers=2",
        "run.log.every_steps=1", "run.log.knn_epochs=0", "--train-only", "--out", str(out), *more,
    ]  # fmt: skip


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
    out, said = tmp_path / "run", tmp_path / "stderr"
    arguments = words(photos, out, "--resume", "auto")
    with started(arguments, [os.devnull, str(said)], cwd=tmp_path) as process:
        wait_for_steps(out, 3)
        assert process.pid is not None
        os.killpg(process.pid, number)
        process.join(60)
        errors = said.read_text(encoding="utf-8")
        assert process.exitcode == 128 + number, errors
    assert "Stopped. The last good weights are saved in" in errors and "Traceback" not in errors
    saved, problems = CheckpointStore(out / "checkpoints").latest()
    assert saved is not None and not problems and saved.step == steps_of(out)[-1]
    done = completed(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and f"resumed at step {saved.step}" in done.stderr, done.stderr
    assert steps_of(out) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("streams", [["stderr"], ["stdout", "stderr"]])
@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_a_terminal_that_goes_away_does_not_end_a_training(
    photos: Path, tmp_path: Path, streams: Sequence[str], mode: list[str]
) -> None:
    out = tmp_path / "run"
    pipes = {name: multiprocessing.Pipe(duplex=False) for name in ("stdout", "stderr")}
    ends = [writer for _, writer in pipes.values()]
    with started(words(photos, out, *mode), ends, cwd=tmp_path) as process:
        for name, (reader, writer) in pipes.items():
            writer.close()
            if name in streams:
                reader.close()
        for name in pipes.keys() - set(streams):
            with open(pipes[name][0].fileno(), "rb", closefd=False) as printed:
                printed.read()
        process.join(120)
    assert steps_of(out)[-1] == STEPS and (out / "encoder" / "encoder.json").is_file()


def test_torchrun_goes_on_after_a_process_has_died(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = words(photos, out, "run.checkpoints.every_steps=20")
    fault = "checkpoint.after_rename:step=20:kill"
    done = by_agent(command, arguments, cwd=tmp_path, restarts=1, fault=fault)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "resumed at step 20" in done.stderr
    assert steps_of(out) == list(range(1, STEPS + 1))
