"""A recipe for data at a path, of the size that trains in some minutes on this machine.

The path says the modality, and the modality its recipe. A budget chooses among the modality's
sizes by timing a few steps of each, and sets epochs and batch by the number of samples. Everything
that was chosen is a plain value of the recipe, so that the run resumes and repeats without timing.
"""

import copy
import json
import math
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.doctor import kind_of, location_of
from mezzotint.data.image.doctor import deep_images, only_native
from mezzotint.data.listing.folder import scan
from mezzotint.data.loader import BatchPlan
from mezzotint.data.open import keys_of, kind_in, shared_settings
from mezzotint.data.source import Source
from mezzotint.evaluation.cost import EvaluationCost
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError, class_of, construct, resolve
from mezzotint.train.preview import cost_of, described, duration, evaluation_words, timed

DEFAULT_MINUTES = 10.0
"""Budget of a path without a recipe, on a machine without a GPU."""

EVALUATION = 0.25
"""Largest fraction of a budget that is for evaluation and report."""

_STEPS, _BATCH, _SECONDS = 4, 64, 2.0  # timed steps of one size, their batch, and their limit
_FEW = 8  # samples of the first steps
_CHOOSING_S = 5.0  # after these seconds no larger size is tried
_START_S = 60.0  # a process that is older is no command that has just started
_LEAST_SAMPLES = 1000  # that an evaluation is not cut below
_MARGIN = 0.9  # of the time for training: online kNN, checkpoints and logs take the rest
_EPOCHS, _MOST_EPOCHS = 60, 400  # fewer make a size too large; more gain little
_FEW_FILES = 100  # sounds or videos; the clips of fewer and long ones are samples
_SMALLEST = 32  # pixels that the encoders of `sizes` need
_STEPS_PER_EPOCH, _LEAST_BATCH = 8, 16


@dataclass(frozen=True)
class Fitted:
    """A recipe that fits a budget.

    Attributes:
        plan: the recipe, with everything that was chosen as plain values.
        recipe: name of the recipe.
        data: what was recognized at the path; empty without one.
        chosen: the budget and what was chosen; empty without one.
        known: the six facts of a dry run; empty where nothing was timed.
    """

    plan: Plan
    recipe: str
    data: str
    chosen: str = ""
    known: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Say what was chosen, a line each."""
        title = "; ".join(filter(None, (self.data, f"recipe {self.recipe}")))
        return [title, *([self.chosen] if self.chosen else [])]


@dataclass(frozen=True)
class Candidate:
    """A recipe that a budget may choose.

    Attributes:
        name: of the shipped recipe.
        raw: the recipe on the data, as written.
        size: overrides of its size.
        fixed: whether only its epochs may change.
    """

    name: str
    raw: Mapping[str, Any]
    size: Sequence[str]
    fixed: bool = False


def fit_path(path: str, overrides: Sequence[str], minutes: float | None) -> Fitted:
    """Choose the recipe for data at a path, and fit it to a budget.

    Args:
        path: a folder or a file.
        overrides: `section.key=value`; they win over what is chosen.
        minutes: for training, evaluation and report; `None` is 10 without a GPU, and with one the
            recipe's own size and epochs.

    Raises:
        ValueError: when the modality is unclear, there is nothing to read, or an override cannot be
            used.
    """
    if minutes is None and not torch.cuda.is_available():
        minutes = DEFAULT_MINUTES
    kind = kind_in(overrides) or kind_of(path)
    if not keys_of(kind):
        resolve({"kind": kind}, "Source", "data")  # refuses it, with the kinds that there are
    modality = modality_of(class_of(kind, "Source").modality)
    title, reader = f"{path}: {modality.plural}", _reader_for(path, kind, overrides)
    if reader:
        overrides = [*reader, *overrides]
        title += ", read as they are stored (data.reader=null reads 8-bit RGB)"
    large = [(modality.large_recipe, ())] if modality.large_recipe else []
    clips = _has_few_files(path, kind, overrides)
    candidates = [
        _candidate(name, size, path, kind, overrides, clips=clips)
        for name, size in (*large, *((modality.recipe, size) for size in modality.sizes))
    ]
    return _fit(candidates, list(overrides), minutes, title)


def fit_recipe(name: str, overrides: Sequence[str], minutes: float) -> Fitted:
    """Choose the epochs of a recipe that fit a budget; see `fit_path`.

    Raises:
        RecipeError: for a recipe with phases.
    """
    raw = read_raw(name)
    if "phases" in raw:
        raise RecipeError(
            f"`{name}` has phases, and --minutes fits a recipe without them. Set run.epochs of "
            "each phase."
        )
    only = [Candidate(name, raw, (), fixed=True)]
    return _fit(only, list(overrides), minutes, "")


def _candidate(
    name: str,
    size: Sequence[str],
    path: str,
    kind: str,
    overrides: Sequence[str],
    *,
    clips: bool,
) -> Candidate:
    """Return a recipe for the data at a path; with `clips`, those of long files are samples."""
    raw = read_raw(name)
    of_recipe, raw["data"] = raw["data"], location_of(path, kind)
    if of_recipe["kind"] == kind:
        raw["data"] |= shared_settings(of_recipe, kind)
    elif "size" in of_recipe:
        # Settings of another kind of source are not for this one, but the encoder's size is.
        size = [f"data.size={of_recipe['size']}", *size]
    if clips:
        raw["data"].update(_clips_of_long_files(raw, [*size, *overrides]))
    readers = [text for text in overrides if text.startswith("data.reader")]
    if readers and readers[-1] != "data.reader=null":
        size = ["views.policy={kind: native}", *size]  # for any channels and bits
    own = _own_size(raw, overrides)
    return Candidate(name, raw, [_clamped(text, own) for text in size if _applies(text, kind)])


def _reader_for(path: str, kind: str, overrides: Sequence[str]) -> list[str]:
    """Return the key that reads images of more bits or channels, unless a reader is named."""
    if kind != "image_folder" or any(text.startswith("data.reader") for text in overrides):
        return []
    return ["data.reader=native"] if only_native(path) or deep_images(path) else []


def _has_few_files(path: str, kind: str, overrides: Sequence[str]) -> bool:
    """Return whether a folder has so few files that their clips may be samples."""
    named = any(text.startswith("data.sampling=") for text in overrides)
    if named or "sampling" not in keys_of(kind):
        return False
    extensions = class_of(kind, "Source").opens_one
    return len(scan(path, extensions, "files").images) < _FEW_FILES


def _clips_of_long_files(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the key that makes each clip a sample, if there are two of a file in the mean."""
    data = resolve(_with(raw, overrides)["data"], "Source", "data")
    # What is measured on the values of files is not needed here.
    data |= {"mean": 0.0, "std": 1.0} if "mean" in data else {}
    counts = [
        len(construct({**data, "sampling": sampling}, "Source", {}))
        for sampling in ("middle", "clips")
    ]
    return {"sampling": "clips"} if counts[1] >= 2 * counts[0] else {}


