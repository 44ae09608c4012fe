"""The phases of a recipe, one after the other: each is a run through the one loop.

    RUN/recipe.yaml       the plan
    RUN/1-bridle/         a run: recipe, metrics, checkpoints, encoder
    RUN/2-bridle_tokenizer/
    RUN/encoder/          the last phase's, and its metrics.jsonl and environment.json

A finished phase is not run again, an interrupted one goes on from its checkpoint, and a phase loads
its parts from the checkpoints of earlier phases, or from paths: nothing else passes between them.
All phases are built once before the first step, so that parts which do not fit are refused then. A
recipe without phases that starts from a path is a plan of one phase.

Parts of a method that come from elsewhere:

    load: {encoder: encoder}                   the encoder of the latest phase that has one
    load: {encoder: runs/first}                the encoder of another run
    load: {encoder: runs/first, decoder: runs/first, codebook: runs/first}
    load: {encoder: encoders/mae}              what `mezzotint import` or a run wrote
    load: {encoder: vit_base.safetensors}      weights of another project, see `interop.load`

A part takes all of its tensors or none. A file may hold a ViT of images for a spectrogram: the
kernels of three colors are summed, and positions are cut or interpolated (`interop.vit`).
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.files import replacing, sealing, write_text
from mezzotint.interop.load import load_checkpoint
from mezzotint.methods.method import Method
from mezzotint.methods.supervised import start_from
from mezzotint.recipe.phases import is_path, refuse_other_recipe
from mezzotint.recipe.reading import dump_yaml
from mezzotint.recipe.recipe import Phase, Plan, Recipe, read_recipe
from mezzotint.recipe.schema import FAMILIES, RecipeError, construct, nearest
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.init import require_same_network
from mezzotint.train.log import require_trackers
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse, locked, prepare


@dataclass(frozen=True)
class Left:
    """What a phase leaves.

    Attributes:
        name: of the phase, for messages.
        tensors: the state of its method, or shapes in its place.
    """

    name: str
    tensors: Mapping[str, Any]

    def part(self, name: str) -> dict[str, Any]:
        """Select the tensors of a part, by their names in it."""
        prefix = f"{name}."
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}


def check_plan(plan: Plan, first: Recipe, *, paths: bool = True) -> None:
    """Build every phase, and check that its parts fit what earlier phases will leave.

    Args:
        plan: of several phases, or of one that starts from a path.
        first: its first phase, built.
        paths: read the parts of paths too; those of a run that goes on may be gone.

    Raises:
        ValueError: for a part that no phase leaves, that differs, or whose path has none.
    """
    left: list[Left] = []
    for number, phase in enumerate(plan.phases):
        method = first.method if not number else _method_of(plan, number, first)
        shapes = {name: tuple(t.shape) for name, t in method.state_dict().items()}
        for part, source in phase.load.items():
            key = load_key(plan, number)
            module = _module(method, part, key)
            if is_path(number, source):
                if paths:
                    _from_path(module, part, Path(source), f"{key}.{part}")
            else:
                found = _latest(left, source, f"{key}.{part}")
                own = {name: tuple(t.shape) for name, t in module.state_dict().items()}
                _require_alike(own, found.part(source), f"{key}.{part}", found.name)
        left.append(Left(f"{number + 1}-{phase.name}", shapes))


def load_key(plan: Plan, number: int) -> str:
    """Name the key of a phase's `load` in the recipe."""
    single = "phases" not in plan.raw or (not number and plan.raw.get("load"))
    return "load" if single else f"phases.{number}.load"


def _method_of(plan: Plan, number: int, first: Recipe) -> Method:
    config, before = plan.phases[number].config, plan.phases[0].config
    if config["data"] != before["data"] or "mup" in config:
        return Recipe.build(config).method
    # The same data: opening it once more can take long.
    given = {"Encoder": (first.data.input,)}
    with torch.random.fork_rng(devices=[]):
        encoder = construct(config["encoder"], FAMILIES["encoder"], given)
        method: Method = construct(config["method"], FAMILIES["method"], {"Method": (encoder,)})
    return method


def load_parts(
    method: Method,
    load: Mapping[str, str],
    earlier: Sequence[Path],
    key: str,
    *,
    begun: bool = False,
) -> list[str]:
    """Load parts of a method.

    Args:
        method: the next phase's.
        load: for each part, its name in an earlier phase (the latest that has it counts), or a
            path.
        earlier: directories of the phases before, in order.
        key: of the recipe, for messages.
        begun: whether the phase goes on from its own checkpoint, so that paths are not read.

    Returns:
        What was read from files, in words.

    Raises:
        RecipeError: when there is no such part, or its shape differs.
    """
    number = len(earlier)
    phases = {source for source in load.values() if not is_path(number, source)}
    left = [Left(folder.name, _model_left_by(folder)) for folder in earlier] if phases else []
    notes = []
    for part, source in load.items():
        module, own_key = _module(method, part, key), f"{key}.{part}"
        if not is_path(number, source):
            found = _latest(left, source, own_key)
            _fill(module, found.part(source), own_key, found.name)
        elif not begun:
            notes.append(_from_path(module, part, Path(source), own_key))
    method.given = tuple(load)
    return notes


