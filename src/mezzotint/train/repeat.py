"""Runs that are made once: what is finished is used again, what was interrupted goes on.

Studies and repeated fine-tunings are lists of runs. Started a second time with the same directory they do only what is
missing, and refuse to mix figures of two recipes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.recipe import Recipe
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.state import tensors_of

_FREE = ("log", "checkpoints", "loader", "guard")
"""Keys of `run` that do not change what is learnt."""


def ensure(
    recipe: Recipe, folder: Path, *, progress: str = "quiet", before: Callable[[Recipe], None] | None = None
) -> bool:
    """Train a recipe into a directory, unless that is done already.

    Args:
        recipe: what to train.
        folder: of the run.
        progress: see `pretrain`.
        before: called with the recipe before the first step of a run that starts anew.

    Returns:
        Whether anything was trained.

    Raises:
        RunDirectoryInUse: when the directory holds a run of another recipe.
    """
    done, saved = finished(folder), _saved(folder)
    if saved is not None and comparable(saved) != comparable(recipe.config()):
        raise RunDirectoryInUse(
            f"got {folder}, which holds a run of another recipe; allowed is the same: take another --out"
        )
    if done:
        return False
    resume = bool(CheckpointStore(folder / "checkpoints").found())
    if not resume and before is not None:
        before(recipe)
    pretrain(recipe, folder, resume=resume, overwrite=not resume and saved is not None, progress=progress)
    return True


def finished(folder: Path) -> bool:
    """Whether a run reached its end: its encoder was saved."""
    return (folder / "encoder" / "encoder.json").is_file()


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What two runs must have in common to be the same experiment: all but how it is logged, saved and evaluated."""
    kept = {name: part for name, part in config.items() if name not in ("run", "evaluate")}
    kept["run"] = {key: value for key, value in config["run"].items() if key not in _FREE}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def trained_method(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the weights of its run's newest checkpoint, averaged where it says so; all branches and heads.

    Raises:
        ValueError: when there is no good checkpoint, or it is not one of this recipe.
    """
    saved, problems = CheckpointStore(folder / "checkpoints").latest()
    if saved is None:
        why = f" ({problems[0]})" if problems else ""
        raise ValueError(f"{folder} has no good checkpoint{why}; allowed is a run that was trained: train it again")
    try:
        recipe.method.load_state_dict(tensors_of(saved, "average") if recipe.run.compute.average else saved.model)
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint of {folder} does not fit its recipe: {' '.join(str(error).split())[:160]}; use its own"
        ) from error
    return recipe


def _saved(folder: Path) -> dict[str, Any] | None:
    if not (folder / "recipe.yaml").is_file():
        return None
    from mezzotint.train.recipe import read_recipe

    return read_recipe(folder)
