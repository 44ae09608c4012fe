"""What the features hold near to each other: nearest neighbors, the classes that are confused, and a map.

Everything here looks at the data's first classification task: its training samples vote, its test
samples are asked. Data without labels is asked about itself. It describes; the figures that are
compared come from `mezzotint.evaluate`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import Index, Source, Task, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import extract_readable
from mezzotint.evaluation.knn import similarities
from mezzotint.seeding import sample_order

NEIGHBORS = 10
SHOWN = 8
_MOST_TRAIN, _MOST_TEST, _MOST_MAPPED = 10_000, 5_000, 2_000


@dataclass(frozen=True)
class Look:
    """Test samples of a data set, and their neighbors among its training samples.

    Attributes:
        source: holds both.
        task: what was asked; `None` without labels.
        test: int64 `[N]`, places in the source.
        features: float32 `[N, D]` of the test samples, of length one.
        neighbors: int64 `[N, K]`, places in the source, nearest first.
        similarity: cosine of each neighbor, `[N, K]`.
    """

    source: Source
    task: Task | None
    test: Index
    features: Tensor
    neighbors: Index
    similarity: Tensor

    @functools.cached_property
    def labels(self) -> Index:
        """int64 `[N]`: the labels of the test samples; negative without labels."""
        return self.labels_of(self.test)

    def labels_of(self, places: Index) -> Index:
        """The labels of samples."""
        if self.task is None:
            return np.full(places.shape, -1, np.int64)
        return np.asarray(self.task.labels[places], np.int64)

    @functools.cached_property
    def guesses(self) -> Index:
        """int64 `[N]`: the label that most of the neighbors have, each counted by exp(cosine / 0.07)."""
        if self.task is None:
            return np.full(len(self.test), -1, np.int64)
        names, members = np.unique(self.task.labels[self.neighbors], return_inverse=True)
        votes = torch.zeros(len(self.test), len(names), dtype=torch.float64)
        ballots = torch.from_numpy(members.reshape(self.neighbors.shape))
        votes.scatter_add_(1, ballots, (self.similarity.double() / 0.07).exp())
        guesses: Index = names[votes.argmax(dim=1).numpy()]
        return guesses

    def class_name(self, label: int) -> str:
        """A class in words; empty for a sample without label."""
        if self.task is None or label < 0:
            return ""
        return self.task.classes[label] if label < len(self.task.classes) else str(label)


def look(encoder: Encoder, source: Source, workers: int = 0) -> Look | None:
    """Extract features and find neighbors.

    Of large data a part is looked at: 10,000 training and 5,000 test samples.

    Args:
        encoder: is not changed.
        source: of the run.
        workers: processes that read samples, where the source is not in memory.

    Returns:
        `None` when there are too few samples, or features that are not finite.
    """
    everything, tasks = source.evaluation()
    task = first_classification(tasks)
    if task is None:
        wanted = [_part(np.arange(len(everything)), _MOST_TEST)]
    else:
        sides = [(task.test, _MOST_TEST), (task.train, _MOST_TRAIN)]
        wanted = [_part(places[task.labels[places] >= 0], most) for places, most in sides]
    found = [
        extract_readable(encoder, everything, indices=torch.from_numpy(places), workers=workers)
        for places in wanted
    ]
    queries, bank = found[0], found[-1]
    if (
        len(queries.x) == 0
        or len(bank.x) < 3
        or not all(bool(part.x.isfinite().all()) for part in found)
    ):
        return None
    own = task is None
    similarity, nearest = _nearest(
        queries.x, bank.x, min(NEIGHBORS, len(bank.x) - own), skip_own=own
    )
    features = torch.nn.functional.normalize(queries.x, dim=1)
    return Look(
        everything,
        task,
        queries.indices.numpy(),
        features,
        bank.indices.numpy()[nearest.numpy()],
        similarity,
    )


def _part(places: Index, most: int) -> Index:
    """All places, or a part of them that does not depend on anything but their number; in order."""
    if len(places) <= most:
        return places
    return np.sort(places[sample_order(len(places), 0, 0)[:most].numpy()])


def _nearest(queries: Tensor, bank: Tensor, k: int, *, skip_own: bool) -> tuple[Tensor, Tensor]:
    """Cosine and place in the bank of the `k` nearest, `[N, k]` each."""
    found = []
    for rows, cosine in similarities(bank, queries, metric="cosine", center=False):
        if skip_own:
            block = torch.arange(len(cosine))
            cosine[block, block + rows.start] = -math.inf
        found.append(cosine.topk(k, dim=1))
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


@dataclass(frozen=True)
class ClassScore:
    """How many samples of a class its neighbors get right."""

    label: int
    right: int
    count: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.right / self.count


def class_scores(look: Look) -> list[ClassScore]:
    """One for each class that has test samples, the worst first."""
    labels, hit = look.labels, look.labels == look.guesses
    scores = [
        ClassScore(int(label), int(hit[labels == label].sum()), int((labels == label).sum()))
        for label in np.unique(labels[labels >= 0])
    ]
    return sorted(scores, key=lambda score: (score.share, -score.count))


@dataclass(frozen=True)
class Confusion:
    """Samples of one class that are taken for another.

    Attributes:
        truth: their label.
        guess: what they are taken for.
        count: how many.
        of: samples of the class.
        rows: which of the test samples, as places in `Look.test`.
    """

    truth: int
    guess: int
    count: int
    of: int
    rows: Index


def confusions(look: Look, most: int = 6) -> list[Confusion]:
    """The pairs of classes that are confused most often, by the number of samples."""
    labels, guesses = look.labels, look.guesses
    wrong = (labels >= 0) & (labels != guesses)
    pairs, counts = np.unique(
        np.stack([labels[wrong], guesses[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        Confusion(
            truth=int(truth),
            guess=int(guess),
            count=int(count),
            of=int((labels == truth).sum()),
            rows=((labels == truth) & (guesses == guess)).nonzero()[0],
        )
        for (truth, guess), count in zip(pairs[order], counts[order], strict=True)
    ]


def queries_to_show(look: Look, most: int, seed: int) -> list[int]:
    """Rows of `Look.test` whose neighbors are shown: chosen by the seed alone, of different classes where possible."""
    order = sample_order(len(look.test), seed, 0).tolist()
    labels = look.labels
    seen: set[int] = set()
    first = [row for row in order if labels[row] not in seen and not seen.add(int(labels[row]))]  # type: ignore[func-returns-value]
    others = [row for row in order if row not in set(first)]
    return (first + others)[:most]


def mapped_rows(look: Look, seed: int) -> list[int]:
    """Rows of `Look.test` that the map shows: all, or 2,000 chosen by the seed."""
    rows: list[int] = sample_order(len(look.test), seed, 1)[:_MOST_MAPPED].sort().values.tolist()
    return rows
