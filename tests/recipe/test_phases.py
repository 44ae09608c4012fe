"""Phases as plain data: unfolded, merged, and refused before anything is written."""

from typing import Any

import pytest

from mezzotint.recipe.phases import merged, refuse_other_recipe, unfold
from mezzotint.recipe.recipe import Plan
from mezzotint.recipe.schema import RecipeError
from tests.tiny import config

RAW = {
    "data": {"kind": "embedded_images", "name": "digits"},
    "encoder": {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": 2},
    "method": {"kind": "bridle", "codebook": {"kind": "rq"}},
    "optimizer": {"kind": "adamw", "lr": 1e-3},
}


def test_mappings_merge_key_by_key_and_other_kinds_replace() -> None:
    base = {"method": {"kind": "a", "x": 1, "y": {"z": 2}}, "run": {"epochs": 3}}
    assert merged(base, {"method": {"y": {"w": 4}}}) == {
        "method": {"kind": "a", "x": 1, "y": {"z": 2, "w": 4}}, "run": {"epochs": 3},
    }  # fmt: skip
    assert merged(base, {"method": {"kind": "b"}})["method"] == {"kind": "b"}
    assert merged({"method": "a"}, {"method": {"x": 1}})["method"] == {"kind": "a", "x": 1}


def test_a_recipe_without_phases_is_a_single_run() -> None:
    assert unfold({"run": 1}) == [("", {}, {"run": 1})]


def test_a_phase_is_named_by_its_method_and_loads_parts() -> None:
    load = {"encoder": "encoder"}
    phases = [{}, {"method": {"kind": "mae"}, "load": load}, {"name": "last", "run": {"epochs": 2}}]
    unfolded = unfold({**RAW, "run": {"epochs": 9, "seed": 1}, "phases": phases})
    assert [name for name, _, _ in unfolded] == ["bridle", "mae", "last"]
    assert [parts for _, parts, _ in unfolded] == [{}, load, {}]
    assert unfolded[1][2]["method"] == {"kind": "mae"}
    assert unfolded[2][2]["run"] == {"epochs": 2, "seed": 1}


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([{"load": {"encoder": "encoder"}}], r"`phases.0.load` must be empty"),
        ([], r"`phases` must be a list of mappings, got \[\]"),
        ([{"load": "encoder"}], r"`phases.0.load` must be a mapping .*, got 'encoder'"),
        ([{"name": "a/b"}], r"`phases.0.name` must have letters, .*, got 'a/b'"),
        (
            [{"method": {"masc": 1}}],
            r"In `phases.0`: `method.masc` is not a key of bridle, .* Did you mean 'mask'",
        ),
    ],
)
def test_bad_phases_are_refused(phases: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Plan.of({**RAW, "phases": phases})


def test_a_resumed_run_may_log_save_and_load_otherwise_and_nothing_else() -> None:
    old = config()
    refuse_other_recipe(old, config(log={"every_steps": 5}, checkpoints={"keep": 3}))
    refuse_other_recipe(old, {**old, "evaluate": {"seeds": 9}})
    with pytest.raises(RecipeError, match=r"^`run.epochs` must stay 1 in a resumed run, got 2\."):
        refuse_other_recipe(old, config(epochs=2))
    with pytest.raises(RecipeError, match=r"in a resumed run \(1-mae\), got 'byol'"):
        refuse_other_recipe(old, config("byol"), " (1-mae)")
