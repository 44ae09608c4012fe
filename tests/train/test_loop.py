"""Runs, whole: what they leave behind, that they resume bit for bit, and what stops them."""

import datetime
import hashlib
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint import load_encoder
from mezzotint.data.loader import batches
from mezzotint.optim.schedules import Cosine
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.embed import embed
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.faults import POINTS
from mezzotint.train.guard import NotFinite
from mezzotint.train.log import Meter, read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.settings import Run
from mezzotint.train.signals import Interrupted
from mezzotint.types import Batch
from tests.commands import copied, ended
from tests.tiny import METHODS, config


def recipe(method: str = "simclr", **run: Any) -> Recipe:
    return Recipe.build(config(method, **run))


def digest(run: Path) -> str:
    """Hash of every tensor of the newest checkpoint, and of the logged losses."""
    saved, _ = CheckpointStore(run / "checkpoints").latest()
    assert saved is not None
    sums = hashlib.sha256()
    for name, tensor in sorted((saved.model | saved.optimizer).items()):
        sums.update(name.encode() + tensor.contiguous().numpy().tobytes())
    losses = [
        [line[key] for key in ("step", "loss", "lr", "weight_decay", "grad_norm")]
        for line in read_metrics(run / "metrics.jsonl")
    ]
    return sums.hexdigest() + json.dumps(losses)


def test_a_run_leaves_what_design_promises(tmp_path: Path) -> None:
    made = recipe()
    out = pretrain(made, tmp_path / "run", progress="quiet")
    assert {p.name for p in out.iterdir()} == {
        "recipe.yaml",
        "metrics.jsonl",
        "checkpoints",
        "encoder",
        "environment.json",
        "seals.json",
    }
    lines = read_metrics(out / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 8))
    assert {"loss", "lr", "grad_norm", "images_per_second", "data_wait", "epoch"} <= set(lines[0])
    decays = [0.1 - 0.09 * (1.0 + math.cos(math.pi * step / 7)) / 2.0 for step in range(7)]
    assert [line["weight_decay"] for line in lines] == pytest.approx(decays)
    encoder = load_encoder(out)
    assert not encoder.training
    assert made.data.in_memory
    x = (made.data.read_batch(torch.arange(4)) / 255 - 0.5) / 0.5
    torch.testing.assert_close(encoder(x), made.encoder.eval()(x))
    assert Recipe.load(out).config() == made.config()


