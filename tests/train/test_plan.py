"""Phases and the parts they load: what is handed on, what is resumed, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate
from typer.testing import CliRunner

from mezzotint.cli import app
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import Method
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import Trainer
from mezzotint.train.plan import check_plan, load_parts, pretrain_plan
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.signals import Interrupted
from mezzotint.types import Input
from tests.train.test_dry_run import ending, line
from tests.train.tiny_plan import CODEBOOK, raw


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain_plan(Plan.of(raw()), tmp_path_factory.mktemp("plan") / "run", progress="quiet")


def left(folder: Path) -> dict[str, Tensor]:
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
    for text in (done / "metrics.jsonl").read_text().splitlines():
        logs = json.loads(text)
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

    def update(self: Trainer, step: int, *rest: Any, wait: bool) -> dict[str, float]:
        steps.append(step)
        found = original(self, step, *rest, wait=wait)
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


DIGITS = Input((1, 8, 8), (0.0,), (1.0,))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an encoder phase and a tokenizer phase."""
    config = raw()
    config["phases"] = config["phases"][:2]
    folder = tmp_path_factory.mktemp("plan") / "run"
    return pretrain_plan(Plan.of(config), folder, progress="quiet")


def method(phase: int = 0, **encoder: Any) -> Method:
    config = raw()
    config["encoder"] |= encoder
    return Recipe.build(Plan.of(config).phases[phase].config).method


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            {"estimator": "estimator"},
            r"`phases.1.load` must name parts of bridle \(codebook, .*, got 'estimator'",
        ),
        (
            {"encoder": "teacher"},
            r"`phases.1.load.encoder` must be a part of an earlier phase \(1-enc.*, or a path, got "
            "'teacher'",
        ),
        (
            {"decoder": "encoder"},
            r"`phases.1.load.decoder` differs from the part that 1-encoder left, first in",
        ),
    ],
)
def test_parts_that_no_phase_left_are_refused(
    run: Path, load: dict[str, str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_parts(method(), load, [run / "1-encoder"], "phases.1.load")


def test_a_first_phase_starts_from_the_parts_of_another_run(run: Path) -> None:
    """The newest phase that has a part counts: the decoder is of the first, the codes of both."""
    third = method(2)
    load = {part: str(run) for part in ("encoder", "decoder", "tokenizer", "codebook")}
    notes = load_parts(third, load, [], "load")
    first, second = left(run / "1-encoder"), left(run / "2-tokenizer")
    state = third.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, (first if name.startswith("decoder.") else second)[name]), name
    assert third.given == tuple(load)
    assert notes[1] == f"load.decoder: loaded from {run / '1-encoder'}"


def test_a_saved_encoder_starts_an_encoder_and_a_tokenizer(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    saved = ViT(DIGITS, width=16, depth=1, heads=2, patch=2)
    saved.input = Input((1, 8, 8), (0.3,), (0.2,))
    save_encoder(saved, tmp_path / "e")
    second = method(1)
    load_parts(
        second, {"encoder": str(tmp_path / "e"), "tokenizer.network": f"{run}/encoder"}, [], ""
    )
    for name, tensor in saved.state_dict().items():
        assert torch.equal(second.encoder.state_dict()[name], tensor)
    trained = load_encoder(run).state_dict()
    network = second.get_submodule("tokenizer.network").state_dict()
    assert all(torch.equal(network[name], tensor) for name, tensor in trained.items())
    assert second.encoder.input.mean == (0.3,)  # views are normalized as the encoder expects


def imagenet_file(path: Path) -> dict[str, Tensor]:
    """Write what timm's ViT of 32 × 32 color images has."""
    torch.manual_seed(1)
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=2, embed_dim=16, depth=1, num_heads=2, num_classes=5
    )
    state: dict[str, Tensor] = network.state_dict()
    save_file(state, path)
    return state


def test_a_file_of_timm_starts_an_encoder_of_other_samples(tmp_path: Path) -> None:
    """Colors are summed, and positions of images resampled; of spectrograms they are cut."""
    state = imagenet_file(tmp_path / "vit.safetensors")
    first = method(positions="learned", pool="patches")
    notes = load_parts(first, {"encoder": str(tmp_path / "vit.safetensors")}, [], "load")
    own = first.encoder.state_dict()
    summed = state["patch_embed.proj.weight"].sum(1).flatten(1)
    torch.testing.assert_close(own["patches.project.weight"], summed)
    plane = state["pos_embed"][:, 1:].view(1, 16, 16, 16).permute(0, 3, 1, 2)
    small = interpolate(plane, size=(4, 4), mode="bicubic", antialias=True)
    torch.testing.assert_close(own["places.table.weight"], small[0].flatten(1).T)
    assert "positions resized from 257 to 16" in notes[0]
    assert torch.equal(own["blocks.0.mlp.0.weight"], state["blocks.0.mlp.fc1.weight"])
    assert notes[0].startswith("load.encoder: loaded 18/18 tensors")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"heads": 4}, r"`load.encoder`: the encoder of `.*` has heads 2, and the recipe's has 4"),
        ({"width": 24}, r"has width 16, and the recipe's has 24. Copy the encoder section"),
        ({"pool": "patches"}, "has pool 'mean', and the recipe's has 'patches'"),
    ],
)
def test_an_encoder_that_differs_is_refused(
    run: Path, encoder: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_parts(method(**encoder), {"encoder": str(run)}, [], "load")


def test_paths_that_hold_no_such_part_are_refused(run: Path, tmp_path: Path) -> None:
    imagenet_file(tmp_path / "vit.safetensors")
    save_encoder(
        ViT(Input((1, 16, 16), (0.0,), (1.0,)), width=16, depth=1, heads=2, patch=2), tmp_path / "e"
    )
    file = str(tmp_path / "vit.safetensors")
    for load, message in (
        ({"encoder": "runs/none"}, "`load.encoder` must be a run, an encoder directory, or a file"),
        ({"encoder": str(tmp_path)}, "must be a run, an encoder directory, or a file of weights"),
        ({"codebook": file}, "`load.codebook` is not an encoder, so it cannot come from the file"),
        ({"decoder.head": str(tmp_path / "e")}, "has no decoder.head. Give a run that trained it"),
        ({"encoder": str(tmp_path / "e")}, r"takes samples of shape \[1, 16, 16\]"),
        ({"encoder": file}, "has a class token, and the encoder has none. Set `encoder.pool"),
        ({"encoder.blocks": str(run)}, None),
    ):
        if message is None:
            load_parts(method(), load, [], "load")
            continue
        with pytest.raises(ValueError, match=message):
            load_parts(method(), load, [], "load")


def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """Two codes a level need a decoder of twice the outputs, which no key of the decoder shows."""
    config = raw()
    config["phases"][2]["method"]["codes_per_level"] = 2
    with pytest.raises(
        RecipeError,
        match=r"`phases.2.load.decoder` must have the size that 1-encoder left: head.weight is "
        r"\(48, 16\) there, and \(96, 16\) here",
    ):
        pretrain_plan(Plan.of(config), tmp_path / "run", progress="quiet")
    config = raw()
    config["phases"][1]["load"] = {"encoder": "teacher"}
    plan = Plan.of(config)
    with pytest.raises(RecipeError, match="must be a part of an earlier phase .*, got 'teacher'"):
        check_plan(plan, Recipe.build(plan.phases[0].config))
    config["phases"][1]["load"] = {"encoder": "runs/gone"}
    with pytest.raises(RecipeError, match="`phases.1.load.encoder` must be a run"):
        pretrain_plan(Plan.of(config), tmp_path / "run", progress="quiet")
    assert not (tmp_path / "run").exists()


def test_a_recipe_without_phases_starts_from_a_path_and_goes_on_without_it(
    run: Path, tmp_path: Path
) -> None:
    config = raw()
    del config["phases"]
    config["method"] = {**config["method"], "tokenizer": "learned_tokenizer"}
    earlier = tmp_path / "earlier"
    shutil.copytree(run, earlier)
    load = {part: str(earlier) for part in ("encoder", "tokenizer", "codebook")}
    out = pretrain_plan(Plan.of({**config, "load": load}), tmp_path / "run", progress="quiet")
    assert [p.name for p in sorted(out.iterdir()) if p.is_dir()] == ["1-bridle", "encoder"]
    handed = left(out / "1-bridle")
    for name, tensor in left(run / "2-tokenizer").items():
        if name.startswith(("tokenizer.", "codebook.")):
            assert torch.equal(handed[name], tensor)
    assert load_encoder(out).config == load_encoder(run).config
    shutil.rmtree(earlier)
    again = pretrain_plan(Plan.of({**config, "load": load}), out, resume=True, progress="quiet")
    assert again == out


def test_the_command_line_says_where_a_run_starts(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(monkeypatch, line())  # the steps of a dry run are measured elsewhere
    arguments = ["pretrain", "image/emoji_bridle", f"load.encoder={run}", "--dry-run"]
    refused = CliRunner().invoke(app, arguments)
    assert "`load.encoder`: the encoder of" in str(refused.exception)
    assert "Copy the encoder section" in str(refused.exception)
    file = tmp_path / "one.yaml"
    config = raw()
    del config["phases"]
    file.write_text(json.dumps(config))
    shown = CliRunner().invoke(app, ["pretrain", str(file), f"load.encoder={run}", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert f"starts from encoder: {run}" in shown.output
