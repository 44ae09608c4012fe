"""Everything that is measured of an encoder: each task by each probe that answers it, and what needs no labels.

Features are extracted once. A task's split is fixed by the data; a probe gets the task's training
features to learn and to select on, and its test features to score, and a sample in both is refused.
Beside every figure stand two baselines, measured in the same way: the input itself, and the same
encoder with fresh weights.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import FOLD, Index, Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.attentive import PatchTokens
from mezzotint.evaluation.features import Extraction, Progress, extract_readable, raw_features
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.label_free import Rank, alignment, verdict
from mezzotint.evaluation.linear import Head, Linear
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.results import Baselines, Evaluation
from mezzotint.evaluation.results import summary as summary
from mezzotint.evaluation.results import write_evaluation as write_evaluation
from mezzotint.evaluation.retrieval import Retrieval
from mezzotint.types import Features

Heads = dict[tuple[str, str], list[Head]]
"""Fitted classifiers, by task and by the protocol of the probe that fitted them."""

DEFAULT_PROBES: tuple[Probe, ...] = (KNN(), Linear(), Retrieval())
_RANK = Rank()


def evaluate_encoder(
    encoder: Encoder,
    source: Source,
    *,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure an encoder on its data.

    Args:
        encoder: is not changed.
        source: of the run; its `evaluation()` says what to read and what to ask. Without one, only
            the label-free measures are taken, on the source itself.
        probes: each runs on every task of a kind it answers.
        seeds: repeats of what is random in a probe.
        batch_size: samples in one forward pass.
        workers: of the loader, for sources that are not in memory.
        device: where to compute features; by default where the encoder is.
        progress: see `extract_readable`.
    """
    samples, tasks = asked(source)
    found = extract_readable(
        encoder, samples, batch_size=batch_size, workers=workers, device=device, progress=progress
    )
    evaluation = evaluate_features(found, tasks, probes, seeds)
    where = {"batch_size": batch_size, "workers": workers, "device": device}
    evaluation.rows.extend(token_rows(encoder, samples, tasks, probes, seeds, **where))  # type: ignore[arg-type]
    return evaluation


def evaluate_features(
    found: Extraction,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    seeds: int,
    heads: Heads | None = None,
) -> Evaluation:
    """Measure features that have been extracted, and what they tell without labels; arguments as for `measure`."""
    rows = list(measure(found, tasks, probes, seeds, heads))
    rows += over_folds(rows)
    rows += [
        row
        for row in _label_free(found, _RANK)
        if not any(isinstance(probe, Rank) for probe in probes)
    ]
    value = {row.metric: row.value for row in rows if row.probe == _RANK.name}
    return Evaluation(rows, verdict(value["all/spread"], value["all/rank_share"]), found.bad)


