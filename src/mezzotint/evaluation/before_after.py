"""What training changed of the encoder that a run started from: before → after, sample by sample.

Both encoders get the same probes on the same tasks, samples and seeds. Of each task the best probe
of one is compared with the best of the other, as in the headline of a report. On test samples the
interval is that of paired proportions (`results.change`).

Which of the two a run hands over is decided on training samples alone, in two ways, as a kNN and a
linear probe are fitted to:

- all labels. The validation part is scored: the one that the data defines, or a fifth. Where a
  fifth has fewer than 500 samples, each fifth is held out once, so that all training samples count.
- ten labels of each class, drawn twenty times. The validation part of the data is scored, or all
  samples that a draw leaves. With all labels a spoiled encoder may still be near its start; with
  few it is not. Where ten of each class are more than a quarter of the labels, this is left out.
"""

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mezzotint.data.listing.sampling import some_of_each
from mezzotint.data.source import Source, Task, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.metrics import Accuracy
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import MAIN_METRICS, change, signed, student
from mezzotint.evaluation.summary import MEASURES, ResultKey, grouped
from mezzotint.files import require_seal, write_json
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features

_FILE = "before_after.json"
_MOST = 10_000
_FOLDS = 5
_ENOUGH = 500
"""Samples of a fifth from which one of them is held out."""

_LABELS, _MOST_LABELS = 10, 1_000
"""Few labels: of each class, and in all, which bounds the time where there are many classes."""

_DRAWS = 20
_Z = 1.959964


@dataclass(frozen=True)
class TaskChange:
    """The change of one metric of a task.

    Attributes:
        metric: task and metric.
        probes: the best probe of the start and of the trained encoder.
        before: value of the start.
        after: value of the trained encoder.
        low: lower bound of the 95 % interval of after − before; NaN where it is unknown.
        high: its upper bound.
        samples: number of test samples.
    """

    metric: str
    probes: tuple[str, str]
    before: float
    after: float
    low: float
    high: float
    samples: int

    def __str__(self) -> str:
        task, _, measure = self.metric.rpartition("/")
        probe = self.probes[0] if len(set(self.probes)) == 1 else " and ".join(self.probes)
        named = " ".join(filter(None, (probe, MEASURES.get(measure, measure))))
        difference = signed(self.after - self.before)
        if not math.isnan(self.low):
            difference += f", 95 % interval {signed(self.low)} to {signed(self.high)}"
        return (
            f"{task} ({named}): {self.before:.3f} before, {self.after:.3f} after training "
            f"({difference})"
        )


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[TaskChange]:
    """Compare the rows of two encoders that were measured in the same process.

    Args:
        before: rows of the start, in fp32.
        after: rows of the trained encoder, in fp32.
    """
    found = []
    sides = [_by_metric(rows) for rows in (before, after)]
    for metric in sides[0]:
        if metric not in sides[1]:
            continue
        first, second = (max(side[metric].values(), key=_mean) for side in sides)
        interval = _paired(first, second)
        found.append(
            TaskChange(
                metric,
                (first[0].probe, second[0].probe),
                _mean(first),
                _mean(second),
                *interval,
                first[0].protocol.test or 0,
            )
        )
    return found


def _by_metric(rows: Sequence[Row]) -> dict[str, dict[ResultKey, list[Row]]]:
    """Group the main metrics of each task by probe."""
    by_metric: dict[str, dict[ResultKey, list[Row]]] = {}
    for key, own in grouped(rows).items():
        if key.bits.is_float and key.metric.rpartition("/")[2] in MAIN_METRICS:
            by_metric.setdefault(key.metric, {})[key] = own
    return by_metric


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.value for row in rows) / len(rows)


def _paired(first: Sequence[Row], second: Sequence[Row]) -> tuple[float, float]:
    """Bounds of second − first; a probe without seeds is paired with each seed of the other."""
    values = [row.value for row in (*first, *second)]
    if not all(isinstance(value, Accuracy) for value in values):
        return math.nan, math.nan
    lost, gained = [], []
    for seed in range(max(len(first), len(second))):
        rows = first[seed % len(first)], second[seed % len(second)]
        then, now = (row.value.correct for row in rows)  # type: ignore[attr-defined]
        lost.append(replace(rows[0], value=(then & ~now).double().mean().item(), seed=seed))
        gained.append(replace(rows[0], value=(now & ~then).double().mean().item(), seed=seed))
    interval = change(lost, gained)
    return interval.low, interval.high


