"""Runs that start from a trained encoder: its copy, the warm-up, the drift, what is handed over.

    RUN/start/            the encoder that the run started from
    RUN/encoder/          the better one of start and trained encoder, by `init.keep`
    RUN/encoder_trained/  the trained one, if the start was better
    RUN/start.json        how they were compared, and which one was kept

They are compared on training samples, as `evaluation.before_after` does it. The start is kept if
the 95 % interval of either difference is wholly below zero. Test samples are never used.
"""

import copy
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.lora import merge_lora
from mezzotint.encoders.saving import load_encoder, save_encoder, take_structure
from mezzotint.evaluation.before_after import StartComparison, compare_on_training_samples
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.label_free import rankme
from mezzotint.files import require_seal, write_json
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError, resolve
from mezzotint.train.init import frozen_modules

START = "start"
TRAINED = "encoder_trained"
_OUTCOME = "start.json"
LEAST_RANK = 0.8
"""Below this fraction of the start's effective rank, a run warns."""


@dataclass(frozen=True)
class StartOutcome:
    """How the trained encoder compares with its start, on training samples.

    Attributes:
        kept: which of the two is in `encoder/`.
        task: name of the task; empty without labels.
        comparisons: with all labels, then with few; empty without labels.
    """

    kept: str
    task: str = ""
    comparisons: tuple[StartComparison, ...] = ()

    @property
    def worse(self) -> bool:
        """Whether a comparison says that training made the encoder worse."""
        return any(one.high < 0.0 for one in self.comparisons)

    def __str__(self) -> str:
        if not self.comparisons:
            return (
                "encoder: trained; without ten training samples of known classes nothing says "
                "whether it is better than its start"
            )
        measured = ", ".join(map(str, self.comparisons))
        text = f"trained{f', although {self.verdict}' * self.worse}"
        if self.kept == "start":
            text = f"the start is kept, because {self.verdict}; the trained one is in {TRAINED}/"
        return f"encoder: {text}. On training samples of {self.task}: {measured}"

    @property
    def verdict(self) -> str:
        """Say by which comparison training made the encoder worse, and by which one better."""
        worse = " and with ".join(one.words for one in self.comparisons if one.high < 0.0)
        better = "".join(f", but better with {c.words}" for c in self.comparisons if c.low > 0.0)
        return f"training made it worse with {worse}{better}"


def begin(recipe: Recipe) -> None:
    """Load the start of a recipe with `init` into its method, and freeze what does not learn.

    Args:
        recipe: a freshly built one; without `init` nothing happens.

    Raises:
        ValueError: for a start that cannot be used.
    """
    if recipe.init is not None:
        recipe.run = copy.copy(recipe.run)
        recipe.run.notes = (*recipe.run.notes, *recipe.init.load(recipe.method, recipe.data))
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


class Drift:
    """Measures how far an encoder has moved from the start of its run, without labels.

    Args:
        source: samples.
        indices: the training samples that are compared, int64 `[N]`.
    """

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source, self.indices = source, indices
        self._start: Tensor | None = None

    def measure(self, encoder: Encoder, run: Path) -> dict[str, float]:
        """Return what `drift` does, of the run's start and an encoder; nothing if not finite."""
        if self._start is None:
            # Read again, and not kept from the first step, so that a resumed run has it too.
            self._start = self._features(load_like(encoder, run / START))
        now = self._features(encoder)
        if not bool(now.isfinite().all()):
            return {}  # the guard decides what becomes of a run that diverges
        return drift(self._start, now)

    def _features(self, encoder: Encoder) -> Tensor:
        return extract_readable(encoder, self.source, indices=self.indices).x


def drift(start: Tensor, now: Tensor) -> dict[str, float]:
    """Compare the features `[N, D]` of the same samples, row for row.

    - `drift/cosine`: mean cosine of a sample's features before and now; 1 for no change.
    - `drift/cka`: linear centered kernel alignment (Kornblith et al. 2019, arXiv 1905.00414) of
      both sets of features; 1 if they differ by a rotation and a scale alone.
    - `drift/rank`: effective rank of the features (RankMe, arXiv 2210.02885) over that of the
      start. A fall means that training takes directions away that the start had.
    """
    return {
        "drift/cosine": float(cosine_similarity(start, now, dim=1).mean()),
        "drift/cka": cka(start, now),
        "drift/rank": rankme(now) / rankme(start),
    }


def cka(a: Tensor, b: Tensor) -> float:
    """Return the linear centered kernel alignment of features `[N, D]` and `[N, E]`.

    It is 0 where either side has no variance.
    """
    a, b = (x.double() - x.double().mean(dim=0) for x in (a, b))
    norms = (a.T @ a).norm() * (b.T @ b).norm()
    shared = (a.T @ b).square().sum()
    return float(torch.where(norms > 0, shared / norms, 0.0))


def drift_warning(metrics: Mapping[str, float]) -> str:
    """Say that the features have lost directions of the start; empty if they have not."""
    rank = metrics.get("drift/rank", 1.0)
    if not rank < LEAST_RANK:
        return ""
    return (
        f"warning: the effective rank of the features is {rank:.2f} of the start's. Lower "
        "optimizer.lr, or set init.warmup_steps, init.lora or optimizer.scales."
    )


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
    outcome = StartOutcome("trained", *compare_on_training_samples(start, trained, recipe.data))
    if recipe.init.keep == "better" and outcome.worse:
        outcome = replace(outcome, kept="start")
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
    """Read how a run's encoder compared with its start; `None` for a run without `init`.

    Raises:
        ValueError: for a file that was changed, or that another version wrote.
    """
    path = run / _OUTCOME
    if not path.is_file():
        return None
    require_seal(path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    try:
        kept, task, found = entries.pop("kept"), entries.pop("task"), entries.pop("comparisons", [])
        if "samples" in entries:  # a run of before there were few labels: the one with all of them
            found = [{"labels": None, **entries}] if task else []
        return StartOutcome(kept, task, tuple(StartComparison(**one) for one in found))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"`{path}` was written by another version of mezzotint ({error}). Read the run with "
            "that version, or continue from its start again."
        ) from error


def other_of(run: Path) -> tuple[Encoder, bool] | None:
    """Load the encoder that a run with `init` has besides `encoder/`, and whether it is the start.

    It is the start, or the trained one where the start was kept; `None` for other runs.
    """
    outcome = read_outcome(run)
    if outcome is None:
        return None
    start = outcome.kept != "start"
    return load_encoder(run / (START if start else TRAINED)), start


def _swap(folder: Path) -> None:
    """Put the start into `encoder/`, and the trained encoder next to it."""
    waiting = folder / f"{START}.tmp"
    shutil.rmtree(waiting, ignore_errors=True)
    shutil.copytree(folder / START, waiting)
    shutil.rmtree(folder / TRAINED, ignore_errors=True)
    (folder / "encoder").rename(folder / TRAINED)
    waiting.rename(folder / "encoder")
