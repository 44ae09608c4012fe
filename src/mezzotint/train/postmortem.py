"""What is left of a run that the guard stopped, and how it is run again.

    RUN/postmortem/step-00000012/
        bundle.json        step, samples, loss, gradient norm, seed, versions, message
        recipe.yaml        environment.json
        checkpoints/       the last good state, a link to the run's files where the disk has links

Everything random is a function of seed and step, so these files are all that a replay needs. They
are sealed like those of a run.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mezzotint import dist
from mezzotint._version import __version__
from mezzotint.data.loader import BatchPlan
from mezzotint.files import read_json, require_seal, write_json, write_text
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointCorrupt, CheckpointStore, verify
from mezzotint.train.guard import NotFinite
from mezzotint.train.state import RunState

FOLDER = "postmortem"
FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """What a stopped run left.

    Attributes:
        folder: of the bundle.
        step: number of the step that stopped the run, from 0.
        start: step that the checkpoint goes on with; the same, unless later weights were not
            finite.
        has_checkpoint: false if there is none, and a replay begins with the initial weights.
        samples: indices of the step's samples, over all processes.
        loss: of the step, as text: `nan`, `inf`, or a number.
        grad_norm: norm of its gradient, likewise.
        message: of the error.
        versions: of mezzotint and torch.
    """

    folder: Path
    step: int
    start: int
    has_checkpoint: bool
    samples: tuple[int, ...]
    loss: str
    grad_norm: str
    message: str
    versions: Mapping[str, str]


def keep(error: Exception, out: Path, recipe: Recipe, state: RunState, step: int) -> None:
    """Write a bundle after `NotFinite`, and say so in a note of the error; main process only.

    Args:
        error: that ends the run; others leave no bundle.
        out: directory of the run.
        recipe: of the run.
        state: of the run, before the step.
        step: that was not finite, from 0.
    """
    if not isinstance(error, NotFinite) or not dist.is_main():
        return
    folder = out / FOLDER / f"step-{step:08d}"
    # Without room on the disk there is no bundle; the error itself is what counts.
    with contextlib.suppress(OSError):
        _write(folder, error, out, recipe, state, step)
        error.add_note(f"To see where it began: mezzotint replay {folder}.")


def _write(
    folder: Path, error: Exception, out: Path, recipe: Recipe, state: RunState, step: int
) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    good = CheckpointStore(out / "checkpoints").newest_good()
    # What is divided over the processes cannot be gathered here.
    if good is None and not state.is_divided:  # stopped before the first checkpoint
        with contextlib.suppress(NotFinite):  # from the first step on, replay finds the update
            good = CheckpointStore(folder / "checkpoints").save(step, *state.parts(step))
    elif good is not None:
        shutil.copytree(good, folder / "checkpoints" / good.name, copy_function=_link)
    write_text(folder / "recipe.yaml", recipe.to_yaml(), sealed=True)
    write_json(folder / "environment.json", {"directory": str(Path.cwd())}, sealed=True)
    run, rejected = recipe.run, state.guard.rejected
    plan = BatchPlan.of(recipe.data, run.batch_size, run.seed, 0, 1)
    write_json(
        folder / "bundle.json",
        {
            "format": FORMAT,
            "mezzotint": __version__,
            "torch": torch.__version__,
            "message": str(error),
            "step": step,
            "checkpoint": int(good.name.rpartition("-")[2]) if good else None,
            "samples": plan.indices(step).tolist(),
            "seed": run.seed,
            "processes": dist.world_size(),
            "loss": str(rejected.loss if rejected else None),
            "grad_norm": str(rejected.grad_norm if rejected else None),
        },
        sealed=True,
    )  # last: without it the folder is no bundle


def _link(source: str, target: str) -> None:
    """Link a file of a checkpoint, which never changes; copy it where the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle, and check every file of it.

    Raises:
        RecipeError: when it is no bundle, is damaged, or of another version.
    """
    folder = Path(folder)
    if not (folder / "bundle.json").is_file():
        raise RecipeError(
            f"`{folder}` has no bundle.json, so it is not a bundle. Give a folder of a run that "
            f"NaN or inf stopped: RUN/{FOLDER}/step-…."
        )
    try:
        content = read_json(folder / "bundle.json")
        for name in ("recipe.yaml", "environment.json"):
            require_seal(folder / name)
        if content["format"] != FORMAT or content["mezzotint"] != __version__:
            raise RecipeError(
                f"`{folder}` was written by mezzotint {content['mezzotint']}, and this is "
                f"{__version__}. Replay it with the version that wrote it."
            )
        bundle = Bundle(
            folder,
            int(content["step"]),
            int(content["checkpoint"] or 0),
            content["checkpoint"] is not None,
            tuple(map(int, content["samples"])),
            str(content["loss"]),
            str(content["grad_norm"]),
            str(content["message"]),
            {name: str(content[name]) for name in ("mezzotint", "torch")},
        )
        if bundle.has_checkpoint:
            verify(folder / "checkpoints" / f"step-{bundle.start:08d}")
    except RecipeError:
        raise
    except (CheckpointCorrupt, ValueError, KeyError, TypeError, OSError) as error:
        text = str(error).rstrip(".")
        raise RecipeError(
            f"The bundle `{folder}` is damaged: {text}. Copy it from the run again."
        ) from error
    return bundle


def read_samples(recipe: Recipe, bundle: Bundle) -> dict[int, str]:
    """Read the names of a bundle's samples, by index."""
    names: dict[int, Any] = {}
    for index in bundle.samples:
        with contextlib.suppress(Exception):  # an unreadable sample was replaced in training
            names[index] = recipe.data.read(index)["id"]
    return {index: str(name) for index, name in names.items()}