def test_the_loss_falls(tmp_path: Path) -> None:
    out = pretrain(recipe("simclr", epochs=4), tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.2


@pytest.mark.parametrize("method", METHODS)
def test_resumed_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(recipe(method), tmp_path / "whole", progress="quiet")
    for number, stop in enumerate((2, 4)):
        monkeypatch.setenv("MEZZOTINT_FAULT", f"loop.after_backward:step={stop}:sigterm")
        with pytest.raises(Interrupted):
            pretrain(recipe(method), tmp_path / "parts", resume=number > 0, progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    pretrain(recipe(method), tmp_path / "parts", resume=True, progress="quiet")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


VIT = {"kind": "vit", "width": 16, "depth": 2, "heads": 2, "patch": 4, "drop_path": 0.5}
SUPERVISED = {
    "data": {
        "kind": "labeled",
        "source": {"kind": "embedded_images", "name": "digits"},
        "balance": {"samples": 1024},
    },
    "views": {"kind": "one_view", "crop": {"size": 8}},
    "method": {
        "kind": "supervised", "num_classes": 10,
        "mixing": {"mixup": 10.0, "p": 0.5, "per_sample": True},
        "drop": {"kind": "axes_mask", "ratios": [0.5, 0.0]},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "sections", [{}, SUPERVISED], ids=["drop_path", "samples, mixing and dropped patches"]
)
def test_what_is_drawn_in_training_is_drawn_anew_and_alike_after_a_stop(
    tmp_path: Path, sections: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made() -> Recipe:
        return Recipe.build(resolve_recipe({**config(), "encoder": VIT, **sections}))

    pretrain(made(), tmp_path / "whole", progress="quiet")
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=2:sigterm")
    with pytest.raises(Interrupted):
        pretrain(made(), tmp_path / "parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    torch.rand(7)
    pretrain(made(), tmp_path / "parts", resume=True, progress="quiet")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_forgotten_tensor_is_noticed(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any one tensor, the resumed run refuses or differs."""
    pretrain(recipe("byol"), tmp_path / "whole", progress="quiet")
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=3:sigterm")
    with pytest.raises(Interrupted):
        pretrain(recipe("byol"), tmp_path / "parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    store = CheckpointStore(tmp_path / "parts" / "checkpoints")
    saved, _ = store.latest()
    assert saved is not None
    chosen = [
        n
        for n in getattr(saved, part)
        if n.startswith(("target_encoder.conv1", "encoder.conv1", "predictor"))
    ]
    del getattr(saved, part)[chosen[0]]
    store.save(saved.step, saved.model, saved.optimizer, saved.state)
    try:
        pretrain(recipe("byol"), tmp_path / "parts", resume=True, progress="quiet")
    except (ValueError, KeyError):
        return
    assert digest(tmp_path / "parts") != digest(tmp_path / "whole")


def test_a_run_that_is_not_finite_stops_with_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=3:nan")
    made = recipe("byol", guard={"action": "abort"}, checkpoints={"every_steps": 1})
    with pytest.raises(NotFinite, match="step 3.*Lower optimizer.lr"):
        pretrain(made, tmp_path / "run", progress="quiet")
    assert all(
        torch.isfinite(t).all() for t in made.method.state_dict().values() if t.is_floating_point()
    )
    saved, _ = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
    assert saved is not None and saved.step == 3


def test_a_step_that_is_not_finite_is_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=3:nan")
    out = pretrain(recipe("byol"), tmp_path / "run", progress="quiet")
    lines = read_metrics(out / "metrics.jsonl")
    assert lines[3]["loss"] is None and lines[3]["skipped"] == 1 and lines[-1]["loss"] is not None
    assert json.loads((out / "environment.json").read_text())["skipped_steps"] == [3]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(tmp_path: Path, precision: str) -> None:
    out = pretrain(
        recipe("simclr", compute={"precision": precision}), tmp_path / "run", progress="quiet"
    )
    losses = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    assert all(loss is not None for loss in losses) and losses[-1] < losses[0] + 0.2


def test_micro_batches_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="`run.micro_batches` must be 1 for simclr, because .*negatives"
    ):
        pretrain(recipe("simclr", micro_batches=2), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run").exists()


def test_micro_batches_run_where_the_method_allows_them(tmp_path: Path) -> None:
    out = pretrain(recipe("byol", micro_batches=4), tmp_path / "run", progress="quiet")
    assert len(read_metrics(out / "metrics.jsonl")) == 7


def test_a_small_data_set_trains_with_one_batch_an_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = pretrain(recipe("simclr", batch_size=2000), tmp_path / "run", progress="json")
    notes = [line for line in capsys.readouterr().out.splitlines() if '"note"' in line]
    assert any("run.batch_size is 1797 instead of 2000: an epoch has 1797" in n for n in notes)
    metrics = read_metrics(out / "metrics.jsonl")
    assert [line["epoch"] for line in metrics] == list(range(1, len(metrics) + 1))
    assert "batch_size: 2000" in (out / "recipe.yaml").read_text()
    run = Run(batch_size=64, micro_batches=2)
    assert run.lowered(64, 4) is run and run.lowered(63, 4).batch_size == 56
    assert run.lowered(7, 4) is run  # not a sample for each process: refused later


def test_other_data_cannot_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=2:sigterm")
    with pytest.raises(Interrupted):
        pretrain(recipe(), tmp_path / "run", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    other = recipe()
    monkeypatch.setattr(other.data, "fingerprint", lambda: "other")
    with pytest.raises(ValueError, match="The data changed since the checkpoint"):
        pretrain(other, tmp_path / "run", resume=True, progress="quiet")


KILLS = [name for name in POINTS if name.startswith("checkpoint.")]


def train(made: dict[str, Any], out: Path) -> None:
    """Train in a process of its own."""
    pretrain(Recipe.build(made), out, progress="quiet")


def test_killed_while_saving_costs_nothing_but_time(tmp_path: Path) -> None:
    """After SIGKILL at any point of a save, the previous checkpoint loads."""
    made = config("byol", checkpoints={"every_steps": 2, "keep": 2})
    whole = pretrain(Recipe.build(made), tmp_path / "whole", progress="quiet")
    for where in KILLS:
        done = ended(train, made, tmp_path / where, cwd=tmp_path, fault=f"{where}:step=4:kill")
        assert done.returncode == -signal.SIGKILL, where
        saved, problems = CheckpointStore(tmp_path / where / "checkpoints").latest()
        assert saved is not None and saved.step in (2, 4) and not problems, where
        pretrain(Recipe.build(made), tmp_path / where, resume=True, progress="quiet")
        assert digest(tmp_path / where) == digest(whole), where


def test_signals_stop_at_the_next_step_and_the_second_at_once(tmp_path: Path) -> None:
    made, out, said = config("simclr", epochs=10_000), tmp_path / "run", tmp_path / "stderr"
    with copied(train, (made, out), [os.devnull, str(said)], cwd=tmp_path) as process:
        deadline = time.monotonic() + 90
        while not read_metrics(out / "metrics.jsonl") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
        assert process.exitcode == 1
    assert "Interrupted" in said.read_text(encoding="utf-8")
    saved, _ = CheckpointStore(out / "checkpoints").latest()
    assert saved is not None and saved.step == read_metrics(out / "metrics.jsonl")[-1]["step"]
    assert not (out / ".lock").exists()


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    made, fault = config("byol", checkpoints={"every_steps": 2}), "checkpoint.after_model:step=4"
    done = ended(train, made, tmp_path / "run", cwd=tmp_path, fault=f"{fault}:enospc")
    assert done.returncode == 1 and "No space left on device" in done.stderr
    # The write is in the background, and a last try, at the end of the next step, finds room.
    assert "The last good weights are saved in" in done.stderr
    saved, _ = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
    assert saved is not None and saved.step == 5
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


@pytest.mark.slow
def test_compiled_trains_as_uncompiled(tmp_path: Path) -> None:
    losses = {}
    for compiled in (False, True):
        out = pretrain(
            recipe("byol", compute={"compile": compiled}),
            tmp_path / str(compiled),
            progress="quiet",
        )
        losses[compiled] = [line["loss"] for line in read_metrics(out / "metrics.jsonl")]
    assert losses[True] == pytest.approx(losses[False], abs=5e-3)


def test_time_is_counted_once(tmp_path: Path) -> None:
    began = time.monotonic()
    out = pretrain(recipe(), tmp_path / "run", progress="quiet")
    took = time.monotonic() - began
    seconds = json.loads((out / "environment.json").read_text())["seconds"]
    assert 0 < seconds <= took
    assert seconds == pytest.approx(read_metrics(out / "metrics.jsonl")[-1]["seconds"], abs=0.01)


def test_started_is_when_it_started(tmp_path: Path) -> None:
    made = recipe()
    trainer_began = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    out = pretrain(made, tmp_path / "run", progress="quiet")
    noted = json.loads((out / "environment.json").read_text())
    started = datetime.datetime.fromisoformat(noted["started"])
    first_write = datetime.datetime.fromtimestamp(
        (out / "recipe.yaml").stat().st_mtime, datetime.UTC
    )
    assert trainer_began <= started <= first_write
    assert (
        json.loads((out / "encoder" / "encoder.json").read_text())["made_by"]["started"]
        == noted["started"]
    )


def test_embedding_reads_each_sample_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe()
    reads: list[int] = []
    read = made.data.read
    monkeypatch.setattr(made.data, "read", lambda index: (reads.append(index), read(index))[1])  # type: ignore[func-returns-value]
    embed(made.encoder, made.data, tmp_path / "f.npz")
    assert sorted(reads) == list(range(1797))


def labeled(method: dict[str, Any], **run: Any) -> Recipe:
    """A recipe on a part of the embedded digits that come with their labels."""
    plain = config("simclr", **{"batch_size": 64} | run)
    data = {"kind": "labeled", "source": plain["data"], "fraction": 0.1}
    encoder, views = (
        {"kind": "resnet8", "stem": "small", "width": 2},
        {"kind": "two_views", "policy": "identity"},
    )
    parts = {"data": data, "method": method, "encoder": encoder, "views": views}
    return Recipe.build(resolve_recipe({**plain, **parts}))


def test_a_run_goes_on_in_the_directory_it_is_given_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def made() -> Recipe:
        return labeled({"kind": "simclr", **METHODS["simclr"]}, epochs=2)

    whole = pretrain(made(), "elsewhere/whole", progress="quiet")
    Path("elsewhere/parts").mkdir()  # one that exists, and is empty, is as good as none
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=2:sigterm")
    with pytest.raises(Interrupted):
        pretrain(made(), "elsewhere/parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    shutil.move("elsewhere/parts", "moved")
    out = pretrain(made(), "moved", resume=True, progress="quiet")
    assert out == Path("moved") and {p.name for p in tmp_path.iterdir()} == {"elsewhere", "moved"}
    steps = [line["step"] for line in read_metrics(out / "metrics.jsonl")]
    assert steps == [1, 2, 3, 4]
    for name, tensor in load_encoder(whole).state_dict().items():
        assert torch.equal(load_encoder(out).state_dict()[name], tensor)


def test_an_epoch_ends_where_the_rate_and_the_log_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch has whole batches only: none repeats a sample, or runs into the next epoch."""
    seen: list[Tensor] = []
    step = Trainer.step

    def watched(
        self: Trainer, number: int, batch: Batch, *rest: Any, wait: bool
    ) -> dict[str, float]:
        seen.append(batch.ids)
        return step(self, number, batch, *rest, wait=wait)

    monkeypatch.setattr(Trainer, "step", watched)
    made = labeled({"kind": "simclr", **METHODS["simclr"]}, epochs=3, batch_size=32)
    count = len(made.data)
    assert 4 * 32 < count < 5 * 32
    made.schedule = Cosine(warmup_epochs=1.0)
    lines = read_metrics(pretrain(made, tmp_path / "run", progress="quiet") / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [n / 4 for n in range(1, 13)]
    epochs = [torch.cat(seen[first : first + 4]) for first in (0, 4, 8)]
    assert all(len(set(epoch.tolist())) == 4 * 32 for epoch in epochs)
    left_out = [set(range(count)) - set(epoch.tolist()) for epoch in epochs]
    assert all(len(rest) == count - 4 * 32 for rest in left_out) and left_out[0] != left_out[1]
    rates = [line["lr"] for line in lines]
    assert (
        rates[0] == 0.0
        and rates[3] < 1e-3
        and rates[4] == pytest.approx(1e-3)
        and rates[8] == pytest.approx(5e-4)
    )


def test_an_fp16_run_goes_on_after_a_step_that_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gradient scaler knows of the step too, and would refuse the next one otherwise."""
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=1:nan")
    sections = config("simclr", batch_size=16)
    sections["run"]["compute"]["precision"] = "fp16"
    made = Recipe.build(resolve_recipe(sections))
    trainer = Trainer(made, torch.device("cpu"))
    weight = next(made.method.parameters())
    moved, losses = [], []
    for step, batch in enumerate(batches(made.data, made.views, trainer.plan, start=0, stop=8)):
        before = weight.detach().clone()
        losses.append(trainer.step(step, batch, Meter())["loss"])
        moved.append(not torch.equal(before, weight))
    assert [math.isfinite(loss) for loss in losses] == [True, False, *[True] * 6]
    # The scale is too large at first, and is halved until gradients fit.
    assert trainer.state.guard.skipped == [1] and not moved[1] and moved[-1]
