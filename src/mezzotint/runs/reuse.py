"""Runs that are trained once: finished ones are used again, interrupted ones are resumed.

Studies and repeated fine-tunings are lists of runs. Started a second time with the same directory
they train only what is missing, and refuse to mix two recipes.

A run's `encoder/` holds the trained backbone. Its newest checkpoint holds the whole method, so the
target network (BYOL, MoCo) and the projections can be evaluated too: the best branch and layer
differ by method, and the protocol says which one was measured.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import merge_lora
from mezzotint.methods.method import BranchName, Method
from mezzotint.recipe.recipe import Recipe
from mezzotint.train import continued
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse
from mezzotint.train.state import tensors_of

_UNRELATED = ("log", "checkpoints", "loader", "guard")
"""Keys of `run` that do not change what is learned."""


def ensure(
    recipe: Recipe,
    folder: Path,
    *,
    progress: str = "quiet",
    before: Callable[[Recipe], None] | None = None,
) -> bool:
    """Train a recipe into a directory, unless it is trained already.

    Args:
        recipe: recipe to train.
        folder: directory of the run.
        progress: see `pretrain`.
        before: called with the recipe before the first step of a new run.

    Returns:
        Whether anything was trained.

    Raises:
        RunDirectoryInUse: when the directory holds a run of another recipe.
    """
    done, saved = finished(folder), _saved(folder)
    if saved is not None and comparable(saved) != comparable(recipe.config()):
        raise RunDirectoryInUse(
            f"`{folder}` holds a run of another recipe. Choose another `--out`."
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
    """Return whether a run reached its end, so that its encoder was saved."""
    return (folder / "encoder" / "encoder.json").is_file()


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a recipe that two runs of one experiment share.

    That is all but how the run is logged, saved and evaluated.
    """
    kept = {
        name: part for name, part in config.items() if name not in ("run", "evaluate", "export")
    }
    kept["run"] = {key: value for key, value in config["run"].items() if key not in _UNRELATED}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def trained_method(recipe: Recipe, folder: Path) -> Recipe:
    """Return the recipe with the weights of its run's newest checkpoint, averaged if it says so.

    Raises:
        ValueError: when there is no good checkpoint, or it is not one of this recipe.
    """
    saved, problems = CheckpointStore(folder / "checkpoints").latest()
    if saved is None:
        why = f" ({problems[0]})" if problems else ""
        raise ValueError(f"`{folder}` has no good checkpoint{why}. Train it again.")
    continued.go_on(recipe, folder)
    try:
        recipe.method.load_state_dict(
            tensors_of(saved, "average") if recipe.run.compute.average else saved.model
        )
    except RuntimeError as error:
        raise ValueError(
            f"The checkpoint of `{folder}` does not fit its recipe: "
            f"{' '.join(str(error).split())[:160]}. Use the recipe in the run."
        ) from error
    return recipe


def _saved(folder: Path) -> dict[str, Any] | None:
    if not (folder / "recipe.yaml").is_file():
        return None
    from mezzotint.recipe.recipe import read_recipe

    return read_recipe(folder)


Part = Literal["backbone", "projector"]


class Projected(Encoder, abstract=True):
    """Run a backbone and the projector on it as one encoder.

    Args:
        backbone: encoder.
        projector: head on the encoder.
    """

    def __init__(self, backbone: Encoder, projector: nn.Module) -> None:
        dims = [m.out_features for m in projector.modules() if isinstance(m, nn.Linear)]
        super().__init__(backbone.input, dims[-1] if dims else backbone.dim)
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
    """Load a network of a run from its newest checkpoint, in eval mode; see `branch_of`."""
    chosen = branch_of(trained_method(recipe, folder).method, branch, part)
    return merge_lora(chosen).eval()
