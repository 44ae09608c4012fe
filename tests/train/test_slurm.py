"""Runs that are queued: by submitit's executor for this machine, whole and preempted."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from mezzotint.cli import app, training
from mezzotint.encoders.saving import load_encoder
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.slurm import Job, split_arguments, submit, torchrun_lines
from tests.train.test_dry_run import ending, line

submitit = pytest.importorskip("submitit")

TINY = [
    "image/emoji_simclr", "data.name=digits", "encoder.width=2", "encoder.grid=1",
    "method.hidden_dim=16", "method.dim=8",
    "run.batch_size=256", "run.log.knn_epochs=0", "run.log.every_steps=1",
]  # fmt: skip
LOCAL: dict[str, Any] = {"cluster": "local", "timeout_min": 5}
OPTIONS = {"resume": False, "overwrite": False, "train_only": True, "quiet": True, "as_json": False}


def finished(job: Any) -> None:
    try:
        job.result()
    except Exception:
        raise AssertionError(f"{job.stdout()}\n{job.stderr()}") from None


@pytest.mark.slow
def test_a_preempted_run_is_queued_again_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    arguments = [*TINY, "run.epochs=10"]
    out = tmp_path / "run"
    job = submit(Job(training.pretrain, arguments, out, OPTIONS), LOCAL)
    metrics, lock = out / "metrics.jsonl", out / ".lock"
    for _ in range(6000):
        if job.done() or (metrics.exists() and metrics.read_text().count("\n") >= 3):
            break
        time.sleep(0.02)
    if job.done():
        finished(job)
    os.kill(int(lock.read_text().split()[0]), signal.SIGUSR2)  # what SLURM does first
    finished(job)
    assert "Requeued job" in job.stdout() + (job.stderr() or "")
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 10 * 7 + 1))
    pretrain(Recipe.load(arguments[0], arguments[1:]), tmp_path / "whole", progress="quiet")
    for name, value in load_encoder(tmp_path / "whole").state_dict().items():
        assert torch.equal(value, load_encoder(out).state_dict()[name]), name


@pytest.mark.slow
def test_two_tasks_train_together(tmp_path: Path) -> None:
    job = submit(
        Job(training.pretrain, [*TINY, "run.epochs=1"], tmp_path / "run", OPTIONS),
        {**LOCAL, "tasks_per_node": 2},
    )
    for task in range(2):
        finished(job.task(task))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2


def test_what_is_done_when_a_job_starts_again(tmp_path: Path) -> None:
    job = Job(
        training.pretrain, ["a", "run.epochs=2"], tmp_path / "run", {**OPTIONS, "overwrite": True}
    )
    assert job._now(again=False) == (["a", "run.epochs=2"], False, True)
    assert job._now(again=True) == (
        ["a", "run.epochs=2"],
        False,
        True,
    )  # there is no checkpoint yet
    (tmp_path / "run" / "2-tokenizer" / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert job._now(again=True) == ([], True, False)
    assert job._now(again=False)[2]


def test_words_are_divided() -> None:
    rest, options = split_arguments(
        ["image/emoji_simclr", "partition=gpu", "nodes=8", "run.epochs=3", "gpus_per_node=8"]
    )
    assert rest == ["image/emoji_simclr", "run.epochs=3"]
    assert options == {"partition": "gpu", "nodes": 8, "gpus_per_node": 8}
    assert torchrun_lines(rest, {"gpus_per_node": 4}) == [
        "torchrun --nproc-per-node=4 -m mezzotint pretrain image/emoji_simclr run.epochs=3"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["partitoin=gpu"],
            r"Options of --slurm are partition, .*, got 'partitoin=gpu'. Did you mean 'partition'",
        ),
        (["nodes=many"], r"`nodes` of --slurm must be a whole number of at least 1, got 'many'"),
        (["nodes=0"], r"must be a whole number of at least 1, got '0'. Write nodes=8"),
        (["cluster=moon"], r"`cluster` of --slurm must be slurm or local, got 'moon'"),
    ],
)
def test_what_slurm_does_not_know_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        split_arguments(words)


def test_without_submitit_without_slurm_and_with_a_run_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(training.pretrain, TINY, tmp_path / "run", OPTIONS)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "submitit", None)
        with pytest.raises(
            ModuleNotFoundError, match=r"--slurm needs submitit. Install it with pip install"
        ):
            submit(job, LOCAL)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"--slurm needs a machine with sbatch, .* cluster=local"):
        submit(job, {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(RunDirectoryInUse, match="Continue with --resume"):
        submit(job, LOCAL)


def test_dry_run_prints_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ending(monkeypatch, line())
    words = [
        "pretrain",
        *TINY,
        "--dry-run",
        "--slurm",
        "nodes=2",
        "gpus_per_node=8",
        "--out",
        str(tmp_path / "run"),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    last = done.output.splitlines()[-1]
    assert last.startswith("torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d")
    assert "nodes=2 gpus" not in last and last.endswith(f"--out {tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
