"""A dry run: the recipe, and what the whole run will cost."""

import re

import pytest
import yaml

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.preview import _duration, preview
from tests.tiny import config


@pytest.mark.parametrize(
    ("method", "views", "said"),
    [
        (
            {"kind": "byol", "hidden_dim": 8, "dim": 8},
            {"num_global": 2},
            "4 per sample: 4 forward passes with",
        ),
        (
            {"kind": "simsiam", "hidden_dim": 8, "dim": 8},
            {"mode": "sampled"},
            "2 per sample: 2 forward passes with",
        ),
    ],
)
def test_the_dry_run_says_views_and_passes(
    method: dict[str, object], views: dict[str, object], said: str
) -> None:
    policies = [{"kind": "simclr"}, {"kind": "rand_augment"}]
    config = {
        "data": {"kind": "embedded_images", "name": "digits"},
        "views": {"kind": "multi_augment", "policies": policies, **views},
        "encoder": {"kind": "resnet18", "stem": "small", "width": 2},
        "method": method,
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "run": {"epochs": 1, "batch_size": 16},
    }
    text = preview(Recipe.build(resolve_recipe(config)))
    assert said in text
    assert f"and {4 if method['kind'] == 'byol' else 0} without" in text


def test_a_dry_run_gives_the_recipe_and_the_steps_of_the_whole_run() -> None:
    recipe = Recipe.build(config())
    text = preview(recipe)
    assert yaml.safe_load(text) == recipe.config()
    facts = dict(re.findall(r"^# (\w+) +(.*)$", text, re.M))
    assert list(facts) == ["samples", "steps", "encoder", "views", "memory", "groups", "time"]
    assert facts["samples"] == "1,797" and facts["steps"] == "7 (7 per epoch)"
    count = sum(p.numel() for p in recipe.encoder.parameters())
    assert facts["encoder"].startswith(f"{count / 1e6:.2f} M parameters, {recipe.encoder.dim} ")


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5 s"), (600.0, "10.0 min"), (7200.0, "2.0 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
