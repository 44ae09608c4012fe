"""Phases, one after the other: each is a run of its own, in a directory of its own, through the one loop.

    RUN/recipe.yaml       the plan
    RUN/1-bridle/         a run: recipe, metrics, checkpoints, encoder
    RUN/2-bridle_tokenizer/
    RUN/encoder/          of the last phase, with its metrics beside it

A phase that is done is not run again, one that was interrupted goes on from its checkpoint, and the
parts that a phase loads come from the checkpoints of the phases before: nothing else is handed on.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from mezzotint import dist
from mezzotint.files import write_text
from mezzotint.methods.method import Method
from mezzotint.recipe.phases import refuse_other_recipe, unfold
from mezzotint.recipe.recipe import Recipe, read_recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError, nearest
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.loop import pretrain
from mezzotint.train.rundir import RunDirectoryInUse, locked, prepare


@dataclass(frozen=True)
class Phase:
    """One run of a plan.

    Attributes:
        name: of its directory, after its number.
        load: parts of the method that come from an earlier phase, and their names there.
        config: its recipe, checked.
    """

    name: str
    load: Mapping[str, str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Phases in order.

    Attributes:
        phases: one for a recipe without `phases`.
        raw: the recipe as it was written.
    """

    phases: Sequence[Phase]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> "Plan":
        """Check a recipe as it is written.

        Raises:
            RecipeError: for anything in a phase that cannot be used.
        """
        phases = []
        for number, (name, load, config) in enumerate(unfold(raw)):
            if load and not number:
                raise RecipeError(
                    "phases.0.load: got a first phase that loads something; allowed is one that needs no predecessor: "
                    "put the phase before it that trains what it loads"
                )
            try:
                phases.append(Phase(name, load, resolve_recipe(config)))
            except RecipeError as error:
                raise RecipeError(
                    f"phases.{number}: {error}" if "phases" in raw else str(error)
                ) from error
        return cls(phases, raw)

    def facts(self) -> list[str]:
        """A comment for each phase after the first, for the preview."""
        return [
            f"# phase {number}      {phase.name}: {phase.config['run']['epochs']} epochs, loads "
            f"{', '.join(phase.load) or 'nothing'}"
            for number, phase in enumerate(self.phases[1:], 2)
        ]


def pretrain_plan(
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: str = "bar",
) -> Path:
    """Run all phases.

    Args:
        plan: of phases.
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
    device = Recipe.build(plan.phases[0].config).run.compute.torch_device()
    with ExitStack() as stack:
        stack.enter_context(dist.process_group(device))
        folder = Path(dist.broadcast_object(str(out)))
        dist.on_main(lambda: _prepare(folder, plan, resume=resume, overwrite=overwrite))
        if dist.is_main():
            stack.enter_context(locked(folder))
        places: list[Path] = []
        for number, phase in enumerate(plan.phases, 1):
            place = folder / f"{number}-{phase.name}"
            _run(phase, number, place, places, progress)
            places.append(place)
        dist.on_main(lambda: _lift(places[-1], folder))
    return folder


def _prepare(out: Path, plan: Plan, *, resume: bool, overwrite: bool) -> None:
    if not resume:
        prepare(out, resume=False, overwrite=overwrite)
    elif not (out / "recipe.yaml").is_file():
        raise RunDirectoryInUse(
            f"got --resume for {out}, which has no recipe.yaml; allowed is a run's directory: leave --resume out"
        )
    plain = json.loads(
        json.dumps(plan.raw)
    )  # what stands in two phases is written twice, and not as a YAML alias
    write_text(out / "recipe.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


def _run(phase: Phase, number: int, place: Path, earlier: Sequence[Path], progress: str) -> None:
    begun, done = dist.on_main(
        lambda: (_has_checkpoint(place), (place / "encoder" / "encoder.json").is_file())
    )
    if begun or done:
        refuse_other_recipe(read_recipe(place), phase.config, f" in {place.name}")
    if done:
        return
    recipe = Recipe.build(phase.config)
    load_parts(recipe.method, phase.load, earlier, f"phases.{number - 1}.load")
    pretrain(recipe, place, resume=begun, overwrite=place.exists() and not begun, progress=progress)


def _has_checkpoint(place: Path) -> bool:
    return bool(CheckpointStore(place / "checkpoints").found())


def load_parts(method: Method, load: Mapping[str, str], earlier: Sequence[Path], key: str) -> None:
    """Give parts of a method the weights that earlier phases left.

    Args:
        method: of the next phase.
        load: for each part, its name in an earlier phase; the latest one that has it counts.
        earlier: directories of the phases before, in order.
        key: of the recipe, for messages.

    Raises:
        RecipeError: when no phase left such a part, or it has another form.
    """
    left = [(place.name, _left_by(place)) for place in earlier]
    for part, source in load.items():
        names = [name for name, _ in method.named_modules() if name]
        if part not in names:
            top = sorted({name.partition(".")[0] for name in names})
            raise RecipeError(
                f"{key}: got the part {part!r}, which {method.config['kind']} has not; allowed are {', '.join(top)} "
                f"and what they hold{nearest(part, names)}"
            )
        prefix = f"{source}."
        home, found = next(
            (
                (name, model)
                for name, model in reversed(left)
                if any(k.startswith(prefix) for k in model)
            ),
            ("", {}),
        )
        if not found:
            phases = ", ".join(name for name, _ in left)
            raise RecipeError(
                f"{key}.{part}: got {source!r}, which none of the phases before has ({phases}); allowed is a part of "
                "one of them: put the phase that trains it before this one"
            )
        _fill(
            method,
            part,
            {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)},
            home,
            key,
        )
    method.given = tuple(load)


def _fill(method: Method, part: str, tensors: Mapping[str, Tensor], home: str, key: str) -> None:
    module = method.get_submodule(part)
    own = module.state_dict()
    odd = sorted(own.keys() ^ tensors.keys())
    if odd:
        raise RecipeError(
            f"{key}.{part}: got a part that differs from the one that {home} left, first in {odd[0]!r}; allowed is the "
            "same kind with the same keys: write the same in both phases"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise RecipeError(
                f"{key}.{part}: got {name} of {tuple(tensor.shape)}, and {home} left {tuple(tensors[name].shape)}; "
                "allowed is the same size: write the same size in both phases, or start a new run"
            )
    module.load_state_dict(dict(tensors))


def _left_by(place: Path) -> dict[str, Tensor]:
    saved, problems = CheckpointStore(place / "checkpoints").latest()
    if saved is None:
        why = f" ({problems[0]})" if problems else ""
        raise RecipeError(
            f"got the phase {place.name}, which left no good checkpoint{why}; allowed is one that is done: remove its "
            "directory, and --resume runs it again"
        )
    return saved.model


def _lift(last: Path, out: Path) -> None:
    """Put what evaluation and report read to where they look for it."""
    for name in ("metrics.jsonl", "environment.json"):
        shutil.copy2(last / name, out / name)
    shutil.copytree(last / "encoder", out / "encoder", dirs_exist_ok=True)
