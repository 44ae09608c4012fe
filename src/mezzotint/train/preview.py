"""Estimate what a run will cost, from a few timed steps: `mezzotint pretrain --dry-run`.

This is the other process of `dry_run`: it writes down what it knows after each part, because it may
be stopped at any time. It starts with few samples a step, takes at least four times as many as long
as they are predicted to fit, up to the whole batch, and extrapolates from the last.
"""

import contextlib
import copy
import json
import math
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.loader import BatchPlan, batches
from mezzotint.evaluation.cost import EvaluationCost, evaluation_cost
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.measurement import Measurement
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import construct, resolve
from mezzotint.train.callbacks import ForwardPassCounter
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.types import Batch

_STEPS = 5
_MOST_SECONDS = 4.0
_STATE = 3
"""Tensors of the size of the weights that a step adds: the gradient and AdamW's two averages."""
_FITS = 0.6
"""Fraction of the free memory below which a whole batch is tried."""


def described(recipe: Recipe) -> dict[str, str]:
    """Describe the encoder and the length of a run, for its facts."""
    count = sum(p.numel() for p in recipe.encoder.parameters())
    run, samples = recipe.run, BatchPlan.samples_of(recipe.data)
    batch = min(run.batch_size, samples)
    steps = samples // batch
    shape = " x ".join(map(str, recipe.encoder.input.shape))
    return {
        "data": recipe.data.outcome(),
        "encoder": f"{recipe.encoder.config['kind']}, {count / 1e6:.2f} M parameters, "
        f"{recipe.encoder.dim} features, input {shape}",
        "run": f"{run.epochs} epochs of {samples:,} samples: {steps * run.epochs:,} steps of "
        f"{batch} ({steps} per epoch)",
    }


def cost_of(recipe: Recipe) -> EvaluationCost:
    """Predict the evaluation of a recipe from a few samples."""
    reading = Reading(workers=recipe.run.loader.processes(recipe.data))
    most = None if recipe.budget is None else recipe.budget.samples
    measurement = Measurement(recipe.encoder, recipe.data, reading, most=most)
    return evaluation_cost(measurement, probes=recipe.evaluate.probes, seeds=recipe.evaluate.seeds)


def evaluation_words(recipe: Recipe, cost: EvaluationCost, training_s: float) -> str:
    """Write what the evaluation after a training of some seconds takes, page included."""
    settings = recipe.evaluate
    low = sum(not one.is_float for one in settings.bits) * len(settings.ptq)
    seconds = cost.seconds(untrained=settings.seeds, baselines=settings.baselines, bits=low)
    budget = recipe.budget or construct(resolve({}, "Budget", "budget"), "Budget", {})
    limit = budget.seconds(training_s)
    words = f"{duration(seconds)} with the page, for {cost.samples:,} samples"
    if low:
        words += f" at {low + 1} bit-widths"
    if settings.baselines:
        plural = "encoder" if settings.seeds == 1 else "encoders"
        words += f" by this and {settings.seeds} untrained {plural}, and the input itself"
    if seconds > limit:
        words += f"; cut to {duration(limit)}, or {100 * budget.evaluation:.0f} % of the run"
    return words


def memory_words(found: dict[str, Any], batch_size: int, device: str) -> str:
    """Write the peak memory of a step, and what to do where it does not fit."""
    peak, free = found["peak"] / 2**20, found["free"] / 2**20
    words = f"{peak:,.0f} MiB at the peak on {device}, {_basis(found)}"
    if peak <= free:
        return words
    fixed, each = found["fixed"] / 2**20, found["each"] / 2**20
    most = int(max(0.0, 0.9 * free - fixed) / each) if each > 0 else 0
    advice = (
        f"run.batch_size={most} should fit" if most > 1 else "choose a smaller encoder or input"
    )
    return f"{words}: it does not fit into the {free:,.0f} MiB that are free; {advice}"


