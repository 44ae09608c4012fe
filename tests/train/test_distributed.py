"""Two gloo processes train as one, and neither waits for ever."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint import dist
from mezzotint.data.loader import BatchPlan
from mezzotint.encoders.saving import load_encoder
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.checkpoint import CheckpointStore, load
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.settings import Compute
from tests.commands import by_agent
from tests.ranks import spawn
from tests.tiny import config

SCRIPT = """
import sys, json, pathlib, torch
torch.set_num_threads(1)
from mezzotint import dist
from mezzotint.train.loop import pretrain
from mezzotint.recipe.recipe import Recipe
folder = pathlib.Path(sys.argv[2])
# One group for all, as phases of a plan have: torchrun's store does not let a second one form.
with dist.process_group(torch.device("cpu")):
    for name, made in json.loads(sys.argv[1]).items():
        pretrain(Recipe.build(made), folder / name, progress="quiet")
"""


def torchrun(folder: Path, runs: dict[str, dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Train recipes on two processes, one after the other, each in the directory of its name."""
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(script), json.dumps(runs), str(folder)],
        env=environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


METHODS = ("simclr", "byol", "lejepa")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One launch for all methods: starting two processes takes longer than the runs."""
    folder = tmp_path_factory.mktemp("two")
    start = pretrain(Recipe.build(config()), folder / "start", progress="quiet")
    runs = {method: config(method) for method in METHODS}
    done = torchrun(folder, runs | {"continued": continued_from(start)})
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def continued_from(start: Path) -> dict[str, Any]:
    """BYOL from the encoder of a run: four of seven steps of warm-up, and a frozen stem."""
    init = {"path": str(start / "encoder"), "warmup_steps": 4, "freeze_blocks": 1}
    checkpoints = {"every_steps": 4, "keep": 5}
    return resolve_recipe(config("byol", checkpoints=checkpoints) | {"init": init})


@pytest.mark.xdist_group("distributed")
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(two_processes: Path, tmp_path: Path, method: str) -> None:
    two, made = two_processes / method, config(method)
    one = pretrain(Recipe.build(made), tmp_path / "one", progress="quiet")
    alone = [line["loss"] for line in read_metrics(one / "metrics.jsonl")]
    together = [line["loss"] for line in read_metrics(two / "metrics.jsonl")]
    assert together[0] == pytest.approx(alone[0], abs=1e-5)
    assert together == pytest.approx(alone, abs=5e-3)
    first, second = (CheckpointStore(run / "checkpoints").latest()[0] for run in (one, two))
    assert first is not None and second is not None and first.model.keys() == second.model.keys()


@pytest.mark.xdist_group("distributed")
def test_the_warm_up_on_two_processes_is_that_on_one(two_processes: Path, tmp_path: Path) -> None:
    """Bits stay in the warm-up, move after it, and the better encoder is chosen once."""
    two, start = two_processes / "continued", two_processes / "start"
    recipe = Recipe.build(continued_from(start))
    one = pretrain(recipe, tmp_path / "one", progress="quiet")
    alone, together = (read_metrics(run / "metrics.jsonl") for run in (one, two))
    assert [r["loss"] for r in together] == pytest.approx([r["loss"] for r in alone], abs=5e-3)
    drifts = [[r[f"drift/{k}"] for k in ("cosine", "cka")] for r in (alone[-1], together[-1])]
    assert drifts[1] == pytest.approx(drifts[0], abs=5e-3)
    given = load_encoder(start).state_dict()
    warm, last = (load(two / "checkpoints" / f"step-{n:08d}").model for n in (4, 7))
    assert all(torch.equal(warm[f"encoder.{name}"], tensor) for name, tensor in given.items())
    moved = {n for n, tensor in given.items() if not torch.equal(last[f"encoder.{n}"], tensor)}
    assert "layer4.1.conv2.weight" in moved and "layer4.1.bn2.running_mean" in moved
    assert not {n for n in moved if n.startswith(("conv1", "bn1", "layer1.0"))}
    outcome = json.loads((two / "start.json").read_text())
    assert outcome["kept"] == "trained" and outcome["comparisons"][0]["samples"] > 100


def train_byol(folder: Path, resume: bool) -> None:
    """Train in a rank of torchrun's agent."""
    with dist.process_group(torch.device("cpu")):
        made = config("byol", checkpoints={"every_steps": 2})
        pretrain(Recipe.build(made), folder / "two", resume=resume, progress="quiet")


def test_an_error_on_the_main_process_ends_both(tmp_path: Path) -> None:
    fault = "checkpoint.after_model:step=4:enospc"
    done = by_agent(train_byol, tmp_path, False, cwd=tmp_path, fault=fault)
    assert done.returncode != 0 and "No space left on device" in done.stderr
    saved, _ = CheckpointStore(tmp_path / "two" / "checkpoints").latest()
    # The last try, when the error of the thread that saves is known, finds room.
    assert saved is not None and saved.step in (5, 6)
    done = by_agent(train_byol, tmp_path, True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    whole = pretrain(Recipe.build(config("byol")), tmp_path / "one", progress="quiet")
    losses = [
        [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
        for run in (whole, tmp_path / "two")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    from mezzotint.data.loader import BatchPlan

    with pytest.raises(
        ValueError, match="`run.batch_size` must be a multiple of the 2 processes, got 255"
    ):
        BatchPlan(1000, 255, 0, 0, 2)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_step_sees_the_same_samples_whatever_the_number_of_processes(world: int) -> None:
    from mezzotint.data.loader import BatchPlan

    alone = BatchPlan(100, 20, 3)
    ranks = [BatchPlan(100, 20, 3, rank, world) for rank in range(world)]
    for step in range(12):
        seen = torch.cat([plan.indices(step) for plan in ranks]).sort().values
        assert torch.equal(seen, alone.indices(step).sort().values)


def _environment(machine: int, port: int) -> dict[str, str]:
    """What `torchrun` gives the only process of one of two machines."""
    return {
        "RANK": str(machine), "LOCAL_RANK": "0", "GROUP_RANK": str(machine), "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _second_machine(_: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= _environment(1, port)
    _on_a_machine(1, folder)


def _on_a_machine(machine: int, folder: str) -> None:
    with dist.process_group(torch.device("cpu"), timeout_s=60.0):
        ranks = dist.gather(torch.tensor([dist.rank()]))
        plan = BatchPlan(40, 8, 0, dist.rank(), dist.world_size())
        seen = dist.gather(
            torch.stack([plan.indices(step) for step in range(plan.steps_per_epoch)]).flatten()
        )
        torch.save({"ranks": ranks, "seen": seen, "main": dist.is_main()}, f"{folder}/{machine}.pt")


def test_machines_have_ranks_of_their_own_and_share_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    other = spawn(_second_machine, args=(str(tmp_path), port), nprocs=1, join=False)
    for key, value in _environment(0, port).items():
        monkeypatch.setenv(key, value)
    _on_a_machine(0, str(tmp_path))
    assert other.join(60.0)
    found = [torch.load(tmp_path / f"{machine}.pt", weights_only=True) for machine in range(2)]
    assert [one["main"] for one in found] == [True, False]
    for one in found:
        assert one["ranks"].tolist() == [0, 1] and sorted(one["seen"].tolist()) == list(range(40))


def test_the_device_is_the_place_on_the_machine_and_not_the_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("RANK", "9")  # the second process of the fifth machine of two each
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Compute(device="cuda").torch_device() == torch.device("cuda", 1)
