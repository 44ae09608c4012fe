"""Cells of a benchmark: one trained encoder each, kept as a line of JSON and not made again.

A cell is trained for a processor time: a few steps of its recipe are timed, which is not counted,
and then as many whole epochs are trained as fit. Time is that of this process
(`time.process_time`), on one thread, with views and data loading in it. A cell keeps which test
samples each probe classifies correctly, so that two cells can be compared sample by sample.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.loader import batches
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.results import Interval, paired, student
from mezzotint.quant.bitwidth import Bits
from mezzotint.recipe.recipe import Recipe
from mezzotint.train import continued
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer

_WARM, _TIMED = 2, 6
Cell = dict[str, Any]


class Cells:
    """The finished cells of a benchmark.

    Args:
        path: file of JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.found: dict[str, Cell] = {cell["name"]: cell for cell in map(json.loads, lines)}

    def ensure(self, name: str, make: Callable[[], Cell]) -> Cell:
        """Return a cell, and make it unless it is there."""
        if name not in self.found:
            began = time.process_time()
            cell = {"name": name, **make(), "cpu_seconds": time.process_time() - began}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(cell) + "\n")
            self.found[name] = cell
            print(f"{name}: {cell['cpu_seconds']:.0f} s, {summary(cell)}", flush=True)
        return self.found[name]


def summary(cell: Cell) -> str:
    """Write the accuracies of a cell."""
    values = {key: fraction(cell, key) for key in cell.get("correct", {})}
    return ", ".join(f"{key} {value:.3f}" for key, value in values.items())


def epochs_for(build: Callable[[int], Recipe], seconds: float) -> tuple[int, float]:
    """Time a few steps, and return the epochs that fit, and the seconds of a step.

    Args:
        build: makes the recipe with a number of epochs.
        seconds: processor time.
    """
    recipe = build(10)
    continued.begin(recipe)
    trainer = Trainer(recipe, torch.device("cpu"))
    _steps(recipe, trainer, _WARM)
    first = _timed(recipe, trainer, _WARM, _TIMED)
    each = _timed(recipe, trainer, _WARM, _TIMED)  # the same samples, which a cache knows now
    steps = trainer.plan.steps_per_epoch
    left = seconds - max(0.0, first - each) * steps
    return max(1, math.floor(left / (each * steps))), each


def _timed(recipe: Recipe, trainer: Trainer, start: int, stop: int) -> float:
    """Return the processor time of a step."""
    stream = list(batches(recipe.data, recipe.views, trainer.plan, start=start, stop=stop))
    meter, began = Meter(), time.process_time()
    for step, batch in enumerate(stream, start):
        trainer.step(step, batch, meter)
    return (time.process_time() - began) / len(stream)


def _steps(recipe: Recipe, trainer: Trainer, stop: int) -> None:
    meter = Meter()
    stream = batches(recipe.data, recipe.views, trainer.plan, start=0, stop=stop)
    for step, batch in enumerate(stream):
        trainer.step(step, batch, meter)


def scored(
    encoder: Encoder,
    source: Source,
    tasks: str | Sequence[str],
    bits: Sequence[str] = (),
    probes: Sequence[Probe] = (KNN(),),
) -> dict[str, str]:
    """Measure a task in fp32 and at low bits, by kNN or other probes; or one task for each probe.

    Returns:
        For each `probe bits` the test samples, 1 for a correct one and 0 for another.
    """
    wanted = [f"{task}/top1" for task in ([tasks] if isinstance(tasks, str) else tasks)]
    found = evaluate_bits(
        Measurement(encoder, source),
        bits=[Bits.parse(text) for text in bits],
        probes=probes,
        seeds=1,
    )
    return {
        f"{row.probe} {row.bits}": "".join(map(str, row.value.correct.int().tolist()))  # type: ignore[attr-defined]
        for row in found.rows
        if row.metric in wanted and row.probe in {probe.name for probe in probes}
    }


def fraction(cell: Cell, key: str) -> float:
    """Return the fraction of correct samples of a probe at some bits."""
    text: str = cell["correct"][key]
    return text.count("1") / len(text)


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of seeds with Student's interval."""
    mean, half = math.fsum(values) / len(values), student(values)
    return Interval(mean, mean - half, mean + half)


def difference(first: Iterable[Cell], second: Iterable[Cell], key: str) -> Interval:
    """Return first − second, paired by seed and sample, with its 95 % interval.

    The interval over test samples (`results.paired`, of the means over seeds) and Student's over
    seeds are added as independent parts, as in a report.
    """
    pairs = [(a["correct"][key], b["correct"][key]) for a, b in zip(first, second, strict=True)]
    count = len(pairs[0][0])
    gained, lost = (
        [sum(x == own and y != own for x, y in zip(a, b, strict=True)) / count for a, b in pairs]
        for own in ("1", "0")
    )
    over = interval([g - one for g, one in zip(gained, lost, strict=True)])
    low, high = paired(sum(gained) / len(pairs), sum(lost) / len(pairs), count)
    half = over.high - over.mean
    return Interval(
        over.mean,
        over.mean - math.hypot(over.mean - low, half),
        over.mean + math.hypot(high - over.mean, half),
    )


def signed(one: Interval) -> str:
    """Write a difference, in points of per cent, bold where the interval excludes 0."""
    text = f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"**{text}**" if one.low > 0.0 or one.high < 0.0 else text
