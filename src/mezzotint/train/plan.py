"""The phases of a recipe, one after the other: each is a run through the one loop.

    RUN/recipe.yaml       the plan
    RUN/1-bridle/         a run: recipe, metrics, checkpoints, encoder
    RUN/2-bridle_tokenizer/
    RUN/encoder/          the last phase's, and its metrics.jsonl and environment.json

A finished phase is not run again, an interrupted one goes on from its checkpoint, and a phase loads
its parts from the checkpoints of earlier phases, or from paths (`train.parts`): nothing else passes
between them. All phases are built once before the first step, so that parts which do not fit are
refused then. A recipe without phases that starts from a path is a plan of one phase.
"""

import json
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from mezzotint import dist
from mezzotint.files import replacing, sealing, write_text
from mezzotint.recipe.phases import refuse_other_recipe
from mezzotint.recipe.reading import dump_yaml
from mezzotint.recipe.recipe import Phase, Plan, Recipe, read_recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import require_trackers
from mezzotint.train.loop import pretrain
from mezzotint.train.parts import check_plan, load_key, load_parts
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
    if len(plan.phases) == 1 and not plan.phases[0].load:
        return pretrain(first, out, resume=resume, overwrite=overwrite, progress=progress)
    check_plan(plan, first, paths=not resume)
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
                begun = _has_checkpoint(folder)
                key = load_key(plan, number - 1)
                notes = load_parts(recipe.method, phase.load, folders, key, begun=begun)
                for note in notes if progress == "bar" and dist.is_main() else ():
                    print(note, file=sys.stderr)
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
    for phase in plan.phases:
        require_trackers(phase.config["run"]["log"]["trackers"] or ())
    if not resume:
        prepare(out, resume=False, overwrite=overwrite)
    elif not (out / "recipe.yaml").is_file():
        raise RunDirectoryInUse(
            f"`{out}` has no recipe.yaml, so there is no run to resume. "
            "Give a run's directory, or leave --resume out."
        )
    # Through JSON, so that what stands in two phases is written twice and not as a YAML alias.
    plain = json.loads(json.dumps(plan.raw))
    write_text(out / "recipe.yaml", dump_yaml(plain), sealed=True)


def _is_done(folder: Path, phase: Phase) -> bool:
    """Whether a phase has its encoder; refuses a phase that was begun with another recipe."""
    done = dist.on_main(lambda: (folder / "encoder" / "encoder.json").is_file())
    if done or _has_checkpoint(folder):
        refuse_other_recipe(read_recipe(folder), phase.config, f" ({folder.name})")
    return done


def _has_checkpoint(folder: Path) -> bool:
    return dist.on_main(lambda: bool(CheckpointStore(folder / "checkpoints").found()))


def _publish(last: Path, out: Path) -> None:
    """Copy what evaluation and report read to the top of the run."""
    files = {"metrics.jsonl": replacing, "environment.json": sealing, "start.json": sealing}
    for name, writing in files.items():
        if (last / name).is_file():
            with writing(out / name) as temporary:
                shutil.copyfile(last / name, temporary)
    for name in ("encoder", "start", "encoder_trained"):
        if (last / name).is_dir():
            shutil.copytree(last / name, out / name, dirs_exist_ok=True)
