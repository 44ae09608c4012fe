"""Recipes with names of before are refused in one sentence that says the new name."""

import pytest

from mezzotint.recipe.schema import RENAMED_KEYS, RENAMED_KINDS, RecipeError, resolve
from mezzotint.recipe.signatures import index


@pytest.mark.parametrize("kind", [kind for kind, _ in RENAMED_KEYS])
def test_a_renamed_key_is_named(kind: str) -> None:
    entries = [*index().classes.values(), *index().functions.values()]
    entry = next(entry for entry in entries if entry.kind == kind)
    family = next(f for f in entry.bases + (entry.name,) if kind in index().members(f))
    for (owner, old), new in RENAMED_KEYS.items():
        if owner == kind:
            with pytest.raises(RecipeError, match=f"`x.{old}` is now `x.{new}`"):
                resolve({"kind": kind, old: 1}, family, "x")
            assert new.partition(".")[0] in entry.keys and old not in entry.keys


@pytest.mark.parametrize("old", RENAMED_KINDS)
def test_a_renamed_kind_is_named(old: str) -> None:
    new = RENAMED_KINDS[old]
    entries = [*index().classes.values(), *index().functions.values()]
    entry = next(entry for entry in entries if entry.kind == new)
    with pytest.raises(RecipeError, match=f"`x.kind: {old}` is now `{new}`"):
        resolve({"kind": old}, entry.bases[-1], "x")
