"""Starts and teachers for shipped recipes, whose paths are the user's."""

from collections.abc import Sequence
from pathlib import Path

from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.recipe import Recipe, read_recipe


def with_start(name: str, overrides: Sequence[str], folder: Path) -> list[str]:
    """Return the overrides and, for `init` and `teachers`, an encoder with random weights."""
    if read_recipe(name)["method"]["kind"] == "distill":
        other = [text for text in overrides if not text.startswith("method.")]
        fresh = Recipe.build(read_recipe(name, [*other, "method={kind: simclr}"]))
        return [*overrides, f"method.teachers=[{save_encoder(fresh.encoder, folder / 'teacher')}]"]
    if "init" not in read_recipe(name):
        return list(overrides)
    fresh = Recipe.build(read_recipe(name, [*overrides, "init=null"]))
    start = save_encoder(fresh.encoder, folder / "start")
    return [*overrides, f"init.path={start}", "init.warmup_steps=1"]
