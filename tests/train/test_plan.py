"""Phases: what is handed on, what is resumed, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.encoders.saving import load_encoder
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import Trainer
from mezzotint.train.plan import pretrain_plan
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.signals import Interrupted
from tests.train.tiny_plan import CODEBOOK, raw


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain_plan(Plan.of(raw()), tmp_path_factory.mktemp("plan") / "run", progress="quiet")


def left(folder: Path) -> dict[str, torch.Tensor]:
    saved, problems = CheckpointStore(folder / "checkpoints").latest()
    assert saved is not None and not problems
    return saved.model


def test_each_phase_is_a_run_and_the_last_one_stands_at_the_top(done: Path) -> None:
    assert sorted(p.name for p in done.iterdir() if p.is_dir()) == [
        "1-encoder",
        "2-tokenizer",
        "3-encoder",
        "encoder",
    ]
    last = left(done / "3-encoder")
    for name, value in load_encoder(done).state_dict().items():
        assert torch.equal(value, last[f"encoder.{name}"])
    recipe = Recipe.load(done)
    assert recipe.config()["method"]["tokenizer"]["kind"] == "learned_tokenizer"
    assert (done / "metrics.jsonl").read_text() == (
        done / "3-encoder" / "metrics.jsonl"
    ).read_text()
    for line in (done / "metrics.jsonl").read_text().splitlines():
        logs = json.loads(line)
        assert {
            "codes/usage_1",
            "codes/perplexity_2",
            "accuracy_1",
            "unigram_2",
            "codes/residual_2",
        } <= logs.keys()


def test_parts_are_handed_on(done: Path) -> None:
    first, second, third = (left(done / name) for name in ("1-encoder", "2-tokenizer", "3-encoder"))
    for name, value in first.items():
        if name.startswith("encoder."):
            assert torch.equal(second[name], value)  # the teacher
            assert name.endswith("cls") or not torch.equal(third[name], value)
    handed = [name for name in second if name.startswith(("tokenizer.", "codebook."))]
    assert handed and all(torch.equal(second[name], third[name]) for name in handed)


def test_scratch_and_a_tokenizer_from_the_encoder(tmp_path: Path) -> None:
    config = raw()
    config["phases"] = config["phases"][:2]
    config["phases"][1]["load"]["tokenizer.network"] = "encoder"
    config["phases"][1]["optimizer"] = {"lr": 1e-12}
    out = pretrain_plan(Plan.of(config), tmp_path / "run", progress="quiet")
    second = left(out / "2-tokenizer")
    for name in (n for n in second if n.startswith("encoder.")):
        torch.testing.assert_close(
            second[f"tokenizer.network.{name.removeprefix('encoder.')}"], second[name]
        )


def test_a_plan_that_was_killed_goes_on_to_the_same_weights(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = Plan.of(raw()), tmp_path / "run"
    original, steps = Trainer.update, []

    def update(self: Trainer, step: int, *rest: Any) -> dict[str, float]:
        steps.append(step)
        found = original(self, step, *rest)
        if len(steps) == 10:  # in the middle of the tokenizer phase
            monkeypatch.setattr(Trainer, "update", original)
            raise Interrupted(2)
        return found

    plan.phases[1].config["run"]["checkpoints"]["every_steps"] = 1
    monkeypatch.setattr(Trainer, "update", update)
    with pytest.raises(Interrupted):
        pretrain_plan(plan, out, progress="quiet")
    assert not (out / "encoder").exists() and left(out / "2-tokenizer")
    pretrain_plan(plan, out, resume=True, progress="quiet")
    for name in ("1-encoder", "2-tokenizer", "3-encoder"):
        expected, found = left(done / name), left(out / name)
        assert expected.keys() == found.keys() and all(
            torch.equal(expected[key], found[key]) for key in found
        ), name


def test_the_whole_plan_in_bf16_is_finite(tmp_path: Path) -> None:
    config = raw(precision="bf16")
    decoder = {"width": 16, "depth": 1, "heads": 2}
    joint = {
        "kind": "bridle_joint",
        "codebook": CODEBOOK,
        "estimator_depth": 1,
        "every": 2,
        "decoder": decoder,
    }
    config["phases"].append({"name": "joint", "load": {"encoder": "encoder"}, "method": joint})
    out = pretrain_plan(Plan.of(config), tmp_path / "run", progress="quiet")
    for folder in sorted(out.glob("[1-4]-*")):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines and all(line["loss"] is not None and line["skipped"] == 0 for line in lines)
        assert all(value.isfinite().all() for value in left(folder).values())


def test_a_resumed_phase_with_another_book_is_refused(done: Path) -> None:
    config = raw()
    for phase in config["phases"][1:]:
        phase["method"]["codebook"] = {**CODEBOOK, "commitment": 0.5}
    with pytest.raises(
        RecipeError,
        match=r"`method.codebook` must stay .* \(2-tokenizer\), got .*'commitment': 0.5.* Start",
    ):
        pretrain_plan(Plan.of(config), done, resume=True, progress="quiet")


def test_a_book_of_another_size_than_the_one_that_was_left_is_refused(done: Path) -> None:
    config = raw()
    config["phases"].append(
        {**config["phases"][2], "name": "more", "method": {"tokenizer": "learned_tokenizer"}}
    )
    config["phases"][3]["method"]["codebook"] = {**CODEBOOK, "num_codes": 12}
    config["phases"][3]["load"] = {"tokenizer": "tokenizer", "codebook": "codebook"}
    with pytest.raises(
        RecipeError,
        match=r"`phases.3.load` takes the codebook of phase 2 \(encoder\), whose num_codes is 24",
    ):
        pretrain_plan(Plan.of(config), done, resume=True, progress="quiet")


def test_a_directory_without_a_plan_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(
        RunDirectoryInUse, match=r"has no recipe.yaml, so there is no run to resume"
    ):
        pretrain_plan(Plan.of(raw()), tmp_path, resume=True)
