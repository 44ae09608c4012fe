"""Phases as plain data: unfolded, merged, and refused before anything is written."""

from typing import Any

import pytest

from mezzotint.recipe.phases import is_path, merged, refuse_other_recipe, unfold
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


OTHER = {"kind": "learned_tokenizer", "heads": 1}
RQ = {"kind": "rq", "dim": 8, "num_codes": 24, "num_levels": 2}


def three_phases(second: dict[str, Any], third: dict[str, Any], **base: Any) -> dict[str, Any]:
    return {
        **RAW,
        "method": {"kind": "bridle", "codebook": RQ},
        **base,
        "phases": [
            {"name": "first"},
            {
                "name": "tokens",
                "load": {"encoder": "encoder"},
                "method": {"kind": "bridle_tokenizer", "codebook": RQ},
                **second,
            },
            {
                "name": "last",
                "load": {k: k for k in ("encoder", "decoder", "tokenizer", "codebook")},
                "method": {"tokenizer": "learned_tokenizer"},
                **third,
            },
        ],
    }


@pytest.mark.parametrize(
    ("second", "third", "base", "message"),
    [
        (
            {}, {}, {"method": {"kind": "bridle", "codebook": {"kind": "vq", "dim": 8}}},
            r"`phases.2.load` takes the codebook of phase 1 \(tokens\), whose kind is 'rq', but "
            r"phases.2.method.codebook.kind is 'vq'. Set phases.1.method.codebook.kind and",
        ),
        (
            {"method": {"kind": "bridle_tokenizer", "codebook": {**RQ, "num_codes": 12}}}, {}, {},
            r"codebook of phase 1 \(tokens\), whose num_codes is 12, but .* is 24",
        ),
        (
            {"method": {"kind": "bridle_tokenizer", "codebook": {**RQ, "residual": "bridle"}}}, {},
            {}, r"codebook of phase 1 \(tokens\), whose residual is 'bridle', but .* is 'plain'",
        ),
        (
            {"method": {"kind": "bridle_tokenizer", "codebook": RQ, "tokenizer": OTHER}}, {}, {},
            r"tokenizer of phase 1 \(tokens\), whose heads is 1, but .* is None",
        ),
        (
            {"encoder": {"heads": 4}}, {}, {},
            r"`phases.1.load` takes the encoder of phase 0 \(first\), whose heads is 2, but "
            r"phases.1.encoder.heads is 4. Set phases.0.encoder.heads and phases.1.encoder.heads",
        ),
        (
            {}, {"method": {"tokenizer": "learned_tokenizer", "decoder": {"depth": 2}}}, {},
            r"decoder of phase 0 \(first\), whose depth is 8, but .*decoder.depth is 2",
        ),
    ],
)  # fmt: skip
def test_parts_that_phases_describe_differently_are_refused_at_once(
    second: dict[str, Any], third: dict[str, Any], base: dict[str, Any], message: str
) -> None:
    """Regression: two phases were trained before the third one noticed another codebook."""
    with pytest.raises(RecipeError, match=message):
        Plan.of(three_phases(second, third, **base))


def test_phases_may_differ_in_what_matters_in_training_alone() -> None:
    faster = {**RQ, "init": "data", "commitment": 1.0, "ema": {"decay": 0.9, "expire_every": 5}}
    Plan.of(
        three_phases(
            {
                "method": {"kind": "bridle_tokenizer", "codebook": faster},
                "encoder": {"drop_path": 0.1},
            },
            {},
        )
    )


def test_the_first_phase_loads_from_paths() -> None:
    for raw in (
        {**RAW, "load": {"encoder": "runs/a"}},
        {**RAW, "load": {"encoder": "runs/a"}, "phases": [{}, {"name": "b"}]},
        {**RAW, "phases": [{"load": {"encoder": "runs/a"}}, {"name": "b"}]},
    ):
        name, load, config = unfold(raw)[0]
        assert (name, load) == ("bridle", {"encoder": "runs/a"}) and "load" not in config
    both = unfold({**RAW, "load": {"encoder": "a"}, "phases": [{}, {}]})
    assert [load for _, load, _ in both] == [{"encoder": "a"}, {}]
    assert (
        is_path(0, "encoder") and not is_path(1, "encoder") and not is_path(1, "tokenizer.network")
    )
    assert is_path(1, "runs/a") and is_path(1, "vit.pth") and is_path(1, "./encoder")
    twice = {**RAW, "load": {"encoder": "a"}, "phases": [{"load": {"encoder": "b"}}]}
    with pytest.raises(RecipeError, match="`load` and `phases.0.load` both say where"):
        unfold(twice)
    with pytest.raises(RecipeError, match=r"`load` must be a mapping of parts .*, got 'encoder'"):
        unfold({**RAW, "load": "encoder"})


def test_a_resumed_run_may_log_save_and_load_otherwise_and_nothing_else() -> None:
    old = config()
    refuse_other_recipe(old, config(log={"every_steps": 5}, checkpoints={"keep": 3}))
    refuse_other_recipe(old, {**old, "evaluate": {"seeds": 9}})
    with pytest.raises(RecipeError, match=r"^`run.epochs` must stay 1 in a resumed run, got 2\."):
        refuse_other_recipe(old, config(epochs=2))
    with pytest.raises(RecipeError, match=r"in a resumed run \(1-mae\), got 'byol'"):
        refuse_other_recipe(old, config("byol"), " (1-mae)")
