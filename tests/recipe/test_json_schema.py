"""The schema for editors: it takes every shipped recipe, and finds what the reader refuses."""

import copy
import typing
from typing import Any

import jsonschema
import pytest

from mezzotint.detection.recipes import FAMILIES as TRANSFER
from mezzotint.detection.recipes import shipped_transfers
from mezzotint.encoders.vit import ViT
from mezzotint.recipe.json_schema import _bounds, _demands, accepted, recipe_schema
from mezzotint.recipe.reading import read_yaml, shipped
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Input

VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())
RECIPE: dict[str, Any] = {
    "data": {"kind": "embedded_images", "name": "digits"},
    "views": {"kind": "two_views", "policy": {"kind": "simclr", "blur_p": 0.0}},
    "encoder": "resnet8",
    "method": {"kind": "simclr", "temperature": 0.1},
    "optimizer": {"kind": "adamw", "lr": 1e-3},
    "run": {"epochs": 2, "compute": {"device": "cpu"}},
    "evaluate": None,
}


def errors(recipe: Any) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in VALIDATOR.iter_errors(recipe)]


def test_it_is_a_schema_and_takes_every_shipped_recipe() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)
    assert len(shipped()) > 100 and errors(RECIPE) == []
    assert {n: e for n, path in shipped().items() if (e := errors(read_yaml(path)))} == {}
    transfer = jsonschema.Draft202012Validator(recipe_schema(TRANSFER))
    assert all(transfer.is_valid(read_yaml(path)) for path in shipped_transfers().values())
    assert not transfer.is_valid(RECIPE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("method.temprature", 0.1),  # a misspelt key
        ("views.policy.blur", 0.1),
        ("run.compute.divice", "cpu"),
        ("sections", {}),
        ("method.temperature", 0.0),  # a value out of range
        ("method.temperature", "high"),
        ("run.epochs", 0),
        ("run.epochs", 1.5),
        ("run.compute.device", "tpu"),
        ("data", {}),
        ("encoder", "resnet9"),
        ("encoder", "audio"),
        ("optimizer", {"kind": "adamw"}),  # a required key
        ("views", None),
        ("phases", []),
        ("phases", [{"method": {"kind": "simclr", "temprature": 1.0}}]),
        ("load", {"encoder": 1}),
    ],
)
def test_what_the_reader_refuses_is_refused(path: str, value: Any) -> None:
    recipe = copy.deepcopy(RECIPE)
    *parents, last = path.split(".")
    part = recipe
    for name in parents:
        part = part[name]
    part[last] = value
    assert errors(recipe)


def test_phases_may_leave_keys_out() -> None:
    phases = [{"name": "first"}, {"method": {"hidden_dim": 64}, "load": {"encoder": "encoder"}}]
    assert errors(RECIPE | {"phases": phases, "load": {"encoder": "runs/a"}, "init": None}) == []


def test_every_default_is_in_its_own_range() -> None:
    ranges = 0
    for entries in index().kinds.values():
        for entry in entries:
            for key in entry.keys.values():
                bounds = _bounds(accepted(entry, key))
                if key.required or not isinstance(key.default, (int, float)) or not bounds:
                    continue
                ranges += 1
                schema = jsonschema.Draft202012Validator(bounds)
                assert schema.is_valid(key.default), f"{entry.kind}.{key.name}"
    assert ranges > 270


FAMILIES = ["Transform", "Schedule", "Optimizer", "Probe", "Observer", "Method", "Decoder"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_constructor_refuses_what_is_just_outside(family: str) -> None:
    """What the page says of a range is what the class does, for every key with a range."""
    tried = 0
    network = ViT(Input((1, 8, 8), (0.5,), (0.5,)), patch=4, width=8, depth=1, heads=1)
    for kind, entry in index().members(family).items():
        if kind in ("normalize", "per_frame"):  # need values of their own
            continue
        needed = {k: 0.1 for k, key in entry.keys.items() if key.required and key.type is float}
        if any(key.required and k not in needed for k, key in entry.keys.items()):
            continue
        for name, key in entry.keys.items():
            bounds = _bounds(accepted(entry, key))
            types = {key.type, *typing.get_args(key.type)} & {int, float}
            if not bounds or not types:
                continue
            low = bounds.get("minimum", bounds.get("exclusiveMinimum", 0))
            step = 1 if types == {int} else 1e-3
            outside = low if "exclusiveMinimum" in bounds else low - step
            value = int(outside) if types == {int} else float(outside)
            with pytest.raises((ValueError, RecipeError), match=name):
                given = resolve({"kind": kind, **needed, name: value}, family, "x")
                construct(given, family, {"Method": (network,)})
            tried += 1
    assert tried >= 3, family


@pytest.mark.parametrize(
    ("kind", "name", "demand"),
    [
        ("color_jitter", "p", "a probability of 0 to 1"),  # by a function that is given the name
        ("two_views", "flip", "a probability of 0 to 1"),  # by a dataclass
        ("byol_a", "mixup", "0 to 1"),  # its own words, not those of a part
        ("audio_ntt", "running_norm", ""),  # of a part that the default leaves out
        ("vit", "heads", "1 or more"),  # by a function that takes any keywords
        ("embedded_images", "part", ""),
    ],
)
def test_what_a_part_demands_is_demanded_of_the_key_that_it_gets(
    kind: str, name: str, demand: str
) -> None:
    (entry,) = (
        e
        for entries in index().kinds.values()
        for e in entries
        if e.kind == kind and not e.abstract
    )
    assert accepted(entry, entry.keys[name]) == demand
    (policy,) = (e for e in index().members("Policy").values() if e.kind == "simclr")
    assert accepted(policy, policy.keys["gray_p"]) == "a probability of 0 to 1"


@pytest.mark.parametrize(
    ("message", "demands"),
    [
        ("`method.t` must be positive, got {t}. Try 0.2.", {"t": "positive"}),
        ("`a` and `b` must be in [0, 1], got 2.", {"a": "in [0, 1]", "b": "in [0, 1]"}),
        ("`x.a` must be at least 1 and `b` positive, got", {"a": "at least 1", "b": "positive"}),
        ("`a` must be 0 or more and below 1, got", {"a": "0 or more and below 1"}),
        ("`a` must be 0 with `b`, got 1.", {"a": "0 with `b`"}),
        ("`a` must be at most {n}, got 1.", {}),
        ("Give `a`. It must be 1.", {}),
    ],
)
def test_a_refusal_says_what_its_keys_must_be(message: str, demands: dict[str, str]) -> None:
    assert dict(_demands(message, None)) == demands


@pytest.mark.parametrize(
    ("demand", "bounds"),
    [
        ("positive", {"exclusiveMinimum": 0}),
        ("1 pixel or more", {"minimum": 1}),
        ("a probability of 0 to 1", {"minimum": 0, "maximum": 1}),
        ("at least 0 and below 1", {"minimum": 0, "exclusiveMaximum": 1}),
        ("more than 0 and less than 1", {"exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        ("0 with `b`", {}),
        ("at least the global batch size", {}),
    ],
)
def test_plain_ranges_have_bounds(demand: str, bounds: dict[str, float]) -> None:
    assert _bounds(demand) == bounds
