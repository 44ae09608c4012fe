"""k nearest neighbors with weighted votes (Wu et al. 2018, arXiv 1805.01978, section 3.4).

Each of the k nearest training samples votes for its class with weight `exp(similarity / T)`. k, T,
the metric and centering all move the figure by several points, so they stand in the protocol of
every row. Differs from the published protocol in the default k, which is 200 there, for ImageNet,
and 10 here, for thousands of samples instead of a million.

kNN over a grid of its settings, as solo-learn reports it: k × temperature × metric, in one pass
over the neighbors.

The nearest samples are found once a metric, for the largest k; every other setting is a vote among
them. Nothing is chosen: each setting gives rows of its own, whose protocol is that of `knn`.
Choosing the best of them on the test samples is not this library's to do.

Similarities between two sets of features, a block of queries at a time, for kNN and retrieval.

Centering subtracts the mean of the training features from both sides before the cosine; it uses no
label and nothing of the test set. It is off by default, as in the published protocols:
`docs/evaluation.md` shows that it helps trained encoders a little and harms untrained ones, so
leaving it out is the choice that favors the baselines.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.types import Features

Metric = Literal["cosine", "euclidean"]

_BLOCK_ELEMENTS = 1 << 24  # of similarities held at once: 64 MB


def check_metric(metric: str) -> None:
    """Refuse an unknown metric."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(
            f"got metric={metric!r}; allowed is cosine or euclidean: choose one of them"
        )


