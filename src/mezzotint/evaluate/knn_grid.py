"""kNN over a grid of its settings, as solo-learn reports it: k × temperature × metric, in one pass over the neighbours.

The nearest samples are found once a metric, for the largest k; every other setting is a vote among them. Nothing is
chosen: each setting gives rows of its own, whose protocol is that of `knn`. Choosing the best of them on the test
samples is not this library's to do.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.evaluate.evaluator import Probe, Row
from mezzotint.evaluate.knn import KNN
from mezzotint.evaluate.neighbours import Metric, similarities
from mezzotint.evaluate.scores import classification, labelled
from mezzotint.types import Features


class KNNGrid(Probe):
    """kNN at every combination of settings.

    Args:
        k: neighbours that vote.
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
            raise ValueError("got an empty k, temperature or metric; allowed is one value or more of each")
        self.settings = [
            [KNN(k=a, temperature=t, metric=m, center=center) for a in k for t in temperature] for m in metric
        ]
        self.center = center

    @property
    def protocol(self) -> str:
        """Of the first setting; each row carries its own."""
        return self.settings[0][0].protocol

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield for each setting `top1`, with more than ten classes `top5`, and `mean_per_class`."""
        (x, y), (queries, labels) = labelled(train, "training"), labelled(test, "test")
        names, members = torch.unique(y, return_inverse=True)
        for probes in self.settings:
            most = min(max(probe.k for probe in probes), len(x))
            values, chosen = _neighbours(x, queries, probes[0].metric, self.center, most)
            for probe in probes:
                scores = probe.votes(values[:, : probe.k], members[chosen[:, : probe.k]], len(names))
                for measure, value in classification(scores, names, labels):
                    yield probe.row(measure, value)


def _neighbours(x: Tensor, queries: Tensor, metric: Metric, center: bool, most: int) -> tuple[Tensor, Tensor]:
    """Similarities and places of the nearest samples, nearest first; the first of equal ones first."""
    values, places = (
        x.new_empty(len(queries), most),
        torch.empty(len(queries), most, dtype=torch.int64, device=x.device),
    )
    for rows, near in similarities(x, queries, metric=metric, center=center):
        ordered = near.sort(dim=1, descending=True, stable=True)
        values[rows], places[rows] = ordered.values[:, :most], ordered.indices[:, :most]
    return values, places
