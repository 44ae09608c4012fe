"""What an abandoned step must not move, and runs that check late: they end like those that wait."""

import errno
import itertools
import json
import math
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import nn

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train import faults
from mezzotint.train.checkpoint import CheckpointStore, load
from mezzotint.train.guard import NotFinite
from mezzotint.train.log import Meter, RunLog, read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.postmortem import read_bundle
from mezzotint.train.replay import replay
from mezzotint.train.settings import Compute, Guard, Run
from mezzotint.train.signals import Interrupted
from mezzotint.train.undo import ForwardState
from tests.ranks import spawn
from tests.tiny import config
from tests.train.test_loop import digest

NAN, INF = math.nan, math.inf


class Moving(nn.Module):
    """A module whose forward pass moves a BatchNorm, replaces a buffer and mirrors a third."""

    ranges: torch.Tensor
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("ranges", torch.full((1,), INF), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.mirror = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ranges = x.detach().amax(0)
        self.steps += 1
        self.mirror = int(self.steps)
        out: torch.Tensor = self.norm(x)
        return out

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.mirror = int(self.steps)


@pytest.mark.parametrize("value", [NAN, INF, 3e38, 1e30])
def test_what_a_forward_pass_moves_is_checked_and_put_back(value: float) -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module(torch.randn(8, 3))
    assert bool(before.is_finite(torch.device("cpu")))
    before.release()
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    assert module.mirror == 1

    before.keep()
    module(torch.randn(8, 3).index_fill(0, torch.tensor([2]), value))
    assert not bool(before.is_finite(torch.device("cpu")))
    before.abandon(1)
    found = dict(module.named_buffers())
    assert found.keys() == buffers.keys() and module.mirror == 1
    assert all(torch.equal(found[name], b) for name, b in buffers.items())


def test_a_step_that_counts_is_not_put_back() -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module(torch.randn(8, 3))
    moved = module.norm.running_mean.clone()  # type: ignore[union-attr]
    before.release()
    before.restore()
    assert torch.equal(module.norm.running_mean, moved)  # type: ignore[arg-type]


def test_an_update_that_made_weights_nan_stops_the_run() -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module.norm.weight.data[1] = NAN
    with pytest.raises(NotFinite, match="update before step 4 made the weights norm.weight NaN"):
        before.abandon(4)


def settings(method: str = "byol", *, late: bool, **run: Any) -> dict[str, Any]:
    """A run of 14 steps, of which every seventh is logged, if `run` does not say other."""
    sections = config(method, batch_size=128, **run)
    sections["encoder"] = {"kind": "resnet8", "stem": "patch", "width": 4}
    sections["run"]["log"] = {"every_steps": 7, "knn_epochs": 0, **run.get("log", {})}
    sections["run"]["guard"] = {**sections["run"].get("guard", {}), "late": late}
    return resolve_recipe(sections)


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of a log, without times."""
    timed = ("seconds", "images_per_second", "data_wait", "augment_share")
    return [
        {k: v for k, v in line.items() if k not in timed and not k.startswith("time/")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make the loss of some steps NaN."""

    def point(name: str, step: int) -> bool:
        return name == "loop.loss" and step in steps

    monkeypatch.setattr("mezzotint.train.faults.point", point)


EVERYTHING: dict[str, Any] = {
    "micro_batches": 2, "clip_norm": 1.0, "log": {"classifier": {}},
    "compute": {"average": 0.9},
}  # fmt: skip
CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "first": ("byol", (0,), {}),
    "logged": ("moco", (6, 13), {}),
    "before a logged one": ("moco", (5, 12), {}),
    "after a logged one": ("dino", (7,), {}),
    "in a row": ("ssql", (1, 2, 3, 9, 10), {}),
    "last": ("simclr", (12, 13), {}),
    "each one logged": ("simsiam", (0, 4, 5, 10, 13), {"log": {"every_steps": 1}}),
    "measured": ("byol", (6, 7), {"log": {"every_steps": 3, "knn_epochs": 1}, "epochs": 2}),
    "all settings": ("byol", (0, 4, 5, 10), EVERYTHING),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_ends_as_if_it_had_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    method, bad, run = CASES[case]
    poison(monkeypatch, *bad)
    for late in (False, True):
        sections = settings(method, late=late, **run)
        if "classifier" in run.get("log", {}):
            sections["data"] = {"kind": "labeled", "source": sections["data"]}
        pretrain(Recipe.build(resolve_recipe(sections)), tmp_path / str(late), progress="quiet")
    waited, run_late = tmp_path / "False", tmp_path / "True"
    assert digest(run_late) == digest(waited)
    assert logged(run_late) == logged(waited)
    environment = json.loads((run_late / "environment.json").read_text())
    assert environment["skipped_steps"] == list(bad)


def test_views_that_remember_see_each_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """BYOL-A mixes with a bank of past samples, which a step that is computed again is not in."""
    poison(monkeypatch, 1, 3)
    seen = []
    for late in (False, True):
        sections = settings(late=late)
        sections["data"] = {"kind": "speech"}
        sections["views"] = {"kind": "byol_a", "frames": 32, "bank": 40}
        sections["encoder"] = {"kind": "audio_ntt", "width": 4, "dim": 16}
        sections["run"]["batch_size"] = 32
        made = Recipe.build(resolve_recipe(sections))
        trainer = Trainer(made, torch.device("cpu"))
        for step, batch in enumerate(batches(made.data, made.views, trainer.plan, start=0, stop=6)):
            trainer.step(step, batch, Meter(), wait=not late or step == 5)
        assert trainer.state.guard.skipped == [1, 3]
        seen.append([p.detach().clone() for p in made.method.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


@pytest.mark.parametrize("patience", [0, 2])
def test_too_many_stop_a_run_at_the_same_step_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """The one that is left is found while the next step is computed, and none of it is kept."""
    poison(monkeypatch, 9, 10, 11, 12)
    messages, states = [], []
    for late in (False, True):
        log = {"every_steps": 1}
        made = Recipe.build(settings(late=late, guard={"patience": patience}, log=log))
        with pytest.raises(NotFinite) as caught:
            pretrain(made, tmp_path / str(late), progress="quiet")
        messages.append(str(caught.value))
        assert caught.value.step == 9 + patience
        saved, _ = CheckpointStore(tmp_path / str(late) / "checkpoints").latest()
        assert saved is not None and saved.step == 9 + patience
        states.append(saved)
        bundle = read_bundle(next((tmp_path / str(late) / "postmortem").iterdir()))
        assert (bundle.step, bundle.start, bundle.loss) == (9 + patience, 9 + patience, "nan")
    assert messages[0] == messages[1]
    assert logged(tmp_path / "True") == logged(tmp_path / "False")
    one, other = states
    assert {k: v for k, v in one.state.items() if k != "seconds"} == {
        k: v for k, v in other.state.items() if k != "seconds"
    }
    for part in ("model", "optimizer"):
        mine, theirs = getattr(one, part), getattr(other, part)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert replay(str(next((tmp_path / "True" / "postmortem").iterdir()))).is_same


def test_an_update_that_ruins_weights_is_said_to_be_the_one(tmp_path: Path) -> None:
    found = []
    for late in (False, True):
        sections = settings(late=late)
        sections |= {"optimizer": {"kind": "sgd", "lr": 1e38}, "schedule": {"kind": "cosine"}}
        with pytest.raises(NotFinite) as caught:
            pretrain(Recipe.build(resolve_recipe(sections)), tmp_path / str(late), progress="quiet")
        found.append((str(caught.value), caught.value.step))
    assert found[0] == found[1]


@pytest.mark.parametrize("action", ["raise", "sigterm"])
@pytest.mark.parametrize("bad", [(), (9,), (10,)])
def test_an_error_or_a_signal_saves_what_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str, bad: tuple[int, ...]
) -> None:
    """It comes after the backward pass of step 10, when step 9 has been made and not checked.

    Step 9 is logged, with what the check finds.
    """
    come: list[int] = []

    def point(name: str, step: int) -> bool:
        if name == "loop.after_backward" and step == 10 and not come:
            come.append(step)
            if action == "raise":
                raise MemoryError
            os.kill(os.getpid(), signal.SIGTERM)
        return name == "loop.loss" and step in bad

    monkeypatch.setattr("mezzotint.train.faults.point", point)
    for late in (False, True):
        out = tmp_path / str(late)
        come.clear()
        if action == "raise" and late and bad == (9,):
            pretrain(
                Recipe.build(settings(late=late, log={"every_steps": 5})), out, progress="quiet"
            )
            continue  # what step 10 computed from weights that do not count is computed again
        with pytest.raises(MemoryError if action == "raise" else Interrupted):
            pretrain(
                Recipe.build(settings(late=late, log={"every_steps": 5})), out, progress="quiet"
            )
        saved = load(next((out / "checkpoints").iterdir()))
        assert saved.step == (10 if action == "raise" else 11)
        assert [line["step"] for line in logged(out)] == [5, 10]
        assert saved.state["skipped"] == [step for step in bad if step < saved.step]
        pretrain(
            Recipe.build(settings(late=late, log={"every_steps": 5})),
            out,
            resume=True,
            progress="quiet",
        )
    assert digest(tmp_path / "True") == digest(tmp_path / "False")
    assert logged(tmp_path / "True") == logged(tmp_path / "False")


def test_a_log_that_cannot_be_written_ends_a_run_after_the_step_of_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line_of, full = RunLog.line, [True]

    def line(self: RunLog, step: int, *args: Any) -> None:
        if step == 10 and full:
            raise OSError(errno.ENOSPC, "No space left on device")
        line_of(self, step, *args)

    monkeypatch.setattr(RunLog, "line", line)
    for late in (False, True):
        out, sections = tmp_path / str(late), settings(late=late, log={"every_steps": 5})
        full[:] = [True]
        with pytest.raises(OSError, match="No space left"):
            pretrain(Recipe.build(sections), out, progress="quiet")
        assert load(next((out / "checkpoints").iterdir())).step == 10
        full.clear()
        pretrain(Recipe.build(sections), out, resume=True, progress="quiet")
    assert digest(tmp_path / "True") == digest(tmp_path / "False")


def test_only_steps_that_are_measured_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, step_of = [], Trainer.step

    def step(self: Trainer, number: int, *args: Any, wait: bool) -> dict[str, float]:
        if wait:
            waited.append(number)
        return step_of(self, number, *args, wait=wait)

    monkeypatch.setattr(Trainer, "step", step)
    log = {"every_steps": 1, "knn_epochs": 1, "map_epochs": 0}
    made = Recipe.build(settings(late=True, log=log, epochs=2))
    pretrain(made, tmp_path / "run", progress="quiet")
    per_epoch = len(logged(tmp_path / "run")) // 2
    assert waited == [per_epoch - 1, 2 * per_epoch - 1]


def _worker(rank: int, folder: str) -> None:
    """Train in a rank, with and without waiting; the second rank's loss is NaN in some steps."""
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2,
        timeout=timedelta(seconds=30),
    )  # fmt: skip
    faults.point = lambda name, step: name == "loop.loss" and step in (2, 3) and rank == 1
    for sharding, late in itertools.product(("none", "fsdp2"), (False, True)):
        sections = settings("moco" if sharding == "none" else "simsiam", late=late)
        if sharding != "none":
            sections["encoder"] = {"kind": "vit", "patch": 4, "width": 16, "depth": 2, "heads": 2}
            sections["run"]["compute"]["sharding"] = sharding
        made = Recipe.build(resolve_recipe(sections))
        trainer = Trainer(made, torch.device("cpu"))
        for step, batch in enumerate(batches(made.data, made.views, trainer.plan, start=0, stop=6)):
            trainer.step(step, batch, Meter(), wait=not late or step == 5)
        assert trainer.state.guard.skipped == [2, 3]
        divided = trainer.state.tensors()[0]  # gathered on the first process
        state = divided if sharding != "none" else made.method.state_dict()
        torch.save(state, f"{folder}/{rank}-{sharding}-{late}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.mark.xdist_group("distributed")
def test_all_processes_take_a_step_back_together(tmp_path: Path) -> None:
    spawn(_worker, (str(tmp_path),), nprocs=2)
    for case in ("0-none", "1-none", "0-fsdp2"):
        waited, late = (torch.load(tmp_path / f"{case}-{late}.pt") for late in (False, True))
        assert waited.keys() == late.keys() and waited
        assert all(torch.equal(waited[name], late[name]) for name in waited)


def test_gpus_check_late_but_for_fp16() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for late, found in ((None, (True, False)), (True, (True, True)), (False, (False, False))):
        run = Run(guard=Guard(late=late))
        assert (run.checks_late(gpu), run.checks_late(cpu)) == found
    assert not Run(compute=Compute(precision="fp16")).checks_late(gpu)
    with pytest.raises(ValueError, match="run.guard.late.*gradient scaler.*bf16"):
        Run(guard=Guard(late=True), compute=Compute(precision="fp16"))


def test_the_memory_of_copies_is_used_again() -> None:
    made = Recipe.build(settings(late=True, compute={"average": 0.9}))
    trainer = Trainer(made, torch.device("cpu"))
    kept = []
    for step, batch in enumerate(batches(made.data, made.views, trainer.plan, start=0, stop=4)):
        trainer.step(step, batch, Meter(), wait=False)
        copies = trainer.undo._copies
        moments = [t for m in copies._moments.values() for t in m.values()]
        kept.append([t.data_ptr() for t in (*copies._kept, *moments)])
    assert kept[2] == kept[3] and len(kept[3]) > len(list(made.method.parameters()))
    assert math.isfinite(trainer.step(4, batch, Meter())["loss"])
