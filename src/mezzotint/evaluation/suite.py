"""All measures of an encoder: each task by each probe that answers it, and label-free measures.

Features are extracted once. The data fixes a task's split; a probe gets the training features to
fit and select on, and the test features to score; a sample in both is refused. Three baselines are
measured in the same way: the raw input, hand-made features of it, and the same encoder with
untrained weights.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import FOLD, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import progress
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank, alignment, verdict
from mezzotint.evaluation.linear import Head, Linear
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import HANDMADE, RAW, UNTRAINED, Baselines, Evaluation
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.types import Features

Heads = dict[tuple[str, Protocol], list[Head]]
"""Fitted linear heads, by task and by the protocol of their probe."""

DEFAULT_PROBES: tuple[Probe, ...] = (KNN(), Linear(), Retrieval())
_RANK = Rank()


def evaluate_encoder(
    measurement: Measurement,
    *,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
    heads: Heads | None = None,
) -> Evaluation:
    """Measure an encoder on its data; a source without tasks gets the label-free measures alone.

    Args:
        measurement: encoder and data; neither is changed.
        probes: probes; each runs on every task of a kind that it answers.
        seeds: number of repeats of what is random in a probe.
        heads: filled with the fitted linear heads, if given.
    """
    with progress.part(measurement.name):
        features = measurement.features
        rows = list(
            measure(
                features, measurement.tasks, _with_rank(probes), seeds, heads, name=measurement.name
            )
        )
        if any(probe.tokens for probe in probes):
            tokens, tasks = measurement.patches, measurement.tasks
            rows += measure(tokens, tasks, probes, seeds, name=measurement.name)
        rows += over_folds(rows)
    value = {row.metric: row.value for row in rows if row.probe == _RANK.name}
    return Evaluation(rows, verdict(value["all/spread"], value["all/rank_ratio"]), features.bad)


def baselines(
    measurement: Measurement,
    build: Callable[[int], Encoder] | None = None,
    *,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
    features: dict[str, Extraction] | None = None,
) -> Baselines:
    """Measure the raw input, hand-made features and untrained encoders, which it must beat.

    Args:
        measurement: encoder and data, as for `evaluate_encoder`.
        build: makes the encoder with untrained weights from a seed; `None` leaves it out.
        probes: the same probes as for the encoder.
        seeds: number of untrained encoders; each gives one row per metric with the encoder's seed,
            and a probe with a random part runs once on it.
        features: filled with the features of the raw input and of the first untrained encoder, if
            given, by the names of `RAW` and `UNTRAINED`.
    """
    tasks, own = measurement.tasks, _with_rank(probes)
    untrained: list[Row] = []

    def add_untrained(seed: int) -> None:
        assert build is not None
        fresh = measurement.of(build(seed), f"{UNTRAINED} {seed}")
        rows = evaluate_encoder(fresh, probes=probes, seeds=1).rows
        if features is not None:
            features.setdefault(UNTRAINED, fresh.features)
        untrained.extend(dataclasses.replace(row, seed=seed) for row in rows)

    raw: list[Row] = []
    handmade: list[Row] = []
    this = measurement.name
    # One untrained encoder first: a page without it could not say what training gained.
    if build is not None and progress.allows(f"{UNTRAINED} 0", this):
        add_untrained(0)
    if progress.allows(HANDMADE, this) and measurement.handmade is not None:
        with progress.part(HANDMADE):
            handmade += measure(measurement.handmade, tasks, own, seeds, name=HANDMADE)
            handmade += over_folds(handmade)
    if progress.allows(RAW, this):
        with progress.part(RAW):
            raw += measure(measurement.raw, tasks, own, seeds, name=RAW)
            if features is not None:
                features[RAW] = measurement.raw
            raw += over_folds(raw)
    for seed in range(1, seeds if build is not None else 0):
        like = f"{UNTRAINED} 0" if untrained else this
        if progress.allows(f"{UNTRAINED} {seed}", like):
            add_untrained(seed)
    return Baselines(raw, untrained, handmade)


def _with_rank(probes: Sequence[Probe]) -> Sequence[Probe]:
    """Add the measure of collapse, which every encoder gets, unless it is there."""
    return probes if any(isinstance(probe, Rank) for probe in probes) else (*probes, _RANK)


def measure(
    extraction: Extraction,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    seeds: int,
    heads: Heads | None = None,
    *,
    name: str = "features",
) -> Iterator[Row]:
    """Run each task's probes on extracted features.

    Args:
        extraction: features of samples, `[N, D]`, or their patch tokens, `[N, L, D]`.
        tasks: tasks over the source's indices.
        probes: probes; each runs on every task of a kind that it answers.
        seeds: number of repeats of what is random in a probe.
        heads: filled with the fitted linear heads, if given.
        name: of the encoder, in lines about the progress.

    Raises:
        ValueError: when training and test samples of a task overlap.
    """
    tokens = extraction.x.ndim == 3
    for task, train, test in splits(extraction, tasks):
        for probe in probes:
            if task.kind in probe.kinds and probe.tokens == tokens:
                with progress.part(f"{probe.name} of {name}, {task.name}"):
                    # Heads are kept for low bits, where the same fitted classifier scores
                    # quantized features.
                    if heads is not None and isinstance(probe, Linear):
                        fitted = heads[task.name, probe.protocol] = probe.heads(train, seeds=seeds)
                        rows = list(probe.scored(fitted, test))
                    else:
                        rows = list(probe.run(train, test, seeds=seeds))
                for row in rows:
                    yield of_task(row, task, train, test)
        if task.kind == "retrieve" and not tokens:
            pairs = _pairs(train, test)
            if pairs is not None:
                yield of_task(_RANK.row("alignment", alignment(*pairs)), task, train, test)
    features = Features(extraction.x)
    for probe in probes:
        if not (probe.kinds or tokens):  # of the features alone
            for row in probe.run(features, features):
                yield dataclasses.replace(row, metric=f"all/{row.metric}")


def splits(
    extraction: Extraction, tasks: Sequence[Task]
) -> Iterator[tuple[Task, Features, Features]]:
    """Yield each task with the training and test features of samples that were read and labeled.

    Raises:
        ValueError: when training and test samples of a task overlap.
    """
    read = extraction.indices
    # Unreadable samples leave gaps: a task's index is not a row of the features.
    position = torch.full((int(read.max()) + 1 if len(read) else 0,), -1)
    position[read] = torch.arange(len(read))
    for task in tasks:
        # Checked here, and not trusted to sources: a leak is invisible in the results.
        shared = np.intersect1d(task.train, task.test)
        if len(shared):
            raise ValueError(
                f"Task `{task.name}` has {len(shared)} samples in both training and test, the "
                f"first of index {shared[0]}. Split the task again."
            )
        tags = task.kind == "tag"
        every = torch.from_numpy(np.asarray(task.labels, dtype=np.bool_ if tags else np.int64))
        sides = []
        for side in (task.train, task.test):
            requested = torch.from_numpy(np.asarray(side, dtype=np.int64))
            requested = requested[requested < len(position)]
            labels, rows = every[requested], position[requested]
            # A negative label means none; a sample without any tag is a sample all the same.
            usable = rows >= 0 if tags else (rows >= 0) & (labels >= 0)
            validation = None
            if len(task.validation):
                validation = torch.from_numpy(np.isin(requested[usable].numpy(), task.validation))
            sides.append(Features(extraction.x[rows[usable]], labels[usable], validation))
        train, test = sides
        yield task, train, test


def of_task(row: Row, task: Task, train: Features, test: Features) -> Row:
    """Return the row with the task in its metric, and the sizes of the split in its protocol."""
    protocol = dataclasses.replace(row.protocol, train=len(train.x), test=len(test.x))
    return dataclasses.replace(row, metric=f"{task.name}/{row.metric}", protocol=protocol)


def over_folds(rows: Sequence[Row]) -> Iterator[Row]:
    """Yield the means over folds: `TASK/fold-N/METRIC` becomes `TASK/folds/METRIC`."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        metric, count = FOLD.subn("/folds", row.metric)
        if count:
            groups.setdefault((row.probe, metric, row.seed), []).append(row)
    for (_, metric, _), folds in groups.items():
        scored = sum(row.protocol.test or 0 for row in folds)
        mean = math.fsum(row.value for row in folds) / len(folds)
        row = folds[0].with_protocol(train=None, test=scored, folds=len(folds))
        yield dataclasses.replace(row, metric=metric, value=mean)


def _pairs(train: Features, test: Features) -> tuple[Tensor, Tensor] | None:
    """Return paired features of samples that are the only ones of their label on either side."""
    assert train.y is not None and test.y is not None
    sides = []
    for part in (train.y.numpy(), test.y.numpy()):
        labels, first, counts = np.unique(part, return_index=True, return_counts=True)
        sides.append((labels[counts == 1], first[counts == 1]))
    _, left, right = np.intersect1d(
        sides[0][0], sides[1][0], assume_unique=True, return_indices=True
    )
    if len(left) == 0:
        return None
    a, b = torch.from_numpy(sides[0][1][left]), torch.from_numpy(sides[1][1][right])
    return train.x[a], test.x[b]
