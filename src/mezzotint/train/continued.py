"""Runs that start from a trained encoder: its copy, the warm-up, and what is handed over.

    RUN/start/            the encoder that the run started from
    RUN/encoder/          the better one of start and trained encoder, by `init.keep`
    RUN/encoder_trained/  the trained one, if the start was better
    RUN/start.json        how they were compared, and which one was kept

They are compared on the validation part of the training samples: the one that the data defines, or
a fifth. A kNN and a linear probe are fitted on the rest. Where a fifth has fewer than 500 samples,
each fifth is held out once, so that all training samples count. As in a report, the best probe of
one encoder is compared with the best of the other, sample by sample. The start is kept if the whole
95 % interval of the difference is below zero. Test samples are never used.
"""

import copy
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mezzotint import dist
from mezzotint.data.source import Source, Task, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import merge_lora
from mezzotint.encoders.saving import load_encoder, save_encoder, take_structure
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.results import paired, signed
from mezzotint.files import require_seal, write_json
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError, resolve
from mezzotint.seeding import sample_order
from mezzotint.train.init import frozen_modules
from mezzotint.types import Features

START = "start"
TRAINED = "encoder_trained"
_OUTCOME = "start.json"
_MOST = 10_000
_FOLDS = 5
_ENOUGH = 500
"""Samples of a fifth from which one of them is held out."""


@dataclass(frozen=True)
class StartOutcome:
    """How the trained encoder compares with its start, on the validation part.

    Attributes:
        kept: which of the two is in `encoder/`.
        task: name of the task; empty without labels.
        samples: number of validation samples.
        before: accuracy of the start, by its best probe.
        after: accuracy of the trained encoder, by its best probe.
        low: lower bound of the 95 % interval of after − before.
        high: its upper bound.
    """

    kept: str
    task: str = ""
    samples: int = 0
    before: float = 0.0
    after: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        if not self.task:
            return (
                "encoder: trained; without labels for one class per sample nothing says whether it "
                "is better than its start"
            )
        bounds = f"{signed(self.low)} to {signed(self.high)}"
        measured = (
            f"{self.before:.3f} → {self.after:.3f} ({signed(self.after - self.before)}, 95 % "
            f"interval {bounds}) on {self.samples} validation samples of {self.task}"
        )
        if self.kept == "start":
            return (
                f"encoder: the start is kept, because training made it worse: {measured}; the "
                f"trained one is in {TRAINED}/"
            )
        return f"encoder: trained, {measured}"


def begin(recipe: Recipe) -> None:
    """Load the start of a recipe with `init` into its method, and freeze what does not learn.

    Args:
        recipe: a freshly built one; without `init` nothing happens.

    Raises:
        ValueError: for a start that cannot be used.
    """
    if recipe.init is not None:
        recipe.run = copy.copy(recipe.run)
        recipe.run.notes = (*recipe.run.notes, *recipe.init.load(recipe.method))
        recipe.init.prepare(recipe.method)


def go_on(recipe: Recipe, folder: Path) -> None:
    """Give the method of a recipe with `init` the structure that the checkpoints of its run have.

    Args:
        recipe: a freshly built one; without `init` nothing happens.
        folder: directory of the run, whose `start/` is read and not the path in the recipe; without
            one, as in a bundle that was moved, the encoder is as the recipe makes it.
    """
    if recipe.init is None:
        return
    if (folder / START).is_dir():
        take_structure(recipe.encoder, load_like(recipe.encoder, folder / START))
    recipe.init.prepare(recipe.method)


def keep(recipe: Recipe, folder: Path, *, fresh: bool) -> None:
    """Write the start into the run."""
    if recipe.init is None or not fresh or not dist.is_main():
        return
    made_by = {"start of": folder.name, "path": recipe.init.path}
    save_encoder(recipe.encoder, folder / START, made_by, source=recipe.data)


def set_modes(recipe: Recipe, step: int) -> None:
    """Put what does not learn in a step into eval mode, and all else into training mode.

    An encoder in its warm-up, and a frozen block, compute the same as after training: their
    BatchNorms use and keep the statistics that they have.
    """
    init, method = recipe.init, recipe.method
    if init is None or not (init.warmup_steps or init.freeze_blocks):
        return
    learns = step >= init.warmup_steps
    stem = next(m for m in recipe.encoder.modules() if m._parameters)
    if (recipe.encoder.training, stem.training) == (learns, learns and not init.freeze_blocks):
        return  # as in the step before
    method.train()
    for encoder in (m for m in method.modules() if isinstance(m, Encoder)):
        encoder.train(learns)
        for module in frozen_modules(encoder, init.freeze_blocks):
            module.eval()


def drop_gradients(recipe: Recipe, step: int) -> None:
    """Forget the encoder's gradients in a step of the warm-up."""
    if recipe.init is not None and step < recipe.init.warmup_steps:
        for parameter in recipe.encoder.parameters():
            parameter.grad = None