def baselines(
    build: Callable[[int], Encoder] | None,
    source: Source,
    *,
    probes: Sequence[Probe] = DEFAULT_PROBES,
    seeds: int = 3,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> Baselines:
    """Measure what the encoder has to beat.

    Args:
        build: makes the encoder with fresh weights from a seed; without it, the input alone is
            measured.
        source: as for `evaluate_encoder`.
        probes: the same as the encoder's.
        seeds: how many untrained encoders. Each gives one row a figure, whose `seed` is the
            encoder's; within it, a probe with a random part runs once.
        batch_size: samples in one forward pass.
        workers: of the loader.
        device: where to compute features.
    """
    samples, tasks = asked(source)
    read = raw_features(samples, batch_size=batch_size, workers=workers)
    raw = list(measure(read, tasks, probes, seeds))
    raw += [*over_folds(raw), *_label_free(read, _RANK)]
    untrained: list[Row] = []
    for seed in range(seeds if build is not None else 0):
        assert build is not None
        fresh = build(seed)
        found = extract_readable(
            fresh, samples, batch_size=batch_size, workers=workers, device=device
        )
        rows = list(measure(found, tasks, probes, 1))
        rows += token_rows(
            fresh, samples, tasks, probes, 1, batch_size=batch_size, workers=workers, device=device
        )
        rows += [*over_folds(rows), *_label_free(found, _RANK)]
        untrained += [dataclasses.replace(row, seed=seed) for row in rows]
    return Baselines(raw, untrained)


def measure(
    found: Extraction,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    seeds: int,
    heads: Heads | None = None,
) -> Iterator[Row]:
    """Run each task's probes on features that have been extracted.

    Args:
        found: the features.
        tasks: over the source's indices.
        probes: each runs on every task of a kind it answers.
        seeds: repeats of what is random in a probe.
        heads: is filled with the linear probes' classifiers when given.

    Raises:
        ValueError: when a task's training and test samples overlap.
    """
    for task, train, test in splits(found, tasks):
        for probe in probes:
            if task.kind in probe.kinds and probe.tokens == (found.x.ndim == 3):
                if heads is not None and isinstance(probe, Linear):
                    fitted = heads[task.name, probe.protocol] = probe.heads(train, seeds=seeds)
                    rows = probe.scored(fitted, test)
                else:
                    rows = probe.run(train, test, seeds=seeds)
                for row in rows:
                    yield named(row, task, train, test)
        if task.kind == "retrieve" and found.x.ndim == 2:
            pairs = _pairs(train, test)
            if pairs is not None:
                yield named(_RANK.row("alignment", alignment(*pairs)), task, train, test)
    for probe in probes:
        if not probe.kinds:
            yield from _label_free(found, probe)


def token_rows(
    encoder: Encoder,
    samples: Source,
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    seeds: int,
    *,
    batch_size: int = 256,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> list[Row]:
    """What the probes of patches measure, if there are any; arguments as for `evaluate_encoder`."""
    chosen = [probe for probe in probes if probe.tokens]
    if not chosen:
        return []
    found = extract_readable(
        PatchTokens(encoder), samples, batch_size=batch_size, workers=workers, device=device
    )
    found = dataclasses.replace(found, x=found.x.view(len(found.x), -1, encoder.dim))
    return list(measure(found, tasks, chosen, seeds))


def splits(found: Extraction, tasks: Sequence[Task]) -> Iterator[tuple[Task, Features, Features]]:
    """Each task with the training and test features that it is about.

    Raises:
        ValueError: when a task's training and test samples overlap.
    """
    place = torch.full((int(found.indices.max()) + 1 if len(found.indices) else 0,), -1)
    place[found.indices] = torch.arange(len(found.indices))
    for task in tasks:
        shared = np.intersect1d(task.train, task.test)
        if len(shared):
            raise ValueError(
                f"task {task.name}: got {len(shared)} samples in both training and test, the first of index "
                f"{shared[0]}; allowed is none: split the task anew"
            )
        yield task, _part(found, place, task, task.train), _part(found, place, task, task.test)


def asked(source: Source) -> tuple[Source, Sequence[Task]]:
    """What to read, and what to ask; a source that knows no tasks is asked nothing."""
    return source.evaluation()


def _label_free(found: Extraction, probe: Probe) -> Iterator[Row]:
    features = Features(found.x)
    for row in probe.run(features, features):
        yield dataclasses.replace(row, metric=f"all/{row.metric}")


def named(row: Row, task: Task, train: Features, test: Features) -> Row:
    """With the task before the measure, and the split's sizes, which intervals need, in the protocol."""
    sizes = f"train={len(train.x)} test={len(test.x)}"
    return dataclasses.replace(
        row, metric=f"{task.name}/{row.metric}", protocol=f"{row.protocol} {sizes}"
    )


def _part(found: Extraction, place: Tensor, task: Task, indices: Index) -> Features:
    """Features of those samples that were read and have a label."""
    wanted = torch.from_numpy(np.asarray(indices, dtype=np.int64))
    wanted = wanted[wanted < len(place)]
    several = task.kind == "tag"
    labels = torch.from_numpy(np.asarray(task.labels, dtype=np.bool_ if several else np.int64))[
        wanted
    ]
    rows = place[wanted]
    usable = rows >= 0 if several else (rows >= 0) & (labels >= 0)
    chosen = (
        torch.from_numpy(np.isin(wanted[usable].numpy(), task.validation))
        if len(task.validation)
        else None
    )
    return Features(found.x[rows[usable]], labels[usable], chosen)


def over_folds(rows: Sequence[Row]) -> Iterator[Row]:
    """The mean over the folds of a task that has several, `TASK/fold-N/MEASURE`, as `TASK/folds/MEASURE`."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        metric, count = FOLD.subn("/folds", row.metric)
        if count:
            groups.setdefault((row.probe, metric, row.seed), []).append(row)
    for (_, metric, _), found in groups.items():
        scored = sum(
            int(size[1]) for row in found if (size := re.search(r"\btest=(\d+)", row.protocol))
        )
        protocol = re.sub(
            r"train=\d+ test=\d+", f"folds={len(found)} test={scored}", found[0].protocol
        )
        mean = math.fsum(row.value for row in found) / len(found)
        yield dataclasses.replace(found[0], metric=metric, value=mean, protocol=protocol)


def _pairs(train: Features, test: Features) -> tuple[Tensor, Tensor] | None:
    """The features of the samples that are the only ones of their label on either side, paired."""
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
    return train.x[torch.from_numpy(sides[0][1][left])], test.x[
        torch.from_numpy(sides[1][1][right])
    ]
