"""Nearest neighbors of test samples, and the classes that a kNN classifier confuses.

The training samples of the data's first classification task vote on its test samples. In unlabeled
data the neighbors come from the data itself. The results are for illustration; compared values come
from `mezzotint.evaluate`.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import Index, Source, Task, first_classification
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import Extraction, Reading, extract_readable, raw_features
from mezzotint.evaluation.knn import similarities
from mezzotint.seeding import sample_order

NEIGHBORS = 10
SHOWN = 6
_MOST_TRAIN, _MOST_TEST, _MOST_MAPPED = 10_000, 5_000, 2_000


@dataclass(frozen=True)
class NearestNeighbors:
    """Test samples of a data set, and their nearest training samples.

    Attributes:
        source: source of both.
        task: classification task; `None` without labels.
        test: test samples, int64 `[N]` indices into the source.
        features: float32 `[N, D]` features of the test samples, of norm one.
        neighbors: int64 `[N, K]` indices into the source, nearest first.
        similarity: cosine similarity of each neighbor, `[N, K]`.
    """

    source: Source
    task: Task | None
    test: Index
    features: Tensor
    neighbors: Index
    similarity: Tensor

    @functools.cached_property
    def labels(self) -> Index:
        """Labels of the test samples, int64 `[N]`; negative without labels."""
        return self.labels_of(self.test)

    def labels_of(self, indices: Index) -> Index:
        """Return the labels of samples, negative without labels."""
        if self.task is None:
            return np.full(indices.shape, -1, np.int64)
        return np.asarray(self.task.labels[indices], np.int64)

    @functools.cached_property
    def predictions(self) -> Index:
        """Predictions by kNN, int64 `[N]`; votes are weighted by exp(cosine / 0.07)."""
        if self.task is None:
            return np.full(len(self.test), -1, np.int64)
        names, members = np.unique(self.task.labels[self.neighbors], return_inverse=True)
        votes = torch.zeros(len(self.test), len(names), dtype=torch.float64)
        ballots = torch.from_numpy(members.reshape(self.neighbors.shape))
        # In float64, since the weights range over exp(2 / 0.07).
        votes.scatter_add_(1, ballots, (self.similarity.double() / 0.07).exp())
        predictions: Index = names[votes.argmax(dim=1).numpy()]
        return predictions

    def class_name(self, label: int) -> str:
        """Return the name of a class; empty for a sample without a label."""
        if self.task is None or label < 0:
            return ""
        return self.task.classes[label] if label < len(self.task.classes) else str(label)


def find_neighbors(
    encoder: Encoder | None,
    source: Source,
    workers: int = 0,
    queries: Index | None = None,
    *,
    known: Extraction | None = None,
) -> NearestNeighbors | None:
    """Extract features and find the nearest neighbors of the test samples.

    Large data is subsampled to 10,000 training and 5,000 test samples.

    Args:
        encoder: encoder, not changed; `None` for the raw input.
        source: data of the run.
        workers: processes that read samples, if the source is not in memory.
        queries: test samples whose neighbors are found, among the same training samples; all by
            default.
        known: features of the encoder that were extracted before; only their samples are used,
            unless a query is not among them.

    Returns:
        The neighbors, or `None` if there are too few samples or features contain NaN or inf.
    """
    everything, tasks = source.evaluation()
    task = first_classification(tasks)
    if known is not None and queries is not None and len(_among(known, queries)) < len(queries):
        known = None
    if task is None:
        # Without labels there is no split: each sample is looked up among the others.
        parts = [_subset(_among(known, np.arange(len(everything))), _MOST_TEST)]
    else:
        sides = [(task.test, _MOST_TEST), (task.train, _MOST_TRAIN)]
        parts = [_subset(_among(known, part[task.labels[part] >= 0]), most) for part, most in sides]
    if queries is not None:
        parts = [queries, parts[-1]]
    if known is None:
        extracted = [_features(encoder, everything, workers, part) for part in parts]
    else:
        extracted = [known.of(torch.from_numpy(part)) for part in parts]
    asked, bank = extracted[0], extracted[-1]
    if (
        len(asked.x) == 0
        or len(bank.x) < 3
        or not all(bool(part.x.isfinite().all()) for part in extracted)
    ):
        return None
    own = torch.searchsorted(bank.indices, asked.indices) if task is None else None
    similarity, nearest = _nearest(
        asked.x, bank.x, min(NEIGHBORS, len(bank.x) - (task is None)), own=own
    )
    features = torch.nn.functional.normalize(asked.x, dim=1)
    return NearestNeighbors(
        everything,
        task,
        asked.indices.numpy(),
        features,
        bank.indices.numpy()[nearest.numpy()],
        similarity,
    )


def _features(encoder: Encoder | None, source: Source, workers: int, part: Index) -> Extraction:
    reading, indices = Reading(workers=workers), torch.from_numpy(part)
    if encoder is None:
        return raw_features(source, reading, indices=indices)
    return extract_readable(encoder, source, reading, indices=indices)


def _among(known: Extraction | None, indices: Index) -> Index:
    """Return the indices, in order, that have features."""
    return indices if known is None else indices[np.isin(indices, known.indices.numpy())]


def _subset(indices: Index, most: int) -> Index:
    """Return at most `most` indices in order; the choice depends only on their number."""
    if len(indices) <= most:
        return indices
    return np.sort(indices[sample_order(len(indices), 0, 0, stop=most).numpy()])


def _nearest(
    queries: Tensor, bank: Tensor, k: int, *, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return cosine and index in the bank of the `k` nearest, `[N, k]` each.

    Args:
        queries: `[N, D]`.
        bank: `[M, D]`.
        k: number of neighbors.
        own: int64 `[N]`, index of each query in the bank, where it is no neighbor of itself.
    """
    blocks = []
    for rows, cosine in similarities(bank, queries, metric="cosine", center=False):
        if own is not None:
            # Every sample would be its own nearest neighbor.
            cosine[torch.arange(len(cosine)), own[rows]] = -math.inf
        blocks.append(cosine.topk(k, dim=1))
    return torch.cat([top.values for top in blocks]), torch.cat([top.indices for top in blocks])


