"""A study: recipes that differ in one thing at a time, trained at an equal budget with several seeds, and compared.

A study file names a recipe, what all runs override, and the arms: by name, or as the product of
factors. Runs that are finished are used again, so a study that was interrupted goes on, and an arm
that is added later costs only itself. With `leave_one_out` the arms are a whole list, such as the
operations of a policy, and the list without each of its items.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.recipe.plain_yaml import parse_yaml
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError, nearest
from mezzotint.runs.compare import ComparisonTable, compare, write_table
from mezzotint.runs.evaluate import evaluate
from mezzotint.runs.reuse import ensure

_SHIPPED = Path(__file__).parent.parent / "recipes" / "studies"
_KEYS = ("title", "recipe", "overrides", "seeds", "arms", "factors", "leave_one_out", "reference")


@dataclass(frozen=True)
class Study:
    """What is to be run.

    Attributes:
        title: of the table.
        recipe: that all arms start from.
        overrides: of all arms.
        seeds: of the runs.
        arms: the overrides of each arm, by name.
        reference: the arm that the others are compared with.
    """

    title: str
    recipe: str
    overrides: list[str]
    seeds: list[int]
    arms: dict[str, list[str]]
    reference: str

    def config(self, arm: str, seed: int) -> dict[str, Any]:
        """The resolved recipe of one run."""
        one = ["evaluate.seeds=1"]  # the runs are the repeats
        return read_recipe(
            self.recipe, [*one, *self.overrides, *self.arms[arm], f"run.seed={seed}"]
        )


def shipped_studies() -> dict[str, Path]:
    """The study files that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def read_study(name: str | Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
    """Read a study file, and check the recipe of every arm.

    Args:
        name: of a shipped study, or the path of a YAML file.
        overrides: of all arms, after the file's. One of the list that `leave_one_out` names stands
            in for that list.
        seeds: instead of the file's.

    Raises:
        RecipeError: with what was got, what is allowed, and the nearest name.
    """
    known = shipped_studies()
    path = known.get(str(name).removeprefix("studies/")) or Path(name)
    if not path.is_file():
        raise RecipeError(
            f"got the study {str(name)!r}; allowed is the path of a YAML file, or {', '.join(known)}"
            f".{nearest(str(name), known)}"
        )
    content = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(content, dict):
        raise RecipeError(
            f"{path}: got {type(content).__name__}; allowed is a mapping with {', '.join(_KEYS)}"
        )
    for key in content:
        if key not in _KEYS:
            raise RecipeError(
                f"{path}: unknown key {key!r}; allowed: {', '.join(_KEYS)}.{nearest(str(key), _KEYS)}"
            )
    overrides = _take_list(content.get("leave_one_out"), overrides)
    arms = _arms(content, path)
    _refuse_without_effect(overrides, arms)
    reference = content.get("reference", next(iter(arms)))
    if reference not in arms:
        raise RecipeError(
            f"{path}: got reference {reference!r}; allowed: {', '.join(arms)}.{nearest(str(reference), arms)}"
        )
    own = list(seeds) or content.get("seeds", [0, 1, 2])
    if not isinstance(own, list) or not own or not all(isinstance(seed, int) for seed in own):
        raise RecipeError(
            f"{path}: got seeds {own!r}; allowed is a list of whole numbers, such as [0, 1, 2]"
        )
    everyone = [*_texts(content.get("overrides", []), path, "overrides"), *overrides]
    study = Study(
        str(content.get("title", path.stem)),
        str(content.get("recipe", "")),
        everyone,
        list(own),
        arms,
        reference,
    )
    for arm in study.arms:
        try:
            study.config(arm, study.seeds[0])
        except RecipeError as error:
            raise RecipeError(f"{path}: arm {arm!r}: {error}") from error
    return study


def _take_list(lists: Any, overrides: Sequence[str]) -> list[str]:
    """Put an override of a list that is left out of into its place; returns the other overrides."""
    rest = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and isinstance(lists, dict) and key in lists:
            lists[key] = parse_yaml(text, f"the override {key}")
        else:
            rest.append(override)
    return rest


def _refuse_without_effect(overrides: Sequence[str], arms: dict[str, list[str]]) -> None:
    """An override that every arm, or the seed, would replace without a word is a mistake."""
    own = set.intersection(*({text.partition("=")[0] for text in texts} for texts in arms.values()))
    for override in overrides:
        key = override.partition("=")[0]
        if key == "run.seed":
            raise RecipeError(
                f"got the override {override!r}; allowed are seeds by their number: give --seeds"
            )
        if any(key == one or key.startswith(f"{one}.") for one in own):
            raise RecipeError(
                f"got the override {override!r}, which every arm sets anew; allowed are keys that they leave alone: "
                "change the arms in a study file of your own"
            )


def _arms(content: dict[str, Any], path: Path) -> dict[str, list[str]]:
    """The arms as they are named, each with every combination of the factors."""
    left_out = _leave_one_out(content.get("leave_one_out"), path)
    named, factors = content.get("arms") or left_out or {"": []}, content.get("factors") or {}
    if (
        not isinstance(named, dict)
        or not isinstance(factors, dict)
        or not (content.get("arms") or factors or left_out)
    ):
        raise RecipeError(
            f"{path}: got no arms; allowed are arms: {{NAME: [key=value, …]}}, factors: {{key: [value, …]}}, or both, "
            "or leave_one_out: {key: [value, …]}"
        )
    if left_out and content.get("arms"):
        raise RecipeError(
            f"{path}: got arms and leave_one_out, which makes arms of its own; allowed is one of the two"
        )
    if not all(isinstance(values, list) and values for values in factors.values()):
        raise RecipeError(
            f"{path}: got factors {factors!r}; allowed is a list of values for each key"
        )
    arms = {}
    for name, overrides in named.items():
        for values in itertools.product(*factors.values()):
            chosen = dict(zip(factors, values, strict=True))
            words = [str(name)] if name else []
            words += [f"{key.rpartition('.')[2]}={value}" for key, value in chosen.items()]
            texts = [f"{key}={json.dumps(value)}" for key, value in chosen.items()]
            arms[" ".join(words)] = [*_texts(overrides, path, f"arms.{name}"), *texts]
    return arms


def _leave_one_out(lists: Any, path: Path) -> dict[str, list[str]]:
    """An arm with a whole list, and for each of its items one without it; nothing when none is asked for."""
    if lists is None:
        return {}
    key, items = (
        next(iter(lists.items())) if isinstance(lists, dict) and len(lists) == 1 else ("", None)
    )
    if (
        not isinstance(items, list)
        or len(items) < 2
        or not all(isinstance(item, str) for item in items)
    ):
        raise RecipeError(
            f"{path}: got leave_one_out: {lists!r}; allowed is one key with a list of two names or more, such as "
            "{views.policy.names: [rotate, invert]}"
        )
    arms = {"all": [f"{key}={json.dumps(items)}"]}
    for item in items:
        arms[f"without {item}"] = [
            f"{key}={json.dumps([other for other in items if other != item])}"
        ]
    return arms


def _texts(values: Any, path: Path, where: str) -> list[str]:
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RecipeError(
            f"{path}: got {where}: {values!r}; allowed is a list of texts such as run.epochs=20"
        )
    return list(values)


def run_study(
    study: Study, out: Path, *, say: Callable[[str], None] = lambda _: None, progress: str = "quiet"
) -> ComparisonTable:
    """Train and evaluate what is missing, and write `table.md` and `table.json`.

    Args:
        study: what to run.
        out: a directory; each run has its own under `runs/`.
        say: is told of each run.
        progress: see `pretrain`.
    """
    arms: dict[str, list[Path]] = {}
    total = len(study.arms) * len(study.seeds)
    done = 0
    for (
        seed
    ) in study.seeds:  # all arms of a seed first: an interrupted study can be compared in pairs
        for name in study.arms:
            folder = out / "runs" / f"{_slug(name)}-{seed}"
            trained = ensure(Recipe.build(study.config(name, seed)), folder, progress=progress)
            if trained or not _evaluated(folder, study.config(name, seed)):
                evaluate(folder, _evaluation_keys(study.config(name, seed)))
                _mark(folder, study.config(name, seed))
            arms.setdefault(name, []).append(folder)
            done += 1
            say(f"{done}/{total}  {name}, seed {seed}: {'trained' if trained else 'used again'}")
    table = compare(arms, title=study.title, reference=study.reference)
    write_table(table, out)
    return table


def _evaluation_keys(config: dict[str, Any]) -> list[str]:
    return [f"evaluate.{key}={json.dumps(value)}" for key, value in config["evaluate"].items()]


def _evaluated(folder: Path, config: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / "evaluated.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (folder / "evaluation.json").is_file() and found == json.loads(
        json.dumps(config["evaluate"])
    )


def _mark(folder: Path, config: dict[str, Any]) -> None:
    from mezzotint.files import write_json

    write_json(folder / "evaluated.json", config["evaluate"])


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+=.-" else "_" for c in name)
