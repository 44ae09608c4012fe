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
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mezzotint.data.doctor import kind_of, location_of
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.open import keys_of, kind_in, shared_settings
from mezzotint.data.source import Source
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.reading import apply_overrides, read_raw
from mezzotint.recipe.recipe import Plan, Recipe
from mezzotint.recipe.schema import RecipeError, class_of, construct, resolve
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

DEFAULT_MINUTES = 10.0
"""Budget of a path without a recipe, on a machine without a GPU."""

TRAINING = 0.75
"""Fraction of a budget that is for training; the rest is for evaluation and report."""

_STEPS, _BATCH, _SECONDS = 4, 64, 4.0  # timed steps of one size, their batch, and their limit
_MARGIN = 0.9  # of the time for training: online kNN, checkpoints and logs take the rest
_EPOCHS, _MOST_EPOCHS = 60, 400  # fewer make a size too large; more gain little
_SMALLEST = 32  # pixels that the encoders of `sizes` need
_STEPS_PER_EPOCH, _LEAST_BATCH = 8, 16


@dataclass(frozen=True)
class Fitted:
    """A recipe that fits a budget.

    Attributes:
        plan: the recipe, with everything that was chosen as plain values.
        lines: facts for the terminal; the first two say what was chosen.
        measured: whether steps were timed, so that `lines` have time and memory.
    """

    plan: Plan
    lines: Sequence[str]
    measured: bool


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
    began = time.perf_counter()
    if minutes is None and not torch.cuda.is_available():
        minutes = DEFAULT_MINUTES
    kind = kind_in(overrides) or kind_of(path)
    if not keys_of(kind):
        resolve({"kind": kind}, "Source", "data")  # refuses it, with the kinds that there are
    modality = modality_of(class_of(kind, "Source").modality)
    large = [(modality.large_recipe, ())] if modality.large_recipe else []
    candidates = [
        _candidate(name, size, path, kind, overrides)
        for name, size in (*large, *((modality.recipe, size) for size in modality.sizes))
    ]
    return _fit(candidates, list(overrides), minutes, f"{path}: {modality.plural}", began)


def fit_recipe(name: str, overrides: Sequence[str], minutes: float) -> Fitted:
    """Choose the epochs of a recipe that fit a budget; see `fit_path`.

    Raises:
        RecipeError: for a recipe with phases.
    """
    began = time.perf_counter()
    raw = read_raw(name)
    if "phases" in raw:
        raise RecipeError(
            f"`{name}` has phases, and --minutes fits a recipe without them. Set run.epochs of "
            "each phase."
        )
    only = [Candidate(name, raw, (), fixed=True)]
    return _fit(only, list(overrides), minutes, "", began)


def _candidate(
    name: str, size: Sequence[str], path: str, kind: str, overrides: Sequence[str]
) -> Candidate:
    """Return a recipe for the data at a path."""
    raw = read_raw(name)
    of_recipe, raw["data"] = raw["data"], location_of(path, kind)
    if of_recipe["kind"] == kind:
        raw["data"] |= shared_settings(of_recipe, kind)
    elif "size" in of_recipe:
        # Settings of another kind of source are not for this one, but the encoder's size is.
        size = [f"data.size={of_recipe['size']}", *size]
    own = _own_size(raw, overrides)
    return Candidate(name, raw, [_clamped(text, own) for text in size if _applies(text, kind)])


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
    began: float,
) -> Fitted:
    """Take the largest candidate that trains for enough epochs, and set epochs and batch."""
    opened: dict[str, Source] = {}

    def built(raw: Mapping[str, Any], chosen: Sequence[str]) -> Recipe:
        config = Plan.of(_with(raw, chosen)).phases[0].config
        data, key = config["data"], json.dumps(config["data"], sort_keys=True)
        if key not in opened:
            opened[key] = construct(data, "Source", {})
        return Recipe.build(config, opened[key])

    def titled(one: Candidate) -> str:
        return "; ".join(filter(None, (title, f"recipe {one.name}")))

    if minutes is None:
        one = candidates[0]
        chosen = [*one.size, *overrides]
        recipe = built(one.raw, chosen)
        plan = Plan.of(_with(one.raw, chosen))
        return Fitted(plan, [titled(one), *_facts(recipe)], False)
    own = {text.partition("=")[0] for text in overrides}
    taken, speed, epochs, peak = candidates[-1], 0.0, 0, 0
    for number, larger in enumerate(reversed(candidates)):
        recipe = built(larger.raw, [*larger.size, *overrides])
        found = measure(recipe)
        left = minutes * 60 * TRAINING - (time.perf_counter() - began)
        possible = int(left * _MARGIN / (found * BatchPlan.samples_of(recipe.data)))
        wanted = recipe.run.epochs if "run.epochs" in own else _EPOCHS
        if number and possible < wanted:
            break
        taken, speed, epochs = larger, found, possible
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if possible < wanted:
            break
    recipe = built(taken.raw, [*taken.size, *overrides])
    values = _values(recipe, epochs, fixed=taken.fixed)
    chosen = [*taken.size, *(f"{key}={value}" for key, value in values.items() if key not in own)]
    recipe = built(taken.raw, [*chosen, *overrides])
    plan = Plan.of(_with(taken.raw, [*chosen, *overrides]))
    shown = f"fitted to {minutes:g} min: {' '.join(chosen)}"
    return Fitted(plan, [titled(taken), shown, *_facts(recipe, speed, peak)], True)


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
    """Return the seconds that training on a sample takes, from a few steps.

    The steps change the weights, and have at most 64 samples each.

    Reading takes other cores than the step on a GPU, and the same ones on a CPU.
    """
    recipe.run = copy.copy(recipe.run)
    recipe.run.batch_size = min(recipe.run.batch_size, _BATCH)
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    loaded = batches(
        recipe.data, recipe.views, trainer.plan, start=0, stop=min(_STEPS, trainer.total)
    )
    reading, steps, began = [], [], time.perf_counter()
    before = began
    for step, batch in enumerate(loaded):
        reading.append(time.perf_counter() - before)
        trainer.step(step, batch, Meter())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        steps.append(time.perf_counter() - before - reading[-1])
        before = time.perf_counter()
        if before - began > _SECONDS:
            break
    read, step_time = (statistics.median(times[1:] or times) for times in (reading, steps))
    processes = recipe.run.loader.processes(recipe.data)
    if processes:
        read /= min(processes, len(os.sched_getaffinity(0)))
    whole = max(read, step_time) if device.type == "cuda" and processes else read + step_time
    return whole / trainer.run.batch_size


def _facts(recipe: Recipe, speed: float | None = None, peak: int = 0) -> list[str]:
    """Facts of a dry run: data, encoder, run, and what was measured."""
    data, run = recipe.data, recipe.run
    count = sum(p.numel() for p in recipe.encoder.parameters())
    shape = " x ".join(map(str, data.input.shape))
    samples = BatchPlan.samples_of(data)
    lines = [
        f"data     {data.outcome()}",
        f"encoder  {recipe.encoder.config['kind']}, {count / 1e6:.2f} M parameters, input {shape}",
        f"run      {run.epochs} epochs of {samples:,} samples, batch {run.batch_size}",
    ]
    if speed is not None:
        seconds = speed * samples * run.epochs
        lines += [
            f"time     {seconds / 60:.1f} min of training at {speed * 1000:.2f} ms a "
            "sample, measured; evaluation and report come after it",
            f"memory   {peak / 1024:,.0f} MiB at the peak of steps of at most {_BATCH} samples",
        ]
    return lines
