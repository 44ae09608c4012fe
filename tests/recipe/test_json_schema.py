"""The schema for editors: it takes every shipped recipe, and finds what the reader refuses."""

import copy
import importlib
import inspect
import re
import typing
from typing import Any, cast

import jsonschema
import pytest

from mezzotint.detection.recipes import FAMILIES as TRANSFER
from mezzotint.detection.recipes import shipped_transfers
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.vit import ViT
from mezzotint.quant.fake import ActivationQuantizer, Layout
from mezzotint.recipe.json_schema import _bounds, _demands, accepted, recipe_schema
from mezzotint.recipe.reading import read_yaml, shipped
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.recipe.signatures import Alternatives, ComponentEntry, Key, ListOf, index
from mezzotint.types import Input
from tests.test_contract_encoders import EXAMPLES as ENCODERS

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


def number(kind: Any) -> type | None:
    """The type of a number that a key takes, alone or in a list; none where it takes texts."""
    if kind in (int, float):
        return cast(type, kind)
    if typing.get_origin(kind) is typing.Literal or str in typing.get_args(kind):
        return None
    options = kind.options if isinstance(kind, Alternatives) else typing.get_args(kind)
    return next(filter(None, map(number, options)), None)


NUMBERS = [
    (entry, key, kind)
    for entries in index().kinds.values()
    for entry in entries
    for key in entry.keys.values()
    if (kind := number(key.type))
]
ANY = re.compile(r"\bany (?:whole )?number\b")
"""What the text of a key says where every finite number is taken."""


def test_every_number_has_a_range_or_the_reference_says_that_any_is_taken() -> None:
    assert len(NUMBERS) > 490
    silent = [
        f"{entry.kind}.{key.name}"
        for entry, key, _ in NUMBERS
        if not accepted(entry, key) and not ANY.search(key.doc)
    ]
    assert silent == []
    twice = [f"{e.kind}.{k.name}" for e, k, _ in NUMBERS if accepted(e, k) and ANY.search(k.doc)]
    assert twice == []


IMAGE = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
VIT = ViT(Input((1, 8, 8), (0.5,), (0.5,)), patch=2, width=12, depth=1, heads=1)
SMALL = {"hidden_dim": 16, "dim": 16, "prototypes": 16, "num_codes": 16, "mixup": 0.5}
"""Keys of any kind that make it fast, or that one other key of it needs."""
GIVEN: dict[str, Any] = {
    "num_classes": 3,
    "layout": Layout(),
    "scheme": "symmetric",
    "quantizer": ActivationQuantizer(),
}
"""Positional arguments of classes that no recipe section makes."""
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("multi_augment", "num_global"): {"num_local": 1},
    ("rand_augment", "bins"): {"magnitude": 1},
    ("pasted", "size"): {"scale": (8, 8)},
    ("faster_rcnn", "max_size"): {"min_size": [1]},
    ("rank", "last_eigenvalue"): {"first_eigenvalue": 1},
    ("bridle", "temperature"): {"codes_per_level": 2},
    ("mixing", "mixup"): {"cutmix": 0.5},
}
"""Keys that the ends of another key's range need: (kind, key) → keys."""
ELSEWHERE = {
    "vit.width": "even, and wider with more axes",
    "domain_agnostic.width": "likewise",
    "smartwatch.stride": "takes ten seconds",
    "rotating_objects.size": "takes three seconds",
}
"""Keys whose ends are not tried, with the reason."""


def positional(entry: ComponentEntry, name: str) -> Any:
    if name == "input":
        return ENCODERS[entry.kind].inputs[0]
    if name == "encoder" and "detection" in entry.module:
        return resnet8(IMAGE, stem="small", width=4)
    if name == "encoder":
        return VIT
    return GIVEN.get(name)


def sample(key: Key) -> Any:
    """A value for a required key."""
    if key.family is not None and str not in getattr(key.type, "options", ()):
        members = index().members(key.family)
        kind = next(k for k, e in members.items() if not any(x.required for x in e.keys.values()))
        part = construct(resolve(kind, key.family, "x"), key.family, {"Method": (VIT,)})
        return [part] if isinstance(key.type, ListOf) else part
    if number(key.type):
        return shaped(key.type, 1 if number(key.type) is int else 0.5)
    literal = typing.get_origin(key.type) is typing.Literal
    return typing.get_args(key.type)[0] if literal else "nowhere"


def shaped(kind: Any, value: float) -> Any:
    """A number as a key takes it: alone, or as the items of a list."""
    options = kind.options if isinstance(kind, Alternatives) else typing.get_args(kind)
    if kind in (int, float) or {int, float} & set(options) and typing.get_origin(kind) is not tuple:
        return [value] if typing.get_origin(kind) is list else value
    if typing.get_origin(kind) is tuple:
        return (value,) * len(options)
    return shaped(next(option for option in options if option is not type(None)), value)


def refusal(entry: ComponentEntry, key: Key, value: float) -> str:
    """What the constructor says of a value; empty when it takes it."""
    product = getattr(importlib.import_module(entry.module), entry.name)
    own = ENCODERS[entry.kind].keys if entry.kind in ENCODERS else {}
    keys = {name: sample(k) for name, k in entry.keys.items() if k.required and name not in own}
    given = [
        positional(entry, p.name)
        for p in inspect.signature(product).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
    ]
    small = {name: size for name, size in SMALL.items() if name in entry.keys}
    together = TOGETHER.get((entry.kind, key.name), {})
    try:
        product(*given, **(keys | small | own | together | {key.name: shaped(key.type, value)}))
    except (ValueError, RecipeError) as error:
        return str(error)
    return ""


ROOMS = sorted({entry.module.split(".")[1] for entry, _, _ in NUMBERS})


@pytest.mark.parametrize("room", ROOMS)
def test_the_constructor_takes_the_ends_of_a_range_and_refuses_what_is_beyond(room: str) -> None:
    """What the page says of a range is what the class does, for every key with a range."""
    wrong, tried = [], 0
    for entry, key, kind in NUMBERS:
        bounds = _bounds(accepted(entry, key))
        step = 1 if kind is int else 1e-3
        for name, end in bounds.items() if entry.module.split(".")[1] == room else ():
            away = step if name.endswith("aximum") else -step
            beyond, last = (end, end - away) if name.startswith("excl") else (end + away, end)
            where, tried = f"{entry.kind}.{key.name}", tried + 1
            said = refusal(entry, key, kind(beyond))
            if f"{key.name}`" not in said or " must " not in said:
                wrong.append(f"{where} {beyond} is taken: {said}")
            said = "" if where in ELSEWHERE else refusal(entry, key, kind(last))
            if f"{key.name}`" in said:
                wrong.append(f"{where} {last} is refused: {said}")
    assert wrong == [] and tried >= 2


@pytest.mark.parametrize(
    ("kind", "name", "demand"),
    [
        ("color_jitter", "p", "a probability of 0 to 1"),  # by a function that is given the name
        ("two_views", "flip", "a probability of 0 to 1"),  # by a dataclass
        ("byol_a", "mixup", "0 to 1"),  # its own words, not those of a part
        ("audio_ntt", "running_norm", "0 or more"),  # not 1 or more, of a part left out by default
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