def similarities(
    train: Tensor, queries: Tensor, *, metric: Metric, center: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of the similarity matrix.

    Args:
        train: `[N, D]`.
        queries: `[M, D]`.
        metric: `cosine`, or `euclidean`: `−‖a − b‖² / 2s²` with `s²` the mean squared norm of the
            (centered) training features, which for features of unit norm is the cosine less one, so
            that temperatures keep their meaning.
        center: whether to subtract the mean of `train` from both.

    Yields:
        The rows of `queries` covered, and their similarities `[B, N]`; larger is nearer.
    """
    if center:
        mean = train.mean(dim=0)
        train, queries = train - mean, queries - mean
    if metric == "cosine":
        train, queries = normalize(train, dim=1), normalize(queries, dim=1)
    squares = train.square().sum(dim=1)
    scale = squares.mean().clamp_min(torch.finfo(train.dtype).tiny)
    block = max(1, _BLOCK_ELEMENTS // max(1, len(train)))
    for start in range(0, len(queries), block):
        part = queries[start : start + block]
        near = part @ train.T
        if metric == "euclidean":
            near = (near - 0.5 * squares - 0.5 * part.square().sum(dim=1, keepdim=True)) / scale
        yield slice(start, start + len(part)), near


class KNN(Probe):
    """Classify each test sample by its nearest training samples.

    Equal similarities are resolved by the order of the training samples, and equal votes by the
    order of the labels, so the figure does not depend on block sizes or threads. Nothing is random.

    Args:
        k: neighbors that vote; all of them where there are fewer.
        temperature: T, of the votes' weights.
        metric: `cosine` or `euclidean`.
        center: subtract the mean of the training features from both sides.
    """

    name: ClassVar[str] = "knn"
    kinds = ("classify",)

    def __init__(
        self,
        *,
        k: int = 10,
        temperature: float = 0.07,
        metric: Metric = "cosine",
        center: bool = False,
    ) -> None:
        if k < 1:
            raise ValueError(
                f"got k={k}; allowed is 1 or more: 10 suits a few thousand samples, 200 a million"
            )
        if temperature <= 0:
            raise ValueError(
                f"got temperature={temperature}; allowed is above 0: 0.07 is the published value"
            )
        check_metric(metric)
        self.k, self.temperature, self.metric, self.center = k, temperature, metric, center

    @property
    def protocol(self) -> Protocol:
        """`knn/1` and all settings."""
        return Protocol.of(
            "knn",
            k=self.k,
            metric=self.metric,
            temperature=float(self.temperature),
            center=self.center,
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, with more than ten classes `top5`, and `mean_per_class`."""
        (x, names, members), (queries, labels) = learnable(train), labeled(test, "test")
        scores = x.new_zeros(len(queries), len(names))
        for rows, near in similarities(x, queries, metric=self.metric, center=self.center):
            scores[rows] = self._votes(near, members, len(names))
        for measure, value in classification(scores, names, labels):
            yield self.row(measure, value)

    def _votes(self, near: Tensor, members: Tensor, num_classes: int) -> Tensor:
        """`[B, N]` → `[B, C]`, relative to the strongest vote; `−inf` for classes that got none."""
        top = near.topk(min(self.k, near.shape[1]), dim=1)
        last = top.values[:, -1:]
        chosen = top.indices
        tied = ((near >= last).sum(dim=1) > chosen.shape[1]).nonzero()[:, 0]
        if len(tied):  # topk may pick any of the equal ones; a stable sort picks the first
            order = near[tied].sort(dim=1, descending=True, stable=True).indices
            chosen = chosen.clone()
            chosen[tied] = order[:, : chosen.shape[1]]
        return self.votes(near.gather(1, chosen), members[chosen], num_classes)

    def votes(self, values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
        """What neighbors vote for: similarities and classes `[B, k]` → `[B, C]`; see `_votes`."""
        weights = ((values - values[:, :1].amax(dim=1, keepdim=True)) / self.temperature).exp()
        ballots = torch.nn.functional.one_hot(classes, num_classes)
        votes = (weights.unsqueeze(1) @ ballots.to(weights.dtype)).squeeze(1)
        return votes.masked_fill(~ballots.any(dim=1), -torch.inf)


class KNNGrid(Probe, kind="knn_grid"):
    """kNN at every combination of settings.

    Args:
        k: neighbors that vote.
        temperature: of the votes' weights.
        metric: `cosine`, `euclidean`.
        center: subtract the mean of the training features from both sides.
    """

    name: ClassVar[str] = "knn"
    kinds = ("classify",)

    def __init__(
        self,
        *,
        k: Sequence[int] = (1, 2, 5, 10, 20, 50, 100, 200),
        temperature: Sequence[float] = (0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0),
        metric: Sequence[Metric] = ("cosine", "euclidean"),
        center: bool = False,
    ) -> None:
        if not (k and temperature and metric):
            raise ValueError(
                "got an empty k, temperature or metric; allowed is one value or more of each"
            )
        self.settings = [
            [KNN(k=a, temperature=t, metric=m, center=center) for a in k for t in temperature]
            for m in metric
        ]
        self.center = center

    @property
    def protocol(self) -> Protocol:
        """The protocol of the first combination; each row has its own."""
        return self.settings[0][0].protocol

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield for each setting `top1`, with more than ten classes `top5`, and `mean_per_class`."""
        (x, names, members), (queries, labels) = learnable(train), labeled(test, "test")
        for probes in self.settings:
            most = min(max(probe.k for probe in probes), len(x))
            values, chosen = _neighbors(x, queries, probes[0].metric, self.center, most)
            for probe in probes:
                scores = probe.votes(
                    values[:, : probe.k], members[chosen[:, : probe.k]], len(names)
                )
                for measure, value in classification(scores, names, labels):
                    yield probe.row(measure, value)


def _neighbors(
    x: Tensor, queries: Tensor, metric: Metric, center: bool, most: int
) -> tuple[Tensor, Tensor]:
    """Similarities and places of the nearest samples, nearest first; the first of equal ones first."""
    values, places = (
        x.new_empty(len(queries), most),
        torch.empty(len(queries), most, dtype=torch.int64, device=x.device),
    )
    for rows, near in similarities(x, queries, metric=metric, center=center):
        ordered = near.sort(dim=1, descending=True, stable=True)
        values[rows], places[rows] = ordered.values[:, :most], ordered.indices[:, :most]
    return values, places
