"""A dry run: the recipe, and what the whole run will cost."""

import contextlib
import io
import json
from typing import Any

import pytest

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.dry_run import FACTS
from mezzotint.train.preview import (
    duration,
    extrapolated,
    growing_sizes,
    measure_stdin,
    memory_words,
)
from tests.tiny import config


def said(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the measuring process writes, measured in this one."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps([config, "tiny"])))
    with contextlib.redirect_stdout(out):
        measure_stdin()
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("method", "views", "passes"),
    [
        ({"kind": "byol", "hidden_dim": 8, "dim": 8}, {"num_global": 2}, (4, 4, 4)),
        ({"kind": "simsiam", "hidden_dim": 8, "dim": 8}, {"mode": "sampled"}, (2, 2, 0)),
    ],
)
def test_the_dry_run_says_views_and_passes(
    method: dict[str, object],
    views: dict[str, object],
    passes: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policies = [{"kind": "simclr"}, {"kind": "rand_augment"}]
    config = {
        "data": {"kind": "embedded_images", "name": "digits"},
        "views": {"kind": "multi_augment", "policies": policies, **views},
        "encoder": {"kind": "resnet18", "stem": "small", "width": 2},
        "method": method,
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "run": {"epochs": 1, "batch_size": 16},
        "evaluate": {"probes": [{"kind": "knn"}], "seeds": 1},
    }
    last = said(resolve_recipe(config), monkeypatch)[-1]["known"]
    count, trained, frozen = passes
    words = f"{count} per sample: {trained} forward passes with gradient and {frozen} without"
    assert last["views"].startswith(words)


def test_what_is_known_is_written_after_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    own = config()
    lines = said(own, monkeypatch)
    recipe = Recipe.build(own)
    measured = {"data", "recipe", "run", "training", "memory", "views"}
    assert [set(line["known"]) for line in lines[:4]] == [
        {"data", "recipe", "run"}, measured, measured, {*FACTS, "views"},
    ]  # fmt: skip
    known = lines[-1]["known"]
    assert "1,797 images" in known["data"] and known["recipe"].startswith("tiny; resnet")
    count = sum(p.numel() for p in recipe.encoder.parameters())
    assert f"{count / 1e6:.2f} M parameters, {recipe.encoder.dim} features" in known["recipe"]
    assert known["run"] == "1 epochs of 1,797 samples: 7 steps of 256 (7 per epoch)"
    assert "ms per step" in known["training"] and "MiB at the peak on cpu" in known["memory"]
    assert "with the page, for 1,797 samples" in known["evaluation"]
    assert lines[-1]["groups"][0].startswith("groups ")


def test_what_cannot_be_built_is_refused_as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    own = config()
    own["run"]["batch_size"] = 250
    own["run"]["micro_batches"] = 3
    (line,) = said(own, monkeypatch)
    assert "`run.micro_batches` must be 1 for simclr" in line["refused"] and not line["is_os"]


def point(size: int, peak: int, seconds: float = 0.1, before: int = 100) -> dict[str, float]:
    return {
        "size": size, "before": before * 2**20, "peak": peak * 2**20, "seconds": seconds,
        "free": 1000 * 2**20, "steps": 2, "once": 0.0,
    }  # fmt: skip


def test_memory_and_time_are_linear_in_the_samples() -> None:
    found = extrapolated([point(4, 140), point(16, 260, 0.4)], 256)
    assert found["peak"] == (100 + 10 * 256) * 2**20 and found["seconds"] == pytest.approx(6.4)
    assert memory_words(found, 256, "cpu") == (
        "2,660 MiB at the peak on cpu, extrapolated from steps of 16 samples: it does not fit "
        "into the 1,000 MiB that are free; run.batch_size=80 should fit"
    )
    # The process needs most of it before its first step, which samples do not multiply.
    assert extrapolated([point(4, 840, before=800)], 64)["peak"] == (800 + 10 * 64) * 2**20
    small = extrapolated([point(16, 100)], 16)
    assert memory_words(small, 16, "cpu") == "100 MiB at the peak on cpu, median of 5 steps"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(256, [4, 16, 64, 256]), (100, [4, 20, 100]), (6, [6]), (2, [2]), (7, [7])],
)
def test_sizes_grow_to_the_batch_and_divide_it(size: int, expected: list[int]) -> None:
    assert growing_sizes(size) == expected
    assert growing_sizes(256, 16) == [16, 64, 256]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5 s"), (600.0, "10.0 min"), (7200.0, "2.0 h")]
)
def testdurations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