def _own_size(raw: Mapping[str, Any], overrides: Sequence[str]) -> float:
    """Return the height of samples that have a size already, infinite for all others."""
    data = resolve(_with(raw, overrides)["data"], "Source", "data")
    if data.get("size", 0) is not None:
        return math.inf
    source: Source = construct(data, "Source", {})
    return source.input.shape[-1]


def _applies(override: str, kind: str) -> bool:
    """Return whether a source has the key of an override of `data`."""
    key = override.partition("=")[0]
    return not key.startswith("data.") or key.removeprefix("data.") in keys_of(kind)


def _clamped(override: str, own_size: float) -> str:
    """Return an override whose size does not enlarge samples above `_SMALLEST`."""
    key, _, value = override.partition("=")
    if key != "data.size" or float(value) <= own_size:
        return override
    return f"{key}={max(own_size, _SMALLEST):.0f}"


def _fit(
    candidates: Sequence[Candidate],
    overrides: Sequence[str],
    minutes: float | None,
    title: str,
) -> Fitted:
    """Take the largest candidate that trains for enough epochs, and set epochs and batch."""
    opened: dict[str, Source] = {}
    began, start_s = time.perf_counter(), seconds_since_start()
    if start_s > _START_S:
        start_s = 0.0

    def built(one: Candidate, chosen: Sequence[str]) -> Recipe:
        config = Plan.of(_with(one.raw, [*one.size, *chosen, *overrides])).phases[0].config
        data, key = config["data"], json.dumps(config["data"], sort_keys=True)
        if key not in opened:
            opened[key] = construct(data, "Source", {})
        return Recipe.build(config, opened[key])

    if minutes is None:
        one = candidates[0]
        return Fitted(Plan.of(_with(one.raw, [*one.size, *overrides])), one.name, title)
    own = {text.partition("=")[0] for text in overrides}
    whole_s = minutes * 60
    taken, speed, peak = candidates[-1], 0.0, 0
    for number, larger in enumerate(reversed(candidates)):
        recipe = built(larger, ())
        found = measure(recipe)
        left = whole_s * (1.0 - EVALUATION) - (start_s + time.perf_counter() - began)
        wanted = recipe.run.epochs if "run.epochs" in own else _EPOCHS
        enough = _epochs(left, found, recipe) >= wanted
        if number and not enough:
            break
        taken, speed = larger, found
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if not enough or time.perf_counter() - began > _CHOOSING_S:
            break
    recipe = built(taken, ())
    cost = cost_of(recipe)
    values, evaluation_s = _evaluation(cost, recipe, whole_s * EVALUATION, fixed=taken.fixed)
    left = whole_s - evaluation_s - (start_s + time.perf_counter() - began)
    values |= _values(recipe, _epochs(left, speed, recipe), fixed=taken.fixed)
    chosen = [f"{key}={value}" for key, value in values.items() if key not in own]
    recipe = built(taken, chosen)
    plan = Plan.of(_with(taken.raw, [*taken.size, *chosen, *overrides]))
    shown = f"fitted to {minutes:g} min: {' '.join([*taken.size, *chosen])}"
    if _epochs(left, speed, recipe) < 1:
        shown += " (one epoch takes longer)"
    return Fitted(plan, taken.name, title, shown, _known(recipe, taken.name, speed, peak, cost))


