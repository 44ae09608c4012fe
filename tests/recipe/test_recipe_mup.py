"""`mup` in a recipe: omitted, it changes nothing; set, it reaches weights, groups and encoder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.saving import encoder_of, load_encoder, save_encoder
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.muon import Muon
from mezzotint.optim.mup.method import MuP, build
from mezzotint.optim.mup.shapes import growth
from mezzotint.optim.optimizer import AdamW
from mezzotint.recipe.phases import refuse_other_recipe
from mezzotint.recipe.reading import read_raw
from mezzotint.recipe.recipe import Plan, Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.loop import pretrain
from mezzotint.train.plan import pretrain_plan
from mezzotint.train.preview import _groups as groups_of
from mezzotint.types import Input
from tests import ROOT
from tests.tiny import config


def recipe(width: int, base: int | None = None, **run: Any) -> dict[str, Any]:
    plain = config("simclr", **run)
    plain["encoder"]["width"] = width
    plain["method"]["hidden_dim"] = 8 * width
    if base is not None:
        plain["mup"] = {"base_width": base}
    return resolve_recipe(plain)


def test_left_out_or_null_it_is_no_section() -> None:
    assert "mup" not in recipe(2)
    assert "mup" not in resolve_recipe(recipe(2) | {"mup": None})
    assert "mup" not in Recipe.build(recipe(2)).config()
    assert recipe(2, base=2)["mup"] == {
        "base_width": 2,
        "base_depth": None,
        "attention": "more_heads",
    }
    with pytest.raises(RecipeError, match="mup.base_width"):
        resolve_recipe(recipe(2) | {"mup": {"base_width": "two"}})


def test_at_the_base_width_a_run_is_bit_equal(tmp_path: Path) -> None:
    runs = [
        pretrain(Recipe.build(recipe(2, base)), tmp_path / str(base), progress="quiet")
        for base in (None, 2)
    ]
    first, second = (load_encoder(run).state_dict() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()
         if "loss" in line]
        for run in runs
    ]  # fmt: skip
    assert losses[0] == losses[1] and len(losses[0]) > 1


def test_a_run_keeps_its_roles_to_the_encoder_and_to_fine_tuning(tmp_path: Path) -> None:
    built = Recipe.build(recipe(4, base=2))
    run = pretrain(built, tmp_path / "run", progress="quiet")
    assert Recipe.load(run).config() == built.config()
    encoder = load_encoder(run)
    grown = growth(encoder)
    assert grown == growth(built.encoder)
    assert grown["layer1.0.conv1.weight"].width == 2.0
    tuned = Supervised(Recipe.build(recipe(4)).encoder, num_classes=3, init=str(run / "encoder"))
    rates = {n: g["lr"] for g in AdamW(lr=1.0).build(tuned, 8).param_groups
             for n in g["param_names"]}  # fmt: skip
    assert rates["encoder.layer1.0.conv1.weight"] == 0.5
    assert rates["head.weight"] == rates["encoder.conv1.weight"] == 1.0


def test_an_encoder_without_its_roles_is_refused(tmp_path: Path) -> None:
    built = Recipe.build(recipe(4, base=2))
    made_by = {"recipe": built.config()}
    file = save_encoder(built.encoder, tmp_path / "encoder", made_by) / "encoder.json"
    description = json.loads(file.read_text())
    assert growth(encoder_of(description)) == growth(built.encoder)
    del description["mup"]
    with pytest.raises(ValueError, match="trained in muP, and its description has no `mup`"):
        encoder_of(description)


def test_a_resumed_run_keeps_it() -> None:
    with pytest.raises(RecipeError, match="`mup` must stay left out in a resumed run"):
        refuse_other_recipe(recipe(4), recipe(4, base=2))
    with pytest.raises(RecipeError, match="`mup` must stay as it is in a resumed run"):
        refuse_other_recipe(recipe(4, base=2), recipe(4))
    with pytest.raises(RecipeError, match="`mup.base_width` must stay 2"):
        refuse_other_recipe(recipe(4, base=2), recipe(4, base=4))


def test_the_untrained_baseline_starts_in_mup_too() -> None:
    built = Recipe.build(recipe(4, base=2))
    again = built.untrained_encoder(built.run.seed)
    for name, p in built.encoder.state_dict().items():
        assert torch.equal(p, again.state_dict()[name]), name


def test_all_phases_of_bridle_are_in_mup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedImages, "__len__", lambda self: 64)
    raw = read_raw("image/emoji_bridle")
    raw["data"] = {"kind": "embedded_images", "name": "digits"}
    raw["encoder"] = {"kind": "vit", "width": 16, "depth": 1, "heads": 4, "patch": 2}
    book = {"kind": "rq", "dim": 8, "num_codes": 8, "num_levels": 2}
    raw["method"] |= {"codebook": book, "decoder": {"width": 16, "depth": 1, "heads": 2}}
    raw["run"] |= {"epochs": 1, "batch_size": 32}
    raw["mup"] = {"base_width": 8}
    for phase in raw["phases"]:
        if phase["name"] == "tokenizer":
            phase["method"]["codebook"] = book
            phase["run"] = {"epochs": 1}
    plan = Plan.of(raw)
    run = pretrain_plan(plan, tmp_path / "run", progress="quiet")
    grown = growth(load_encoder(run))
    assert grown["blocks.0.mlp.0.weight"].fan_in == 2.0
    first = growth(Recipe.build(plan.phases[0].config).method)
    roles = {name: one.role for name, one in first.items()}
    assert roles["decoder.hidden"] == "input" and roles["decoder.head.weight"] == "output"
    assert not any("codebook" in name for name in roles)
    second = growth(Recipe.build(plan.phases[1].config).method)
    assert second["tokenizer.head.2.weight"].role == "output"
    assert second["estimator.embed.weight"].role == "input"


def test_the_commands_of_the_page_are_in_mup() -> None:
    """Each is built on the meta device; the inputs are those of its data."""
    page = (ROOT / "docs" / "mup-examples.md").read_text(encoding="utf-8")
    commands = re.findall(r"^mezzotint pretrain (\S+) (.*)$", page, re.M)
    names = [name for name, _ in commands]
    assert names[:4] == ["image/emoji_simclr", "image/emoji_ssql", "image/emoji_bridle",
                         "audio/byol_a_audioset"]  # fmt: skip
    for name, text in commands:
        overrides = [part for part in text.partition(" --out")[0].split()]
        read = read_raw(name, overrides)
        config = Plan.of(read).phases[0].config if "phases" in read else resolve_recipe(read)
        input = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
        if name.startswith("audio"):
            input = Input((1, 64, 96), (0.0,), (1.0,), modality="audio")
        ratio = config["encoder"]["width"] / config["mup"]["base_width"]
        with torch.device("meta"):
            method = build(config["encoder"], config["method"], input)
            grown = growth(MuP(**config["mup"]).apply(method))
        assert ratio > 1.0
        assert {one.fan_in for one in grown.values() if one.role == "hidden"} == {ratio}, name


def test_a_dry_run_shows_the_groups() -> None:
    built = Recipe.build(recipe(4, base=2))
    lines = groups_of(built.optimizer.build(built.method, 8))
    assert lines[0].endswith("2 of the optimizer")
    (own,) = (line for line in lines if "lr 0.0005, weight decay" in line)
    assert "encoder.layer1.0.conv1.weight, …" in own


def test_a_dry_run_says_what_muon_orthogonalizes() -> None:
    built = Recipe.build(recipe(4, base=2))
    lines = groups_of(Muon(lr=0.01).build(built.method, 8))
    rows = [line for line in lines if " orthogonalized, " in line]
    assert any("lr 0.00707," in line and "layer1.0.conv1.weight" in line for line in rows)
    assert 0 < len(rows) < len(lines) - 1
