"""Kinds are what recipes, runs and saved encoders name: none may change by accident."""

import pytest
import yaml

from mezzotint.recipe.signatures import index
from tests import ROOT

KINDS = yaml.safe_load((ROOT / "tests/recipe/kinds.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", KINDS)
def test_the_kinds_of_a_family_stay(family: str) -> None:
    """A new kind needs no line here until it is released."""
    assert set(KINDS[family]) <= index().members(family).keys()


def test_public_classes_have_names_of_their_own() -> None:
    """Recipes find a class by its name alone, so two of one name would hide each other."""
    names = [
        (name, file.module)
        for file in index().files.values()
        for name in [node.name for node in file.tree.body if hasattr(node, "bases")]  # type: ignore[attr-defined]
        if not name.startswith("_")
    ]
    doubled = {name for name, _ in names if [n for n, _ in names].count(name) > 1}
    assert not doubled