def _basis(found: dict[str, Any]) -> str:
    sizes = found["sizes"]
    if found["whole"]:
        return f"median of {_STEPS} steps" if found["steps"] > 1 else "one step"
    return f"extrapolated from steps of {sizes[-1]} samples"


def measure_stdin() -> None:
    """Read a recipe and its name from stdin, and print a JSON line after each part."""
    config, name = json.loads(sys.stdin.read())
    try:
        recipe = Recipe.build(config)
        device = recipe.run.compute.torch_device()
        trainer = Trainer(recipe, device)
    except (ValueError, OSError) as error:
        print(json.dumps({"refused": str(error), "is_os": isinstance(error, OSError)}))
        return
    what, groups = described(recipe), _groups(trainer.optimizer)
    whole, total = trainer.plan.batch_size, trainer.total
    del trainer
    known = {"data": what["data"], "recipe": f"{name}; {what['encoder']}", "run": what["run"]}
    points: list[dict[str, Any]] = []
    cost: EvaluationCost | None = None

    def emit(found: dict[str, Any] | None) -> None:
        if found is not None:
            once = found["once"] * total / recipe.run.epochs
            seconds = found["seconds"] * total + once
            known["training"] = (
                f"{duration(seconds)} ({found['seconds'] * 1000:.0f} ms per step, {_basis(found)}; "
                f"{whole / found['seconds']:,.0f} samples/s)"
            )
            if once >= 1.0:
                known["training"] += f", {duration(once)} of it once, for what the cache keeps"
            known["memory"] = memory_words(found, whole, device.type)
            known["views"] = (
                f"{recipe.views.num_views} per sample: {found['trained']:g} forward passes with "
                f"gradient and {found['frozen']:g} without; compare methods at equal forward passes"
            )
            if cost is not None:
                known["evaluation"] = evaluation_words(recipe, cost, seconds)
        print(json.dumps({"known": known, "groups": groups}), flush=True)

    emit(None)
    for size in growing_sizes(whole, recipe.run.micro_batches):
        steps = 2 if size < whole else _STEPS
        if points and not _fits(extrapolated(points, size), steps):
            break
        points.append(timed(recipe, size, steps))
        emit(extrapolated(points, whole))
        if cost is None and len(points) > 1:
            cost = cost_of(recipe)
            emit(extrapolated(points, whole))
    if cost is None:
        cost = cost_of(recipe)
        emit(extrapolated(points, whole))


def _fits(found: dict[str, Any], steps: int) -> bool:
    """Say whether a step has the memory it needs, and some of them the time of a dry run."""
    free, seconds = found["free"], found["seconds"]
    return bool(found["peak"] <= _FITS * free and seconds * steps <= _MOST_SECONDS)


def growing_sizes(batch_size: int, unit: int = 1) -> list[int]:
    """Choose divisors of a batch, each at least four times the one before; the last is the batch.

    All are multiples of `unit`, the parts that a batch is accumulated in.
    """
    divisors = [n for n in range(2, batch_size + 1) if batch_size % n == 0 and n % unit == 0]
    sizes: list[int] = []
    while not sizes or sizes[-1] < batch_size:
        least = 4 * sizes[-1] if sizes else 4
        sizes.append(next((n for n in divisors if n >= least), batch_size))
    return sizes


def extrapolated(points: list[dict[str, Any]], batch_size: int) -> dict[str, Any]:
    """Return memory and time of a step of `batch_size` samples, linear in the samples.

    Memory is the line through the last two sizes; of one size alone, it is what the process has
    before its first step, with gradients and the optimizer's state, and the rest for the samples.
    Time is proportional to the last, so that it errs on the long side: a part of it is paid once a
    step.
    """
    last = points[-1]
    if len(points) > 1:
        more = last["size"] - points[-2]["size"]
        each = max(0.0, last["peak"] - points[-2]["peak"]) / more
    else:
        each = max(0.0, last["peak"] - last["before"]) / last["size"]
    fixed = last["peak"] - each * last["size"]
    return {
        **last,
        "sizes": [point["size"] for point in points],
        "whole": last["size"] == batch_size,
        "fixed": fixed,
        "each": each,
        "peak": fixed + each * batch_size,
        "seconds": last["seconds"] * batch_size / last["size"],
        "once": last["once"] * batch_size / last["size"],
    }


