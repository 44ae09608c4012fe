"""Phases in a recipe: several runs, one after the other, that differ in some keys.

    method: {kind: bridle, codebook: {kind: rq}}
    phases:
      - {run: {epochs: 100}}
      - method: {kind: bridle_tokenizer, codebook: {kind: rq}}
        run: {epochs: 20}
        load: {encoder: encoder}

A phase is the recipe with its own keys on top; a section, or a part of one, that names another
`kind` replaces the old one. `load` names the parts of the method that an earlier phase trained, and
their names there. All of this is plain data; `train.plan` runs it.
"""

from collections.abc import Mapping
from typing import Any

from mezzotint.recipe.schema import RecipeError

Raw = dict[str, Any]
_OWN = ("name", "load")
_FREE = ("log", "checkpoints", "loader", "guard")


def unfold(config: Mapping[str, Any]) -> list[tuple[str, dict[str, str], Raw]]:
    """Split a recipe that is not checked yet into its phases.

    Returns:
        Name, parts to load, and recipe of each phase.

    Raises:
        RecipeError: when `phases` is not a list of phases.
    """
    base = {key: value for key, value in config.items() if key != "phases"}
    if "phases" not in config:
        return [("", {}, base)]
    phases = config["phases"]
    if (
        not isinstance(phases, list)
        or not phases
        or not all(isinstance(p, Mapping) for p in phases)
    ):
        raise RecipeError(
            f"`phases` must be a list of mappings, got {phases!r}. "
            "Write the keys that differ in each phase."
        )
    return [_phase(base, number, phase) for number, phase in enumerate(phases)]


def _phase(base: Raw, number: int, phase: Mapping[str, Any]) -> tuple[str, dict[str, str], Raw]:
    load = phase.get("load", {})
    if not isinstance(load, Mapping) or not all(
        isinstance(name, str) for item in load.items() for name in item
    ):
        raise RecipeError(
            f"`phases.{number}.load` must be a mapping of parts to their names in an earlier "
            f"phase, got {load!r}. Write {{encoder: encoder}}, for example."
        )
    own = merged(base, {key: value for key, value in phase.items() if key not in _OWN})
    kind = own.get("method", "")
    name = phase.get("name", kind if isinstance(kind, str) else kind.get("kind", ""))
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise RecipeError(
            f"`phases.{number}.name` must have letters, digits, - and _ only, got {name!r}. "
            "Choose another name: it becomes a directory."
        )
    return name, dict(load), own


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> Raw:
    """Replace some values of a mapping; mappings in it are merged unless their kinds differ."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        old = {"kind": old} if isinstance(old, str) and isinstance(value, Mapping) else old
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        same = both and value.get("kind", old.get("kind")) == old.get("kind")  # type: ignore[union-attr]
        result[key] = merged(old, value) if same else value  # type: ignore[arg-type]
    return result


def refuse_other_recipe(old: Raw, new: Raw, run: str = "") -> None:
    """Refuse to resume a run with another recipe: only logging, saving and loading may differ.

    Args:
        old: recipe of the run, checked.
        new: the recipe that it would go on with, checked.
        run: its name, for the message; empty for the run that the user named.

    Raises:
        RecipeError: at the first key that differs.
    """
    for section in sorted(old.keys() ^ new.keys()):
        raise RecipeError(
            f"`{section}` must stay {'as it is' if section in old else 'left out'} in a resumed "
            f"run{run}. Start a new run instead."
        )
    for section in old:
        free = _FREE if section == "run" else ()
        for key, value in old[section].items():
            now = new[section].get(key)
            if now != value and key not in free and section != "evaluate":
                raise RecipeError(
                    f"`{section}.{key}` must stay {value!r} in a resumed run{run}, got {now!r}. "
                    "Start a new run, or change only run.log, run.checkpoints, run.loader, "
                    "run.guard and evaluate."
                )
