"""Phases in a recipe: several runs, one after the other, that differ in some keys.

    method: {kind: bridle, codebook: {kind: rq}}
    phases:
      - {run: {epochs: 100}}
      - method: {kind: bridle_tokenizer, codebook: {kind: rq}}
        run: {epochs: 20}
        load: {encoder: encoder}

A phase is the recipe with its own keys on top; a section, or a part of one, that names another
`kind` replaces the old one. `load` names the parts of the method that an earlier phase trained, and
their names there; or a path: another run, a saved encoder, or a file of weights. In the first
phase, and in a recipe without phases, all are paths:

    load: {encoder: runs/imagenet}

Parts that pass from phase to phase must be described alike in both, which `check_parts` finds out
before anything is built. All of this is plain data; `train.plan` runs it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mezzotint.recipe.schema import RecipeError

Raw = dict[str, Any]
Unfolded = tuple[str, dict[str, str], Raw]
_OWN = ("name", "load")
_FREE = ("log", "checkpoints", "loader", "guard")
_FILES = (".pth", ".pt", ".tar", ".ckpt", ".bin", ".safetensors")
LEARNING_ONLY = {
    "encoder": ("drop_path", "dropout", "pretrained_path", "initialization"),
    "codebook": (
        "init", "commitment", "gradient", "seed", "ema.decay", "ema.expire_below",
        "ema.expire_every",
    ),
}  # fmt: skip
"""Keys that change how a part is trained, and not what it computes: phases may differ in them."""


def unfold(config: Mapping[str, Any]) -> list[Unfolded]:
    """Split a recipe that is not checked yet into its phases.

    Returns:
        Name, parts to load, and recipe of each phase.

    Raises:
        RecipeError: when `phases` is not a list of phases.
    """
    base = {key: value for key, value in config.items() if key not in ("phases", "load")}
    if "phases" not in config and not config.get("load"):
        return [("", {}, base)]
    start = _load_of(config, "load")
    if "phases" not in config:
        return [_phase(base, 0, {"load": start})]
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
    if start and phases[0].get("load"):
        raise RecipeError(
            "`load` and `phases.0.load` both say where the first phase starts. Leave one out."
        )
    first = {**phases[0], "load": start} if start else phases[0]
    return [_phase(base, number, phase) for number, phase in enumerate([first, *phases[1:]])]


def _load_of(config: Mapping[str, Any], key: str) -> dict[str, str]:
    load = config.get("load") or {}
    if not isinstance(load, Mapping) or not all(
        isinstance(name, str) for item in load.items() for name in item
    ):
        raise RecipeError(
            f"`{key}` must be a mapping of parts to their names in an earlier phase, or to paths, "
            f"got {load!r}. Write {{encoder: encoder}}, for example."
        )
    return dict(load)


def is_path(number: int, source: str) -> bool:
    """Whether a phase loads from a path instead of from an earlier phase.

    Args:
        number: index of the phase; nothing runs before the first.
        source: what `load` has for a part.
    """
    return number == 0 or "/" in source or source.endswith(_FILES)


def check_parts(phases: Sequence[Unfolded]) -> None:
    """Check that a part is described alike where it is trained and where it is loaded.

    Args:
        phases: name, parts to load, and checked recipe of each phase.

    Raises:
        RecipeError: at the first key that differs, with both phases.
    """
    for number, (_, load, config) in enumerate(phases):
        for part, source in load.items():
            if part != source or is_path(number, source):
                continue
            own = _described(config, part)
            found = [
                (earlier, name, described)
                for earlier, (name, _, other) in enumerate(phases[:number])
                if (described := _described(other, part)) is not None
            ]
            if own is None or not found:
                continue
            earlier, name, there = found[-1]
            for key in sorted(own.keys() | there.keys(), key=lambda k: (k != "kind", k)):
                if own.get(key) != there.get(key):
                    raise RecipeError(
                        f"`phases.{number}.load` takes the {part} of phase {earlier} ({name}), "
                        f"whose {key} is {there.get(key)!r}, but {_key_of(number, part)}.{key} is "
                        f"{own.get(key)!r}. Set {_key_of(earlier, part)}.{key} and "
                        f"{_key_of(number, part)}.{key} to the same value."
                    )


def refuse_two_starts(number: int, load: Mapping[str, str], config: Raw) -> None:
    """Refuse a phase with `init` whose encoder starts from something else too.

    Args:
        number: index of the phase.
        load: parts that it loads.
        config: its recipe.

    Raises:
        RecipeError: with the key to leave out.
    """
    if number:
        raise RecipeError("`init` starts the first phase alone. Write it in `phases.0`.")
    method = config["method"]
    starts = {
        "load.encoder": load.get("encoder"),
        "method.init": method.get("init") if isinstance(method, Mapping) else None,
    }
    other = next((key for key, value in starts.items() if value is not None), None)
    if other is not None:
        raise RecipeError(f"`init` and `{other}` both say where the encoder starts. Leave one out.")


def _key_of(number: int, part: str) -> str:
    return f"phases.{number}.{part if part == 'encoder' else f'method.{part}'}"


def _described(config: Raw, part: str) -> Raw | None:
    """Flatten what a recipe says about a part, without what matters in training alone."""
    section = config["encoder"] if part == "encoder" else config["method"].get(part)
    if not isinstance(section, Mapping):
        return None
    flat: Raw = {}
    waiting: list[tuple[str, Any]] = list(section.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{inner}", item) for inner, item in value.items()]
        elif key not in LEARNING_ONLY.get(part, ()):
            flat[key] = value
    return flat


def _phase(base: Raw, number: int, phase: Mapping[str, Any]) -> Unfolded:
    load = _load_of(phase, f"phases.{number}.load")
    own = merged(base, {key: value for key, value in phase.items() if key not in _OWN})
    kind = own.get("method", "")
    name = phase.get("name", kind if isinstance(kind, str) else kind.get("kind", ""))
    if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
        raise RecipeError(
            f"`phases.{number}.name` must have letters, digits, - and _ only, got {name!r}. "
            "Choose another name: it becomes a directory."
        )
    return name, load, own


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
