"""Runs that are made once: what is finished is used again, what was interrupted goes on.

Studies and repeated fine-tunings are lists of runs. Started a second time with the same directory
they do only what is missing, and refuse to mix figures of two recipes.

The other networks that a run trained: the momentum copy, and either with its projector on it.

A run's `encoder/` holds the trained backbone. Its newest checkpoint holds the whole method, from
which the target network (BYOL, MoCo) and the projections can be evaluated: which branch and which
layer is best differs by method, and a fair comparison says which it took.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import BranchName, Method
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.state import tensors_of

_FREE = ("log", "checkpoints", "loader", "guard")
"""Keys of `run` that do not change what is learned."""


def ensure(
    recipe: Recipe,
    folder: Path,
    *,
    progress: str = "quiet",
    before: Callable[[Recipe], None] | None = None,
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
    pretrain(
        recipe, folder, resume=resume, overwrite=not resume and saved is not None, progress=progress
    )
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
        raise ValueError(
            f"{folder} has no good checkpoint{why}; allowed is a run that was trained: train it again"
        )
    try:
        recipe.method.load_state_dict(
            tensors_of(saved, "average") if recipe.run.compute.average else saved.model
        )
    except RuntimeError as error:
        raise ValueError(
            f"the checkpoint of {folder} does not fit its recipe: {' '.join(str(error).split())[:160]}; use its own"
        ) from error
    return recipe


def _saved(folder: Path) -> dict[str, Any] | None:
    if not (folder / "recipe.yaml").is_file():
        return None
    from mezzotint.recipe.recipe import read_recipe

    return read_recipe(folder)


Part = Literal["backbone", "projector"]


class Projected(Encoder, abstract=True):
    """A backbone and the projector on it, as one encoder.

    Args:
        backbone: the encoder.
        projector: what stands on it.
    """

    def __init__(self, backbone: Encoder, projector: nn.Module) -> None:
        widths = [m.out_features for m in projector.modules() if isinstance(m, nn.Linear)]
        super().__init__(backbone.input, widths[-1] if widths else backbone.dim)
        self.backbone, self.projector = backbone, projector

    def forward(self, x: Tensor) -> Tensor:
        """`[B, *input.shape]` → `[B, dim]`."""
        out: Tensor = self.projector(self.backbone(x))
        return out


def branch_of(method: Method, branch: BranchName = "online", part: Part = "backbone") -> Encoder:
    """Return a network of a method as an encoder.

    Args:
        method: with the weights that are evaluated.
        branch: `online` for the trained network, `target` for its momentum copy.
        part: `backbone` for the encoder alone, `projector` for the encoder and the head on it.

    Raises:
        ValueError: for a branch or a projector that the method does not have.
    """
    branches, kind = method.branches(), type(method).__name__
    if branch not in branches:
        raise ValueError(
            f"`branch` must be online for {kind}, which keeps no momentum copy, got "
            f"{branch}. Leave it out."
        )
    chosen = branches[branch]
    if part == "backbone":
        return chosen.encoder
    if chosen.projector is None:
        raise ValueError(
            f"`part` must be backbone for {kind}, which has no projector, got {part}. Leave it out."
        )
    return Projected(chosen.encoder, chosen.projector)


def load_branch(folder: Path, recipe: Recipe, branch: BranchName, part: Part) -> Encoder:
    """A network of a run, in eval mode, from its newest checkpoint; see `branch_of`."""
    return branch_of(trained_method(recipe, folder).method, branch, part).eval()