def seconds_since_start() -> float:
    """Return the seconds since the start of this process, or its processor time if unknown."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except OSError:
        return time.process_time()
    return up - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _epochs(seconds: float, speed: float, recipe: Recipe) -> int:
    """Return the epochs that fit into some seconds of training."""
    return int(seconds * _MARGIN / (speed * BatchPlan.samples_of(recipe.data)))


def _evaluation(
    cost: EvaluationCost, recipe: Recipe, limit_s: float, *, fixed: bool
) -> tuple[dict[str, Any], float]:
    """Choose the size of the evaluation, and return what changes, and its seconds.

    First there are fewer untrained encoders, then fewer samples.
    """
    settings = recipe.evaluate
    low = sum(not one.is_float for one in settings.bits) * len(settings.ptq)

    def seconds(untrained: int, samples: int | None = None) -> float:
        return cost.seconds(
            samples=samples, untrained=untrained, baselines=settings.baselines, bits=low
        )

    found = seconds(settings.seeds)
    if fixed or found <= limit_s:
        return {}, min(found, limit_s)
    samples = cost.samples
    while samples > _LEAST_SAMPLES and seconds(1, samples) > limit_s:
        samples //= 2
    values: dict[str, Any] = {"evaluate.seeds": 1}
    if samples < cost.samples:
        values["budget.samples"] = samples // 2
    return values, min(seconds(1, samples), limit_s)


def _with(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    return apply_overrides(copy.deepcopy(dict(raw)), overrides)


def _values(recipe: Recipe, epochs: int, *, fixed: bool) -> dict[str, Any]:
    """Choose epochs, and of a recipe whose size may change the batch and its learning rate too."""
    samples = BatchPlan.samples_of(recipe.data)
    epochs = min(max(epochs, 1), _MOST_EPOCHS)
    values: dict[str, Any] = {"run.epochs": epochs}
    values["run.log.knn_epochs"] = max(1, epochs // 5)
    warmup = recipe.schedule.config.get("warmup_epochs", 0)
    if warmup > epochs // 10:
        values["schedule.warmup_epochs"] = epochs // 10
    batch = recipe.run.batch_size
    few = 2 ** int(math.log2(max(samples / _STEPS_PER_EPOCH, _LEAST_BATCH)))
    if not fixed and few < batch:
        values["run.batch_size"] = few
        optimizer = recipe.optimizer.config
        # A rate belongs to a batch: linear for SGD (Goyal et al., 2017), a root for Adam.
        ratio = few / batch if optimizer["kind"] == "sgd" else math.sqrt(few / batch)
        values["optimizer.lr"] = float(f"{optimizer['lr'] * ratio:.2g}")
    return values


def measure(recipe: Recipe) -> float:
    """Return the seconds that training on a sample takes, from a few steps of 64 samples.

    Where these would take long, two steps of 8 samples must do. The weights change.
    """
    first = timed(recipe, _FEW, 2)
    size = min(_BATCH, recipe.run.batch_size)
    if first["seconds"] / first["size"] * size * 2 > _SECONDS:
        return float(first["seconds"] / first["size"])
    found = timed(recipe, size, _STEPS, _SECONDS)
    return float(found["seconds"] / found["size"])


def _known(
    recipe: Recipe, name: str, speed: float, peak: int, cost: EvaluationCost
) -> dict[str, str]:
    """Return the six facts of a dry run."""
    what = described(recipe)
    seconds = speed * BatchPlan.samples_of(recipe.data) * recipe.run.epochs
    return {
        "data": what["data"],
        "recipe": f"{name}; {what['encoder']}",
        "run": what["run"],
        "training": f"{duration(seconds)} at {speed * 1000:.2f} ms a sample, measured",
        "evaluation": evaluation_words(recipe, cost, seconds),
        "memory": f"{peak / 1024:,.0f} MiB at the peak of steps of at most {_BATCH} samples",
    }