def timed(recipe: Recipe, size: int, steps: int, limit_s: float = math.inf) -> dict[str, Any]:
    """Run steps of one size of batch, and measure the peak memory and the median time.

    The steps change the weights. Reading takes other cores than the step on a GPU, and the same
    ones on a CPU.

    Args:
        recipe: the run's.
        size: samples of a step.
        steps: number of steps.
        limit_s: no further step begins after these seconds.
    """
    original = recipe.run
    recipe.run = copy.copy(original)
    recipe.run.batch_size = min(size, original.batch_size)
    device = recipe.run.compute.torch_device()
    trainer = Trainer(recipe, device)
    recipe.run = original
    _reset_peak(device)
    free, resident = _free(device), _peak(device)
    reading, times, first = list[float](), list[float](), list[float]()
    repeats = 1 if recipe.method.cache is None else 2  # a batch comes again in later epochs
    counter = ForwardPassCounter(recipe.method)
    counter.start()
    loaded = batches(
        recipe.data, recipe.views, trainer.plan, start=0, stop=min(steps, trainer.total), workers=0
    )
    began = before = time.perf_counter()
    for step, batch in enumerate(loaded):
        reading.append(time.perf_counter() - before)
        spent = [_seconds(trainer, step, batch) for _ in range(repeats)]
        first.append(spent[0])
        times.append(spent[-1])
        before = time.perf_counter()
        if before - began > limit_s:
            break
    learning = sum(p.nbytes for p in recipe.method.parameters() if p.requires_grad)
    count = repeats * len(times) * trainer.plan.batch_size
    trained, frozen = (passes / count for passes in counter.stop())
    read, step_s, new_s = (statistics.median(p[1:] or p) for p in (reading, times, first))
    processes = original.loader.processes(recipe.data)
    if processes:
        read /= min(processes, len(os.sched_getaffinity(0)))
    parallel = device.type == "cuda" and processes
    return {
        "size": trainer.plan.batch_size, "steps": len(times), "trained": trained, "frozen": frozen,
        "seconds": max(read, step_s) if parallel else read + step_s,
        "once": max(0.0, new_s - step_s),
        "before": resident + _STATE * learning, "peak": _peak(device), "free": free,
    }  # fmt: skip


def _seconds(trainer: Trainer, step: int, batch: Batch) -> float:
    """Return the time of a step."""
    began = time.perf_counter()
    wait = not trainer.run.checks_late(trainer.device)  # with the memory for copies
    trainer.step(step, batch, Meter(), wait=wait)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - began


def _reset_peak(device: torch.device) -> None:
    """Reset the peak memory of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak(device: torch.device) -> float:
    """Return the peak memory in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        return _kib("/proc/self/status", "VmHWM") * 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _free(device: torch.device) -> float:
    """Return the bytes that the process could have, with those that it has."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    with contextlib.suppress(OSError):
        own = _kib("/proc/self/status", "VmRSS")
        return (_kib("/proc/meminfo", "MemAvailable") + own) * 1024
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _kib(file: str, name: str) -> float:
    for line in Path(file).read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise OSError(f"{file} has no {name}")


def _groups(optimizer: torch.optim.Optimizer) -> list[str]:
    """A line for each parameter group, with its first parameter's name."""
    lines = [f"groups      {len(optimizer.param_groups)} of the optimizer"]
    for group in optimizer.param_groups:
        names, count = group["param_names"], sum(p.numel() for p in group["params"])
        rule = " orthogonalized," if group.get("orthogonal") else ""
        lines.append(
            f"  lr {group['base_lr']:.3g}, weight decay {group['weight_decay']:.3g},{rule} "
            f"{len(names)} tensors, {count / 1e6:.2f} M: {names[0]}{', …' * (len(names) > 1)}"
        )
    return lines


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
