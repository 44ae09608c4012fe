"""Studies: recipes that differ in one thing at a time, trained with several seeds and compared.

A study file names a recipe, overrides for all runs, and the arms: by name, or as the product of
factors. All arms have the same budget. Finished runs are used again, so an interrupted study goes
on, and an arm that is added later costs only itself. With `leave_one_out` the arms are a whole
list, such as the operations of a policy, and the list without each of its items.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.files import read_json, write_json
from mezzotint.recipe.reading import parse_yaml
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError, nearest
from mezzotint.runs.compare import ComparisonTable, compare, write_table
from mezzotint.runs.evaluate import evaluate
from mezzotint.runs.reuse import ensure

_SHIPPED = Path(__file__).parent.parent / "recipes" / "studies"
_KEYS = ("title", "recipe", "overrides", "seeds", "arms", "factors", "leave_one_out", "reference")


@dataclass(frozen=True)
class Study:
    """A study that was checked and can be run.

    Attributes:
        title: title of the table.
        recipe: recipe that all arms start from.
        overrides: overrides of all arms.
        seeds: seeds of the runs.
        arms: overrides of each arm, by name.
        reference: name of the arm that the others are compared with.
    """

    title: str
    recipe: str
    overrides: list[str]
    seeds: list[int]
    arms: dict[str, list[str]]
    reference: str

    def config(self, arm: str, seed: int) -> dict[str, Any]:
        """Return the resolved recipe of one run."""
        one = ["evaluate.seeds=1"]  # the runs are the repeats
        return read_recipe(
            self.recipe, [*one, *self.overrides, *self.arms[arm], f"run.seed={seed}"]
        )


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def read_study(name: str | Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Study:
    """Read a study file, and check the recipe of every arm.

    Args:
        name: name of a shipped study, or path of a YAML file.
        overrides: overrides of all arms, after the file's. An override of the list that
            `leave_one_out` names replaces that list.
        seeds: seeds instead of the file's.

    Raises:
        RecipeError: for anything that cannot be used, with the nearest name.
    """
    known = shipped_studies()
    path = known.get(str(name).removeprefix("studies/")) or Path(name)
    if not path.is_file():
        raise RecipeError(
            f"There is no study {str(name)!r}. Give the path of a YAML file, or {', '.join(known)}."
            f"{nearest(str(name), known)}"
        )
    content = parse_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(content, dict):
        raise RecipeError(
            f"`{path}` must be a mapping with {', '.join(_KEYS)}, got {type(content).__name__}. "
            "See `mezzotint study --help`."
        )
    for key in content:
        if key not in _KEYS:
            raise RecipeError(
                f"`{path}` must have only the keys {', '.join(_KEYS)}, got {key!r}. Remove it."
                f"{nearest(str(key), _KEYS)}"
            )
    overrides = _take_list(content.get("leave_one_out"), overrides)
    arms = _arms(content, path)
    _refuse_without_effect(overrides, arms)
    reference = content.get("reference", next(iter(arms)))
    if not isinstance(reference, str) or reference not in arms:
        raise RecipeError(
            f"`reference` in `{path}` must be one of {', '.join(arms)}, got {reference!r}. "
            f"Choose an arm.{nearest(str(reference), arms)}"
        )
    own = list(seeds) or content.get("seeds", [0, 1, 2])
    if not isinstance(own, list) or not own or not all(isinstance(seed, int) for seed in own):
        raise RecipeError(
            f"`seeds` in `{path}` must be a list of whole numbers, got {own!r}. Write [0, 1, 2]."
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
            raise RecipeError(f"Arm {arm!r} of `{path}`: {error}") from error
    return study


def _take_list(lists: Any, overrides: Sequence[str]) -> list[str]:
    """Apply the overrides of lists under `leave_one_out`; return the other overrides."""
    rest = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and isinstance(lists, dict) and key in lists:
            lists[key] = parse_yaml(text, f"the override {key}")
        else:
            rest.append(override)
    return rest


def _refuse_without_effect(overrides: Sequence[str], arms: dict[str, list[str]]) -> None:
    """Raise a RecipeError for an override that every arm, or the seed, would replace silently."""
    own = set.intersection(*({text.partition("=")[0] for text in texts} for texts in arms.values()))
    for override in overrides:
        key = override.partition("=")[0]
        if key == "run.seed":
            raise RecipeError(
                f"{override!r} has no effect, because a study sets the seeds. Use `--seeds`."
            )
        if any(key == one or key.startswith(f"{one}.") for one in own):
            raise RecipeError(
                f"{override!r} has no effect, because every arm sets it. Change the arms in a "
                "study file of your own."
            )


def _arms(content: dict[str, Any], path: Path) -> dict[str, list[str]]:
    """Return the named arms, each with every combination of the factors."""
    left_out = _leave_one_out(content.get("leave_one_out"), path)
    named, factors = content.get("arms") or left_out or {"": []}, content.get("factors") or {}
    if (
        not isinstance(named, dict)
        or not isinstance(factors, dict)
        or not (content.get("arms") or factors or left_out)
    ):
        raise RecipeError(
            f"`{path}` has no arms. Write arms: {{NAME: [key=value, …]}}, factors: "
            "{key: [value, …]}, or both, or leave_one_out: {key: [value, …]}."
        )
    if left_out and content.get("arms"):
        raise RecipeError(
            f"`{path}` has arms and leave_one_out, which makes arms of its own. Remove one of "
            "the two."
        )
    if not all(isinstance(values, list) and values for values in factors.values()):
        raise RecipeError(
            f"`factors` in `{path}` must have a list of values for each key, got {factors!r}. "
            "Write {key: [value, …]}."
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
    """Return an arm with the whole list, and one without each of its items; nothing for `None`."""
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
            f"`leave_one_out` in `{path}` must be one key with a list of two names or more, got "
            f"{lists!r}. Write {{views.policy.names: [rotate, invert]}}."
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
            f"`{where}` in `{path}` must be a list of texts, got {values!r}. Write [run.epochs=20]."
        )
    return list(values)


def run_study(
    study: Study, out: Path, *, say: Callable[[str], None] = lambda _: None, progress: str = "quiet"
) -> ComparisonTable:
    """Train and evaluate what is missing, and write `table.md` and `table.json`.

    Args:
        study: study from `read_study`.
        out: directory; each run has its own under `runs/`.
        say: called with a line for each run.
        progress: see `pretrain`.
    """
    arms: dict[str, list[Path]] = {}
    total = len(study.arms) * len(study.seeds)
    done = 0
    # All arms of a seed first, so that an interrupted study can be compared in pairs.
    for seed in study.seeds:
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
        found = read_json(folder / "evaluated.json")
    except (OSError, ValueError):
        return False
    return (folder / "evaluation.json").is_file() and found == json.loads(
        json.dumps(config["evaluate"])
    )


def _mark(folder: Path, config: dict[str, Any]) -> None:
    write_json(folder / "evaluated.json", config["evaluate"], sealed=True)


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+=.-" else "_" for c in name)
