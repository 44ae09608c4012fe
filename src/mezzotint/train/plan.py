"""The phases of a recipe, one after the other: each is a run through the one loop.

    RUN/recipe.yaml       the plan
    RUN/1-bridle/         a run: recipe, metrics, checkpoints, encoder
    RUN/2-bridle_tokenizer/
    RUN/encoder/          the last phase's, and its metrics.jsonl and environment.json

A finished phase is not run again, an interrupted one goes on from its checkpoint, and a phase loads
its parts from the checkpoints of earlier phases: nothing else passes between them.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from mezzotint import dist
from mezzotint.files import write_text
from mezzotint.methods.method import Method
from mezzotint.recipe.phases import refuse_other_recipe
from mezzotint.recipe.reading import dump_yaml
from mezzotint.recipe.recipe import Phase, Plan, Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError, nearest
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse, locked, prepare


def pretrain_plan(
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: str = "bar",
) -> Path:
    """Run all phases of a recipe; a recipe without phases is a single run.

    Args:
        plan: the recipe, from `read_plan`.
        out: directory of the whole run.
        resume: go on where a run in `out` stopped; phases may have been added at the end.
        overwrite: remove an earlier run in `out`.
        progress: `bar`, `quiet` or `json`.

    Returns:
        The directory, with the last phase's encoder and metrics at the top.

    Raises:
        Interrupted: after a signal; the phase's checkpoint was saved.
        ValueError: for anything in the recipes, the phases or the directory that cannot be used.
    """
    first = Recipe.build(plan.phases[0].config)  # refused before anything is written
    if len(plan.phases) == 1:
        return pretrain(first, out, resume=resume, overwrite=overwrite, progress=progress)
    device = first.run.compute.torch_device()
    built = [first]
    del first  # so that the memory of phase 1 is free when it is done
    with ExitStack() as stack:
        stack.enter_context(dist.process_group(device))
        root = Path(dist.broadcast_object(str(out)))
        dist.on_main(lambda: _prepare(root, plan, resume=resume, overwrite=overwrite))
        if dist.is_main():
            stack.enter_context(locked(root))
        folders: list[Path] = []
        for number, phase in enumerate(plan.phases, 1):
            folder = root / f"{number}-{phase.name}"
            recipe = built.pop() if built else None
            if not _is_done(folder, phase):
                recipe = recipe or Recipe.build(phase.config)
                load_parts(recipe.method, phase.load, folders, f"phases.{number - 1}.load")
                begun = _has_checkpoint(folder)
                pretrain(
                    recipe,
                    folder,
                    resume=begun,
                    overwrite=folder.exists() and not begun,
                    progress=progress,
                )
            folders.append(folder)
        dist.on_main(lambda: _publish(folders[-1], root))
    return root


def _prepare(out: Path, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    if not resume:
        prepare(out, resume=False, overwrite=overwrite)
    elif not (out / "recipe.yaml").is_file():
        raise RunDirectoryInUse(
            f"`{out}` has no recipe.yaml, so there is no run to resume. "
            "Give a run's directory, or leave --resume out."
        )
    # Through JSON, so that what stands in two phases is written twice and not as a YAML alias.
    plain = json.loads(json.dumps(plan.raw))
    write_text(out / "recipe.yaml", dump_yaml(plain))


def _is_done(folder: Path, phase: Phase) -> bool:
    """Whether a phase has its encoder; refuses a phase that was begun with another recipe."""
    done = dist.on_main(lambda: (folder / "encoder" / "encoder.json").is_file())
    if done or _has_checkpoint(folder):
        refuse_other_recipe(read_recipe(folder), phase.config, f" ({folder.name})")
    return done


def _has_checkpoint(folder: Path) -> bool:
    return dist.on_main(lambda: bool(CheckpointStore(folder / "checkpoints").found()))


def load_parts(method: Method, load: Mapping[str, str], earlier: Sequence[Path], key: str) -> None:
    """Load parts of a method from earlier phases.

    Args:
        method: the next phase's.
        load: for each part, its name in an earlier phase; the latest phase that has it counts.
        earlier: directories of the phases before, in order.
        key: of the recipe, for messages.

    Raises:
        RecipeError: when no phase left such a part, or its shape differs.
    """
    left = [(folder.name, _model_left_by(folder)) for folder in earlier]
    for part, source in load.items():
        names = [name for name, _ in method.named_modules() if name]
        if part not in names:
            top = sorted({name.partition(".")[0] for name in names})
            raise RecipeError(
                f"`{key}` must name parts of {method.config['kind']} ({', '.join(top)}, or parts "
                f"of these), got {part!r}.{nearest(part, names)}"
            )
        prefix = f"{source}."
        home, model = next(
            (
                (name, model)
                for name, model in reversed(left)
                if any(k.startswith(prefix) for k in model)
            ),
            ("", {}),
        )
        if not model:
            phases = ", ".join(name for name, _ in left)
            raise RecipeError(
                f"`{key}.{part}` must be a part of an earlier phase ({phases}), got {source!r}. "
                "Put the phase that trains it before this one."
            )
        tensors = {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}
        _fill(method, part, tensors, home, key)
    method.given = tuple(load)


def _fill(method: Method, part: str, tensors: Mapping[str, Tensor], home: str, key: str) -> None:
    module = method.get_submodule(part)
    own = module.state_dict()
    odd = sorted(own.keys() ^ tensors.keys())
    if odd:
        raise RecipeError(
            f"`{key}.{part}` differs from the part that {home} left, first in {odd[0]!r}. "
            "Write the same kind with the same keys in both phases."
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise RecipeError(
                f"`{key}.{part}` must have the size that {home} left: {name} is "
                f"{tuple(tensors[name].shape)} there, and {tuple(tensor.shape)} here. "
                "Write the same size in both phases, or start a new run."
            )
    module.load_state_dict(dict(tensors))


def _model_left_by(folder: Path) -> dict[str, Tensor]:
    saved, problems = CheckpointStore(folder / "checkpoints").latest()
    if saved is None:
        why = f" ({problems[0]})" if problems else ""
        raise RecipeError(
            f"The phase {folder.name} has no good checkpoint{why}. "
            "Remove its directory, and --resume runs it again."
        )
    return saved.model


def _publish(last: Path, out: Path) -> None:
    """Copy what evaluation and report read to the top of the run."""
    for name in ("metrics.jsonl", "environment.json"):
        shutil.copy2(last / name, out / name)
    shutil.copytree(last / "encoder", out / "encoder", dirs_exist_ok=True)
