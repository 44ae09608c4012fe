"""`mup` in a recipe: omitted, it changes nothing; set, it reaches weights, groups and encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.encoders.saving import encoder_of, load_encoder, save_encoder
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.mup.shapes import growth
from mezzotint.optim.optimizer import AdamW
from mezzotint.recipe.phases import refuse_other_recipe
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.loop import pretrain
from mezzotint.train.preview import preview
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
    assert recipe(2, base=2)["mup"] == {"base_width": 2, "base_depth": None}
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


def test_the_preview_shows_the_groups() -> None:
    text = preview(Recipe.build(recipe(4, base=2)))
    assert "# groups       2 of the optimizer" in text
    assert "#   lr 0.0005, weight decay" in text and "encoder.layer1.0.conv1.weight, …" in text