@dataclass(frozen=True)
class ClassScore:
    """Correct kNN predictions of one class.

    Attributes:
        label: label of the class.
        correct: number of correct test samples.
        count: number of test samples.
    """

    label: int
    correct: int
    count: int

    @property
    def accuracy(self) -> float:
        """Fraction of correct test samples."""
        return self.correct / self.count


def class_scores(nearest: NearestNeighbors) -> list[ClassScore]:
    """Score each class that has test samples, the lowest accuracy first."""
    labels, hit = nearest.labels, nearest.labels == nearest.predictions
    scores = [
        ClassScore(int(label), int(hit[labels == label].sum()), int((labels == label).sum()))
        for label in np.unique(labels[labels >= 0])
    ]
    return sorted(scores, key=lambda score: (score.accuracy, -score.count))


@dataclass(frozen=True)
class Confusion:
    """Test samples of one class that are predicted as another.

    Attributes:
        truth: true label.
        predicted: predicted label.
        count: number of these samples.
        of: number of test samples of the class.
        rows: these samples, as indices into `NearestNeighbors.test`.
    """

    truth: int
    predicted: int
    count: int
    of: int
    rows: Index


def confusions(nearest: NearestNeighbors, most: int = 6) -> list[Confusion]:
    """Return the most frequent pairs of true and predicted class, by number of samples."""
    labels, predictions = nearest.labels, nearest.predictions
    wrong = (labels >= 0) & (labels != predictions)
    pairs, counts = np.unique(
        np.stack([labels[wrong], predictions[wrong]], axis=1), axis=0, return_counts=True
    )
    order = np.argsort(-counts, kind="stable")[:most]
    return [
        Confusion(
            truth=int(truth),
            predicted=int(predicted),
            count=int(count),
            of=int((labels == truth).sum()),
            rows=((labels == truth) & (predictions == predicted)).nonzero()[0],
        )
        for (truth, predicted), count in zip(pairs[order], counts[order], strict=True)
    ]


def queries_to_show(nearest: NearestNeighbors, most: int, seed: int) -> list[int]:
    """Choose rows of `NearestNeighbors.test` by the seed, of different classes if possible."""
    order = sample_order(len(nearest.test), seed, 0).tolist()
    first: dict[int, int] = {}
    for row in order:
        first.setdefault(int(nearest.labels[row]), row)
    chosen = set(first.values())
    return ([*first.values()] + [row for row in order if row not in chosen])[:most]


def mapped_rows(nearest: NearestNeighbors, seed: int) -> list[int]:
    """Return the rows of `NearestNeighbors.test` on the map: all, or 2,000 chosen by the seed."""
    order = sample_order(len(nearest.test), seed, 1)
    rows: list[int] = order[:_MOST_MAPPED].sort().values.tolist()
    return rows
