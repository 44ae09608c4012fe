"""k nearest neighbours with weighted votes (Wu et al. 2018, arXiv 1805.01978, section 3.4).

Each of the k nearest training samples votes for its class with weight `exp(similarity / T)`. k, T, the metric and
centring all move the figure by several points, so they stand in the protocol of every row. Differs from the published
protocol in the default k, which is 200 there, for ImageNet, and 10 here, for thousands of samples instead of a million.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.evaluate.evaluator import Probe, Row
from mezzotint.evaluate.neighbours import Metric, check_metric, similarities
from mezzotint.evaluate.scores import classification, labelled
from mezzotint.types import Features


class KNN(Probe):
    """Classify each test sample by its nearest training samples.

    Equal similarities are resolved by the order of the training samples, and equal votes by the order of the labels,
    so the figure does not depend on block sizes or threads. Nothing is random.

    Args:
        k: neighbours that vote; all of them where there are fewer.
        temperature: T, of the votes' weights.
        metric: `cosine` or `euclidean`.
        center: subtract the mean of the training features from both sides.
    """

    name: ClassVar[str] = "knn"
    kinds = ("classify",)

    def __init__(
        self, *, k: int = 10, temperature: float = 0.07, metric: Metric = "cosine", center: bool = False
    ) -> None:
        if k < 1:
            raise ValueError(f"got k={k}; allowed is 1 or more: 10 suits a few thousand samples, 200 a million")
        if temperature <= 0:
            raise ValueError(f"got temperature={temperature}; allowed is above 0: 0.07 is the published value")
        check_metric(metric)
        self.k, self.temperature, self.metric, self.center = k, temperature, metric, center

    @property
    def protocol(self) -> str:
        """`knn/1` and all settings."""
        return f"knn/1 k={self.k} metric={self.metric} temperature={self.temperature:g} center={self.center}"

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, with more than ten classes `top5`, and `mean_per_class`."""
        (x, y), (queries, labels) = labelled(train, "training"), labelled(test, "test")
        names, members = torch.unique(y, return_inverse=True)
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
        """What neighbours vote for: similarities and classes `[B, k]` → `[B, C]`; see `_votes`."""
        weights = ((values - values[:, :1].amax(dim=1, keepdim=True)) / self.temperature).exp()
        ballots = torch.nn.functional.one_hot(classes, num_classes)
        votes = (weights.unsqueeze(1) @ ballots.to(weights.dtype)).squeeze(1)
        return votes.masked_fill(~ballots.any(dim=1), -torch.inf)