def _module(method: Method, part: str, key: str) -> nn.Module:
    names = [name for name, _ in method.named_modules() if name]
    if part not in names:
        top = sorted({name.partition(".")[0] for name in names})
        raise RecipeError(
            f"`{key}` must name parts of {method.config['kind']} ({', '.join(top)}, or parts "
            f"of these), got {part!r}.{nearest(part, names)}"
        )
    return method.get_submodule(part)


def _latest(left: Sequence[Left], source: str, key: str) -> Left:
    found = next((one for one in reversed(left) if one.part(source)), None)
    if found is None:
        raise RecipeError(
            f"`{key}` must be a part of an earlier phase ({', '.join(one.name for one in left)}), "
            f"or a path, got {source!r}. Put the phase that trains it before this one."
        )
    return found


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], key: str, home: str) -> None:
    shapes = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    _require_alike(shapes, {name: tuple(t.shape) for name, t in tensors.items()}, key, home)
    module.load_state_dict(dict(tensors))


def _require_alike(
    own: Mapping[str, tuple[int, ...]],
    there: Mapping[str, tuple[int, ...]],
    key: str,
    home: str,
) -> None:
    """Refuse a part whose tensors have other names or shapes than those of the other phase."""
    odd = sorted(own.keys() ^ there.keys())
    if odd:
        raise RecipeError(
            f"`{key}` differs from the part that {home} left, first in {odd[0]!r}. "
            "Write the same kind with the same keys in both phases."
        )
    for name, shape in own.items():
        if shape != there[name]:
            raise RecipeError(
                f"`{key}` must have the size that {home} left: {name} is {there[name]} there, and "
                f"{shape} here. Write the same size in both phases, or start a new run."
            )


def _model_left_by(folder: Path) -> dict[str, Tensor]:
    saved, problems = CheckpointStore(folder / "checkpoints").latest()
    if saved is None:
        why = f" ({problems[0]})" if problems else ""
        raise RecipeError(
            f"The phase {folder.name} has no good checkpoint{why}. "
            "Remove its directory, and --resume runs it again."
        )
    return saved.model


def _require_path(source: str, key: str) -> None:
    path = Path(source)
    if not path.is_file() and not (path / "encoder.json").is_file() and not _runs_in(path):
        raise RecipeError(
            f"`{key}` must be a run, an encoder directory, or a file of weights, got {source!r}. "
            "Check the path."
        )


def _runs_in(path: Path) -> list[Path]:
    """List the directories of a run with checkpoints: its phases, last first, and its own."""
    numbered = [
        (int(head), folder)
        for folder in (path.iterdir() if path.is_dir() else ())
        if (head := folder.name.partition("-")[0]).isdigit()
    ]
    folders = [folder for _, folder in sorted(numbered, reverse=True)]
    return [folder for folder in [*folders, path] if (folder / "checkpoints").is_dir()]


def _from_path(module: nn.Module, part: str, path: Path, key: str) -> str:
    """Load a part from a run, an encoder directory or a file, and say what was loaded."""
    _require_path(str(path), key)
    if path.is_file():
        if not isinstance(module, Encoder):
            raise RecipeError(
                f"`{key}` is not an encoder, so it cannot come from the file `{path}`. Give a run "
                "that trained it."
            )
        return f"{key}: {load_checkpoint(module, path, adapt=True)}"
    is_encoder = (path / "encoder.json").is_file()
    if isinstance(module, Encoder) and (
        is_encoder or (part == "encoder" and (path / "encoder" / "encoder.json").is_file())
    ):
        _start_from(module, path, key)
        return f"{key}: loaded from {path}"
    for folder in _runs_in(path):
        left = Left(str(folder), _model_left_by(folder))
        if tensors := left.part(part):
            _fill(module, tensors, key, str(folder))
            return f"{key}: loaded from {folder}"
    raise RecipeError(
        f"`{key}`: `{path}` has no {part}. Give a run that trained it, or leave the part out."
    )


def _start_from(encoder: Encoder, path: Path, key: str) -> None:
    """Load a saved encoder, if it is the same network."""
    require_same_network(
        encoder,
        load_encoder(path),
        f"`{key}`: the encoder of `{path}`",
        "Copy the encoder section of its encoder.json into the recipe.",
    )
    start_from(encoder, str(path))


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
