"""The schema read from the source text is what the classes really take."""

import importlib
import inspect
from typing import Any

import pytest

from mezzotint.methods.simsiam import SimSiam
from mezzotint.recipe.component import kind_of
from mezzotint.recipe.recipe import FAMILIES
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.recipe.signatures import ComponentEntry, index

EVERY = {
    (family, kind): entry
    for family in FAMILIES.values()
    for kind, entry in index().members(family).items()
}


@pytest.mark.parametrize(
    ("name", "kind"), [("TwoViews", "two_views"), ("ImageFolder", "image_folder"), ("SGD", "sgd")]
)
def test_kind_of_a_class(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_class_may_say_its_kind() -> None:
    assert SimSiam.kind == "simsiam" and index().classes["SimSiam"].kind == "simsiam"


@pytest.mark.parametrize(("family", "kind"), EVERY)
def test_keys_are_the_signature(family: str, kind: str) -> None:
    entry: ComponentEntry = EVERY[family, kind]
    target = getattr(importlib.import_module(entry.module), entry.name)
    parameters = inspect.signature(target).parameters.values()
    keywords = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert set(keywords) == set(entry.keys)
    for name, key in entry.keys.items():
        assert key.required == (keywords[name].default is inspect.Parameter.empty)
        assert key.doc, f"{kind}.{name} has no line in Args"
        default = keywords[name].default
        if not key.required and isinstance(default, (int, float, str, bool, type(None))):
            assert key.default == default


@pytest.mark.parametrize("family", FAMILIES.values())
def test_every_family_has_members(family: str) -> None:
    assert index().members(family)


@pytest.mark.parametrize(
    ("config", "family", "message"),
    [
        (
            {"epoch": 3},
            "Run",
            "`x.epoch` is not a key of run, which takes epochs, .*. Did you mean 'epochs'",
        ),
        (
            {"epochs": "3"},
            "Run",
            "`x.epochs` must be a whole number, got '3'. See `mezzotint recipes run`",
        ),
        ({"epochs": True}, "Run", "`x.epochs` must be a whole number, got True"),
        ({"epochs": 2.5}, "Run", "`x.epochs` must be a whole number, got 2.5"),
        (
            {"compute": {"precision": "bf61"}},
            "Run",
            "`x.compute.precision` must be one of fp32, bf16, fp16, got 'bf61'. Did you mean",
        ),
        ({"compute": 3}, "Run", "`x.compute` must be a mapping with keys of compute, got 3"),
        (
            {"kind": "simcrl"},
            "Method",
            "`x.kind` must be one of .*, got 'simcrl'. Did you mean 'simclr'",
        ),
        ({}, "Method", "`x.kind` is missing. Choose one of "),
        ([1], "Method", "`x` must be a mapping with `kind` and its keys, got \\[1\\]"),
        (
            {"log": {"trackers": ["wand"]}},
            "Run",
            "`x.log.trackers` must be a list, each item one of tensorboard, .* got \\['wand'\\]",
        ),
        (
            {"kind": "torch.nn.Linear"},
            "Encoder",
            "`x.kind` must be one of .*, got 'torch.nn.Linear'",
        ),
        (
            {"bits": "8/8"},
            "Evaluate",
            r"`x.bits` must be a list, each item text or a whole number, got '8/8'. Write \[8/8\]",
        ),
        (
            {"kind": "_mean_magnitude"},
            "Observer",
            "`x.kind` must be one of entropy, gaussian, min_max, .*, got '_mean_magnitude'",
        ),
    ],
)
def test_what_is_refused_says_where_and_what_is_allowed(
    config: Any, family: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve(config, family, "x")


def test_resolving_is_idempotent_and_fills_defaults() -> None:
    once = resolve({"epochs": 3}, "Run", "run")
    assert once["batch_size"] == 256 and once["compute"]["precision"] == "fp32"
    assert resolve(once, "Run", "run") == once


def test_constructed_objects_remember_their_arguments() -> None:
    config = resolve({"epochs": 3, "log": {"every_steps": 2}}, "Run", "run")
    made = construct(config, "Run", {})
    assert made.epochs == 3 and made.log.every_steps == 2
    assert resolve(made.config, "Run", "run") == config
