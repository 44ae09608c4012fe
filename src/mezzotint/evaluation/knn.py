"""k nearest neighbors with weighted votes (Wu et al. 2018, arXiv 1805.01978, section 3.4).

Each of the k nearest training samples votes for its class with weight `exp(similarity / T)`. k, T,
the metric and centering all change the result by several points, so they are part of every row's
protocol. Differs from the paper in the default k, which is 200 there, for ImageNet, and 10 here,
for thousands of samples instead of a million.

`KNNGrid` is kNN over a grid of settings, as solo-learn reports it. The neighbors are found once per
metric, for the largest k; every other setting is a vote among them. Each setting has rows of its
own: choosing the best on the test samples is not this library's to do.

Centering subtracts the mean of the training features from both sides before the cosine; it uses no
label and nothing of the test set. It is off by default, as in the published protocols: it helps
trained encoders a little and harms untrained ones (`docs/evaluation.md`), so leaving it out favors
the baselines. Whitening (`whiten`) does more: it makes all directions of the training features vary
about alike, see `evaluation.features.Whitening`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.evaluation.features import WHITEN, Whitening
from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.types import Features

Metric = Literal["cosine", "euclidean"]

_BLOCK_ELEMENTS = 1 << 24  # similarities in memory at a time: 64 MB


def check_similarity(metric: str, whiten: float | None) -> None:
    """Raise a ValueError for an unknown metric, or for shrinkage that is not positive."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(
            f"`metric` must be cosine or euclidean, got {metric!r}. Choose one of them."
        )
    if whiten is not None and not (whiten > 0.0 and math.isfinite(whiten)):
        raise ValueError(f"`whiten` must be a positive number, got {whiten}. Try {WHITEN}.")


