"""Two gloo processes train as one, and neither waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.recipe.recipe import Recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from tests.tiny import config

SCRIPT = """
import sys, json, pathlib, torch
torch.set_num_threads(1)
from mezzotint.train.loop import pretrain
from mezzotint.recipe.recipe import Recipe
recipe, out = Recipe.build(json.loads(sys.argv[1])), pathlib.Path(sys.argv[2])
pretrain(recipe, out, resume=sys.argv[3] == "resume", progress="quiet")
"""


def torchrun(
    folder: Path, made: dict[str, Any], mode: str = "new", fault: str = ""
) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--standalone",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEZZOTINT_FAULT": fault}
    return subprocess.run(
        [*command, str(script), json.dumps(made), str(folder / "two"), mode],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["simclr", "byol", "lejepa"])
def test_two_processes_train_as_one(tmp_path: Path, method: str) -> None:
    made = config(method)
    done = torchrun(tmp_path, made)
    assert done.returncode == 0, done.stderr[-2000:]
    one = pretrain(Recipe.build(made), tmp_path / "one", progress="quiet")
    alone = [line["loss"] for line in read_metrics(one / "metrics.jsonl")]
    together = [line["loss"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")]
    assert together[0] == pytest.approx(alone[0], abs=1e-5)
    assert together == pytest.approx(alone, abs=5e-3)
    first, second = (
        CheckpointStore(run / "checkpoints").latest()[0] for run in (one, tmp_path / "two")
    )
    assert first is not None and second is not None and first.model.keys() == second.model.keys()


def test_an_error_on_the_main_process_ends_both(tmp_path: Path) -> None:
    done = torchrun(
        tmp_path,
        config("byol", checkpoints={"every_steps": 2}),
        fault="checkpoint.after_model:step=4:enospc",
    )
    assert done.returncode != 0 and "No space left on device" in done.stderr
    saved, _ = CheckpointStore(tmp_path / "two" / "checkpoints").latest()
    assert saved is not None and saved.step == 2
    done = torchrun(tmp_path, config("byol", checkpoints={"every_steps": 2}), mode="resume")
    assert done.returncode == 0, done.stderr[-2000:]
    whole = pretrain(Recipe.build(config("byol")), tmp_path / "one", progress="quiet")
    losses = [
        [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (whole, tmp_path / "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    from mezzotint.data.loader import BatchPlan

    with pytest.raises(ValueError, match="run.batch_size=255 cannot be shared by 2 processes"):
        BatchPlan(1000, 255, 0, 0, 2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_step_sees_the_same_samples_whatever_the_number_of_processes(world: int) -> None:
    from mezzotint.data.loader import BatchPlan

    alone = BatchPlan(100, 20, 3)
    ranks = [BatchPlan(100, 20, 3, rank, world) for rank in range(world)]
    for step in range(12):
        seen = torch.cat([plan.indices(step) for plan in ranks]).sort().values
        assert torch.equal(seen, alone.indices(step).sort().values)