def write_changes(folder: Path, found: Sequence[TaskChange]) -> None:
    """Write `before_after.json` into a run."""
    entries = [asdict(one) | {"low": _plain(one.low), "high": _plain(one.high)} for one in found]
    write_json(folder / _FILE, entries, sealed=True)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_changes(folder: Path) -> list[TaskChange]:
    """Read what `write_changes` wrote; nothing for a run without a start."""
    path = folder / _FILE
    if not path.is_file():
        return []
    require_seal(path)
    return [
        TaskChange(
            **{
                **entry,
                "probes": tuple(entry["probes"]),
                "low": math.nan if entry["low"] is None else entry["low"],
                "high": math.nan if entry["high"] is None else entry["high"],
            }
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


@dataclass(frozen=True)
class StartComparison:
    """Start and trained encoder, each by its best probe, on training samples.

    Attributes:
        labels: labels of each class that the probes are fitted to, fewer of rare classes; `None`
            for all that are not held out.
        samples: number of samples that are scored.
        before: accuracy of the start.
        after: accuracy of the trained encoder.
        low: lower bound of the 95 % interval of after − before, over samples and over draws of the
            labels.
        high: its upper bound.
    """

    labels: int | None
    samples: int
    before: float
    after: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """Which labels the probes are fitted to, as words in a sentence."""
        each = "label" if self.labels == 1 else "labels"
        return "all labels" if self.labels is None else f"{self.labels} {each} per class"

    def __str__(self) -> str:
        return (
            f"with {self.words} {self.before:.3f} → {self.after:.3f} "
            f"({signed(self.after - self.before)}, 95 % interval {signed(self.low)} to "
            f"{signed(self.high)}; {self.samples:,} samples)"
        )


def compare_on_training_samples(
    start: Encoder, trained: Encoder, data: Source
) -> tuple[str, tuple[StartComparison, ...]]:
    """Compare two encoders on training samples, with all labels and with few of each class.

    Args:
        start: the encoder before training.
        trained: the encoder after training.
        data: the training samples; their first task with one label per sample is used.

    Returns:
        Name of the task, and the comparisons; nothing without labels.
    """
    source, tasks = data.evaluation()
    task = first_classification(tasks)
    if task is None or len(task.train) < 10:
        return "", ()
    pool, validation = _parts(task)
    labels, few = _few_labels(task, pool, validation)
    every = [[_folds(pool, validation)], few]
    indices = torch.cat([pool, validation])
    before, after = (_scores(encoder, source, task, indices, every) for encoder in (start, trained))
    found = [
        _compared(first, second, number)
        for first, second, number in zip(before, after, (None, labels), strict=True)
        if not (first.isnan().all() or second.isnan().all())
    ]
    return task.name if found else "", tuple(found)


Fold = tuple[torch.Tensor, torch.Tensor]
"""Indices of the samples to fit on, and of those to score."""


def _parts(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Return training samples, and those of the validation part that the data defines, if any."""
    chosen = torch.from_numpy(task.train)
    inside = torch.isin(chosen, torch.from_numpy(task.validation))
    # Files are in the order of their classes, so the first ones would be of a few classes alone.
    rest, held_out = (
        part[sample_order(len(part), 0, 0, stop=_MOST)]
        for part in (chosen[~inside], chosen[inside])
    )
    return rest, held_out


def _folds(pool: torch.Tensor, validation: torch.Tensor) -> list[Fold]:
    """Split samples once, or in five ways."""
    if len(validation):
        return [(pool, validation)]
    parts = pool.tensor_split(_FOLDS)
    rest = [torch.cat([p for p in parts if p is not part]) for part in parts]
    folds = list(zip(rest, parts, strict=True))
    return folds[:1] if len(parts[0]) >= _ENOUGH else folds


def _few_labels(
    task: Task, pool: torch.Tensor, validation: torch.Tensor
) -> tuple[int, list[list[Fold]]]:
    """Draw a few labels of each class again and again, at most half of a class.

    Returns:
        Labels of each class, and the draws; none where these are many of the labels.
    """
    labels = np.asarray(task.labels, np.int64)
    members = pool.numpy()[labels[pool.numpy()] >= 0]
    names, counts = np.unique(labels[members], return_counts=True)
    number = min(_LABELS, _MOST_LABELS // max(1, len(names)))
    taken = dict(zip(names, np.minimum(number, np.maximum(1, counts // 2)), strict=True))
    if len(names) < 2 or number == 0 or 4 * sum(taken.values()) > len(members):
        return number, []
    draws: list[list[Fold]] = []
    for draw in range(_DRAWS):
        key = key_of("few labels", draw)
        own = [
            some_of_each(labels, members[labels[members] == name], key, per_class=count)
            for name, count in taken.items()
        ]
        fitted = torch.from_numpy(np.concatenate(own))
        held_out = validation if len(validation) else pool[~torch.isin(pool, fitted)]
        draws.append([(fitted, held_out)])
    return number, draws


def _scores(
    encoder: Encoder,
    source: Source,
    task: Task,
    indices: torch.Tensor,
    comparisons: Sequence[Sequence[Sequence[Fold]]],
) -> list[torch.Tensor]:
    """Score the better of kNN and linear probe, for each comparison.

    Args:
        encoder: its features are computed once for all comparisons.
        source: samples.
        task: has their labels.
        indices: int64 `[N]`, all that the folds name.
        comparisons: of each its draws, and of each draw folds whose scored samples differ.

    Returns:
        Of each comparison `[draws, N]`: 1 for a correct sample, 0 for another, NaN where it is not
        scored.
    """
    read = extract_readable(encoder, source, indices=indices)
    # Features that are not finite answer nothing, and must not stop the comparison.
    features = torch.nan_to_num(read.x, nan=0.0, posinf=0.0, neginf=0.0)
    labels = torch.from_numpy(task.labels)[read.indices]
    best = []
    for draws in comparisons:
        found = [features.new_full((len(draws), len(labels)), math.nan) for _ in range(2)]
        for draw, folds in enumerate(draws):
            for fold in folds:
                fit, scored = ((labels >= 0) & torch.isin(read.indices, side) for side in fold)
                if len(labels[fit].unique()) < 2 or not scored.any():
                    continue  # nothing to learn, or nothing to score
                sides = (Features(features[rows], labels[rows]) for rows in (fit, scored))
                for own, correct in zip(found, _correct(*sides), strict=True):
                    own[draw, scored] = correct.to(own.dtype)
        best.append(max(found, key=lambda scores: float(scores.nanmean().nan_to_num())))
    return best


def _correct(fitted: Features, held_out: Features) -> Iterator[torch.Tensor]:
    """Yield which held-out samples kNN and the linear probe classify correctly, bool `[N]`."""
    for probe in (KNN(), Linear()):
        with warnings.catch_warnings():
            # On collapsed features a fit may stop early; its answers count as they are.
            warnings.simplefilter("ignore", RuntimeWarning)
            rows = list(probe.run(fitted, held_out))
        value: Any = next(row.value for row in rows if row.metric == "top1")
        yield value.correct


def _compared(before: torch.Tensor, after: torch.Tensor, labels: int | None) -> StartComparison:
    """Compare the scores of two encoders, `[draws, N]`, sample by sample.

    The interval over samples is that of paired proportions (`results.paired`) with the mean of a
    sample over draws, and Student's over draws is added in quadrature: another draw of labels gives
    another difference, and so do other samples.
    """
    change = (after - before).double()
    of_samples = change.nanmean(dim=0)
    of_samples = of_samples[~of_samples.isnan()]
    total, count = float(of_samples.sum()), len(of_samples) + 2.0
    squares = float(of_samples.square().sum()) + 1.0
    over_samples = _Z * math.sqrt(squares - total**2 / count) / count
    of_draws = [mean for mean in change.nanmean(dim=1).tolist() if not math.isnan(mean)]
    half = math.hypot(over_samples, student(of_draws) if len(of_draws) > 1 else 0.0)
    low, high = max(-1.0, total / count - half), min(1.0, total / count + half)
    first, second = (float(side.double().nanmean()) for side in (before, after))
    return StartComparison(labels, len(of_samples), first, second, low, high)