def similarities(
    train: Tensor,
    queries: Tensor,
    *,
    metric: Metric,
    center: bool,
    whiten: float | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the similarity matrix in blocks of queries.

    Args:
        train: `[N, D]`.
        queries: `[M, D]`.
        metric: `cosine`, or `euclidean`: `−‖a − b‖² / 2s²` with `s²` the mean squared norm of the
            (centered) training features. For features of unit norm this is the cosine minus one, so
            temperatures keep their meaning.
        center: whether to subtract the mean of `train` from both.
        whiten: shrinkage of a whitening that is fitted to `train`; `None` for none.

    Yields:
        The rows of `queries` in the block, and their similarities `[B, N]`; larger is nearer.
    """
    if whiten is not None:
        whitening = Whitening.fit(train, whiten)
        train, queries = whitening(train), whitening(queries)
    elif center:
        mean = train.mean(dim=0)
        train, queries = train - mean, queries - mean
    if metric == "cosine":
        train, queries = normalize(train, dim=1), normalize(queries, dim=1)
    squares = train.square().sum(dim=1)
    # Features that are all zero have no scale; their distances are zero in any.
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

    Ties between similarities are resolved by the order of the training samples, ties between votes
    by the order of the labels, so the result does not depend on block sizes or threads. Nothing is
    random.

    Args:
        k: number of neighbors that vote; all where there are fewer.
        temperature: temperature T of the votes' weights.
        metric: `cosine` or `euclidean`.
        center: subtract the mean of the training features from both sides.
        whiten: whiten both sides by the training features, with this shrinkage (1 is a good
            one); `None` for not at all.
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
        whiten: float | None = None,
    ) -> None:
        if k < 1:
            raise ValueError(
                f"`k` must be 1 or more, got {k}. 10 suits a few thousand samples, 200 a million."
            )
        if temperature <= 0:
            raise ValueError(
                f"`temperature` must be positive, got {temperature}. 0.07 is the published value."
            )
        check_similarity(metric, whiten)
        self.k, self.temperature, self.metric = k, temperature, metric
        self.center, self.whiten = center, whiten

    @property
    def protocol(self) -> Protocol:
        """`knn/1` and all settings."""
        return Protocol.of(
            "knn",
            k=self.k,
            metric=self.metric,
            temperature=float(self.temperature),
            center=self.center,
            whiten=self.whiten,
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, with more than ten classes `top5`, and `mean_per_class`."""
        (x, names, members), (queries, labels) = learnable(train), labeled(test, "test")
        scores = x.new_zeros(len(queries), len(names))
        for rows, near in self.similarities(x, queries):
            scores[rows] = self._votes(near, members, len(names))
        for measure, value in classification(scores, names, labels):
            yield self.row(measure, value)

    def similarities(self, train: Tensor, queries: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the similarity matrix in blocks of queries; see the function of this name."""
        return similarities(
            train, queries, metric=self.metric, center=self.center, whiten=self.whiten
        )

    def _votes(self, near: Tensor, members: Tensor, num_classes: int) -> Tensor:
        """`[B, N]` → `[B, C]`, relative to the first neighbor; `−inf` for classes with no vote."""
        top = near.topk(min(self.k, near.shape[1]), dim=1)
        last = top.values[:, -1:]
        chosen = top.indices
        tied = ((near >= last).sum(dim=1) > chosen.shape[1]).nonzero()[:, 0]
        if len(tied):  # topk may pick any of several ties; a stable sort picks the first
            order = near[tied].sort(dim=1, descending=True, stable=True).indices
            chosen = chosen.clone()
            chosen[tied] = order[:, : chosen.shape[1]]
        return self.votes(near.gather(1, chosen), members[chosen], num_classes)

    def votes(self, values: Tensor, classes: Tensor, num_classes: int) -> Tensor:
        """Sum the neighbors' votes: similarities and classes `[B, k]` → `[B, C]`; see `_votes`."""
        # Relative to the nearest: exp(1 / T) overflows in float32 for small T, and votes only
        # compare.
        weights = ((values - values[:, :1].amax(dim=1, keepdim=True)) / self.temperature).exp()
        ballots = torch.nn.functional.one_hot(classes, num_classes)
        votes = (weights.unsqueeze(1) @ ballots.to(weights.dtype)).squeeze(1)
        return votes.masked_fill(~ballots.any(dim=1), -torch.inf)


class KNNGrid(Probe, kind="knn_grid"):
    """Run kNN at every combination of settings.

    Args:
        k: numbers of neighbors that vote.
        temperature: temperatures of the votes' weights.
        metric: `cosine`, `euclidean`, or both.
        center: subtract the mean of the training features from both sides.
        whiten: whiten both sides by the training features, with this shrinkage (1 is a good
            one); `None` for not at all.
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
        whiten: float | None = None,
    ) -> None:
        if not (k and temperature and metric):
            raise ValueError(
                "`k`, `temperature` and `metric` must have one value or more each, got an empty "
                "list. Leave it out for the defaults."
            )
        self.settings = [
            [
                KNN(k=a, temperature=t, metric=m, center=center, whiten=whiten)
                for a in k
                for t in temperature
            ]
            for m in metric
        ]

    @property
    def protocol(self) -> Protocol:
        """The protocol of the first combination; each row has its own."""
        return self.settings[0][0].protocol

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield for each setting `top1`, from eleven classes on `top5`, and `mean_per_class`."""
        (x, names, members), (queries, labels) = learnable(train), labeled(test, "test")
        for probes in self.settings:
            largest = min(max(probe.k for probe in probes), len(x))
            values, chosen = _neighbors(x, queries, probes[0], largest)
            for probe in probes:
                scores = probe.votes(
                    values[:, : probe.k], members[chosen[:, : probe.k]], len(names)
                )
                for measure, value in classification(scores, names, labels):
                    yield probe.row(measure, value)


def _neighbors(x: Tensor, queries: Tensor, probe: KNN, k: int) -> tuple[Tensor, Tensor]:
    """Return similarities and indices `[M, k]` of the nearest samples, nearest first."""
    values = x.new_empty(len(queries), k)
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=x.device)
    for rows, near in probe.similarities(x, queries):
        ordered = near.sort(dim=1, descending=True, stable=True)
        values[rows], indices[rows] = ordered.values[:, :k], ordered.indices[:, :k]
    return values, indices
