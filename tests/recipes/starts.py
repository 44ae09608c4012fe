"""Starts for shipped recipes with `init`, whose path is the user's."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.recipe import Recipe, read_recipe


def with_start(name: str, overrides: Sequence[str], folder: Path) -> list[str]:
    """Return the overrides and, for a recipe with `init`, a start with random weights."""
    if "init" not in read_recipe(name):
        return list(overrides)
    fresh = Recipe.build(read_recipe(name, [*overrides, "init=null"]))
    start = save_encoder(fresh.encoder, folder / "start")
    return [*overrides, f"init.path={start}", "init.warmup_steps=1"]
