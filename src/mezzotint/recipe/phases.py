"""Phases in a recipe: several runs, one after the other, that differ in some keys.

    method: {kind: bridle, codebook: {kind: rq}}
    phases:
      - {run: {epochs: 100}}
      - {method: {kind: bridle_tokenizer, codebook: {kind: rq}}, run: {epochs: 20}, load: {encoder:
        encoder}}

A phase is the recipe with its own keys on top; a section, or a part of one, that names another
`kind` is taken as it stands. `load` says which parts of the method are those that an earlier phase
left, and how they were called there. All of this is plain data; `train.plan` runs it.
"""

from collections.abc import Mapping
from typing import Any

from mezzotint.recipe.schema import RecipeError

Raw = dict[str, Any]
_OWN = ("name", "load")


def unfold(config: Mapping[str, Any]) -> list[tuple[str, dict[str, str], Raw]]:
    """The phases of a recipe that is not checked yet: of each its name, what it loads, and its own recipe.

    Raises:
        RecipeError: when `phases` is not what it has to be.
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
            "phases: got something else; allowed is a list, each a mapping with what differs in a phase"
        )
    unfolded = []
    for number, phase in enumerate(phases):
        load = phase.get("load", {})
        if not isinstance(load, Mapping) or not all(
            isinstance(v, str) for item in load.items() for v in item
        ):
            raise RecipeError(
                f"phases.{number}.load: got {load!r}; allowed is a mapping of parts of the method to their names in an "
                "earlier phase, such as {encoder: encoder}"
            )
        own = merged(base, {key: value for key, value in phase.items() if key not in _OWN})
        kind = own.get("method", "")
        name = phase.get("name", kind if isinstance(kind, str) else kind.get("kind", ""))
        if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
            raise RecipeError(
                f"phases.{number}.name: got {name!r}; allowed are letters, digits, - and _"
            )
        unfolded.append((name, dict(load), own))
    return unfolded


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> Raw:
    """The base with other values for some keys; mappings key by key, unless the change is of another kind."""
    result = dict(base)
    for key, value in change.items():
        old = result.get(key)
        old = {"kind": old} if isinstance(old, str) and isinstance(value, Mapping) else old
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        same = both and value.get("kind", old.get("kind")) == old.get("kind")  # type: ignore[union-attr]
        result[key] = merged(old, value) if same else value  # type: ignore[arg-type]
    return result


def refuse_other_recipe(old: Raw, new: Raw, where: str = "") -> None:
    """A resumed run may be logged, saved and fed differently, and no more.

    Args:
        old: recipe of the run, checked.
        new: the one it is to go on with, checked.
        where: the run is, for the message; empty for the one that the user named.

    Raises:
        RecipeError: at the first key that differs.
    """
    for section in old:
        free = ("log", "checkpoints", "loader", "guard") if section == "run" else ()
        for key, value in old[section].items():
            if new[section].get(key) != value and key not in free and section != "evaluate":
                now = new[section].get(key)
                raise RecipeError(
                    f"got --resume with {section}.{key}={now!r}, which was {value!r}{where}; allowed to change are "
                    "run.log, run.checkpoints, run.loader, run.guard and evaluate: start a new run for the rest"
                )
