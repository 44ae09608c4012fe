"""Keys that are read from source text are what the classes really take, shown as people write."""

import importlib
import inspect
import re
from typing import Any, Literal, Optional

import pytest

from mezzotint.recipe.schema import FAMILIES
from mezzotint.recipe.signatures import (
    Alternatives,
    ComponentEntry,
    ListOf,
    Member,
    index,
    show_type,
)

EVERY = {
    (family, kind): entry
    for family in FAMILIES.values()
    for kind, entry in index().members(family).items()
}


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
    ("kind", "text"),
    [
        (int, "a whole number"),
        (Optional[float], "a number or null"),  # noqa: UP045 - as signatures gives it
        (bool, "true or false"),
        (Literal["a", "b"], "one of a, b"),
        (list[str], "a list of texts"),
        (tuple[float, float], "a list of 2 numbers"),
        (tuple[int, ...], "a list of whole numbers"),
        (list[Literal["a", "b"]], "a list, each item one of a, b"),
        (dict[str, float], "a mapping of texts to numbers"),
        (Member("RandomResizedCrop"), "a random resized crop"),
        (Member("Encoder"), "an encoder"),
        (Alternatives((ListOf(Member("Policy")), None)), "a list, each item a policy or null"),
    ],
)
def test_types_are_shown_as_people_write_them(kind: Any, text: str) -> None:
    assert show_type(kind) == text


def test_no_type_is_shown_as_python_writes_it() -> None:
    for entry in EVERY.values():
        for key in entry.keys.values():
            assert not re.search(r"\[|\b(int|float|str|bool|None)\b", key.described), key


def test_keys_say_where_a_component_in_them_is_explained() -> None:
    run, views = EVERY["Run", "run"], EVERY["ViewGenerator", "transformed"]
    assert run.keys["compute"].described == "see `mezzotint recipes compute`"
    described = views.keys["transforms"].described
    assert described == "a list, each item a transform, see `mezzotint recipes transform`"


def test_kinds_and_families_are_found_by_name() -> None:
    assert {entry.module for entry in index().kinds["simclr"]} == {
        "mezzotint.methods.simclr",
        "mezzotint.augment.image.policies",
    }
    assert index().family_named("transform") == "Transform"
    assert index().family_named("simsiam") is None