def hand_over(recipe: Recipe, folder: Path, progress: str = "bar") -> None:
    """Compare the trained encoder with its start, and put the better one into `encoder/`.

    Args:
        recipe: the run's; without `init` nothing happens.
        folder: directory of the run, with `encoder/` and `start/`.
        progress: `bar` says the outcome on stderr, `json` on stdout, `quiet` nowhere.
    """
    if recipe.init is None:
        return
    dist.on_main(lambda: None)  # the others must not read what the main process still writes
    start, trained = (load_like(recipe.encoder, folder / name) for name in (START, "encoder"))
    outcome = compare(start, trained, recipe.data)
    if recipe.init.keep == "better" and outcome.task and outcome.high < 0.0:
        outcome = StartOutcome(**{**asdict(outcome), "kept": "start"})
    if not dist.is_main():
        return
    if outcome.kept == "start":
        _swap(folder)
    # Last, so that no file says that the start was kept before it is there.
    write_json(folder / _OUTCOME, asdict(outcome), sealed=True)
    if progress == "json":
        print(json.dumps(asdict(outcome)), flush=True)
    elif progress == "bar":
        print(outcome, file=sys.stderr)


def load_like(encoder: Encoder, path: Path) -> Encoder:
    """Load an encoder of a run while its method is at hand, which may be of the user's own class.

    Args:
        encoder: the run's encoder, which is left as it is.
        path: directory with the weights.
    """
    try:
        resolve(encoder.config, "Encoder", "encoder")
    except RecipeError:  # only the object itself can be made again
        return load_encoder(path, model=copy.deepcopy(merge_lora(encoder)))
    return load_encoder(path)


def read_outcome(run: Path) -> StartOutcome | None:
    """Read how a run's encoder compared with its start; `None` for a run without `init`."""
    path = run / _OUTCOME
    if not path.is_file():
        return None
    require_seal(path)
    return StartOutcome(**json.loads(path.read_text(encoding="utf-8")))


def other_of(run: Path) -> tuple[Encoder, bool] | None:
    """Load the encoder that a run with `init` has besides `encoder/`, and whether it is the start.

    It is the start, or the trained one where the start was kept; `None` for other runs.
    """
    outcome = read_outcome(run)
    if outcome is None:
        return None
    start = outcome.kept != "start"
    return load_encoder(run / (START if start else TRAINED)), start


def compare(start: Encoder, trained: Encoder, data: Source) -> StartOutcome:
    """Compare two encoders on the validation part of the training samples.

    Args:
        start: the encoder before training.
        trained: the encoder after training.
        data: the training samples; their first task with one label per sample is used.
    """
    source, tasks = data.evaluation()
    task = first_classification(tasks)
    if task is None or len(task.train) < 10:
        return StartOutcome("trained")
    folds = _folds(task)
    before, after = (_best(encoder, source, task, folds) for encoder in (start, trained))
    gained, lost = (after & ~before).double().mean(), (before & ~after).double().mean()
    low, high = paired(float(gained), float(lost), len(before))
    first, second = (float(side.double().mean()) for side in (before, after))
    return StartOutcome("trained", task.name, len(before), first, second, low, high)


Fold = tuple[torch.Tensor, torch.Tensor]
"""Indices of the samples to fit on, and of those to compare on."""


def _folds(task: Task) -> list[Fold]:
    """Split the training samples of a task, once or in five ways."""
    if len(task.validation):
        chosen = torch.from_numpy(task.train)
        inside = torch.isin(chosen, torch.from_numpy(task.validation))
        return [(chosen[~inside][:_MOST], chosen[inside][:_MOST])]
    chosen = torch.from_numpy(task.train)[sample_order(len(task.train), 0, 0, stop=_MOST)]
    parts = chosen.tensor_split(_FOLDS)
    rest = [torch.cat([p for p in parts if p is not part]) for part in parts]
    folds = list(zip(rest, parts, strict=True))
    return folds[:1] if len(parts[0]) >= _ENOUGH else folds


def _best(encoder: Encoder, source: Source, task: Task, folds: list[Fold]) -> torch.Tensor:
    """Return which held-out samples the better of kNN and linear probe classifies correctly."""
    labels = torch.from_numpy(task.labels)
    every = torch.cat(folds[0])
    read = extract_readable(encoder, source, indices=every)
    # Features that are not finite answer nothing, and must not stop the comparison.
    x = torch.nan_to_num(read.x, nan=0.0, posinf=0.0, neginf=0.0)
    known = labels[read.indices] >= 0
    found: dict[str, list[torch.Tensor]] = {}
    for sides in folds:
        rows = [known & torch.isin(read.indices, side) for side in sides]
        fitted, held_out = (Features(x[own], labels[read.indices][own]) for own in rows)
        for probe in (KNN(), Linear()):
            for row in probe.run(fitted, held_out):
                if row.metric == "top1":
                    value: Any = row.value
                    found.setdefault(probe.name, []).append(value.correct)
    correct = [torch.cat(parts) for parts in found.values()]
    return max(correct, key=lambda one: float(one.double().mean()))


def _swap(folder: Path) -> None:
    """Put the start into `encoder/`, and the trained encoder next to it."""
    waiting = folder / f"{START}.tmp"
    shutil.rmtree(waiting, ignore_errors=True)
    shutil.copytree(folder / START, waiting)
    shutil.rmtree(folder / TRAINED, ignore_errors=True)
    (folder / "encoder").rename(folder / TRAINED)
    waiting.rename(folder / "encoder")
