"""A dry run: the recipe, and what the whole run will cost."""

import json
import re
import subprocess

import pytest
import yaml

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.preview import (
    _duration,
    extrapolated,
    memory_words,
    micro_batches,
    preview,
)
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


def point(size: int, peak: float, seconds: float = 0.1) -> dict[str, float]:
    return {"size": size, "peak": peak, "seconds": seconds, "free": 1000 * 2**20, "steps": 2}


def test_memory_and_time_are_linear_in_the_samples() -> None:
    found = extrapolated([point(4, 140 * 2**20), point(8, 180 * 2**20, 0.2)], 256)
    assert found["peak"] == (100 + 10 * 256) * 2**20 and found["seconds"] == pytest.approx(6.4)
    assert memory_words(found, 256, "cpu") == (
        "2,660 MiB at the peak on cpu, extrapolated from steps of 4 and 8 samples: it does not fit "
        "into the 1,000 MiB that are free; run.batch_size=80 should fit"
    )
    small = extrapolated([point(16, 100 * 2**20)], 16)
    assert memory_words(small, 16, "cpu") == "100 MiB at the peak on cpu, median of 5 steps"


@pytest.mark.parametrize(
    ("size", "expected"), [(256, [4, 8]), (100, [4, 10]), (6, [6]), (2, [2]), (7, [7])]
)
def test_micro_batches_divide_the_batch(size: int, expected: list[int]) -> None:
    assert micro_batches(size) == expected
    assert micro_batches(256, 16) == [16, 32]


def test_a_process_that_the_system_ended_leaves_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = json.dumps(extrapolated([point(4, 900e6), point(8, 1800e6)], 256))
    for out, said in ((line, "it does not fit"), ("", "already needs more than there is")):
        done = subprocess.CompletedProcess([], -9, stdout=out, stderr="")
        counted = {"trained": 2, "frozen": 0} if out else {}
        done.stdout = json.dumps(json.loads(out) | counted) if out else ""
        monkeypatch.setattr(subprocess, "run", lambda *_, done=done, **__: done)
        memory = next(t for t in preview(Recipe.build(config())).splitlines() if "# memory" in t)
        assert said in memory


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5 s"), (600.0, "10.0 min"), (7200.0, "2.0 h")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
