"""Retrieval: whether each query finds the sample with its own label in the gallery.

The gallery is the task's training samples, the queries are its test samples; nothing is learned.
Labels are identities, so most often exactly one sample is relevant; where there are several,
average precision counts them all.

Ties count as errors: an irrelevant sample that is exactly as similar as a relevant one ranks before
it. A collapsed encoder, whose features are all equal, therefore finds nothing.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mezzotint.evaluation.knn import Metric, check_similarity, similarities
from mezzotint.evaluation.metrics import Accuracy, labeled
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.types import Features

Center = Literal["none", "gallery", "each"]


class Retrieval(Probe):
    """Rank the gallery by similarity for each query.

    Args:
        metric: `cosine` or `euclidean`.
        center: `none`; `gallery` subtracts the gallery's mean from both sides; `each` subtracts
            their own mean from the queries instead, which removes a constant difference between two
            domains without labels, but needs all queries at once.
        whiten: whiten both sides by the gallery, with this shrinkage (1 is a good one); `None`
            for not at all.
    """

    name: ClassVar[str] = "retrieval"
    kinds = ("retrieve",)

    def __init__(
        self,
        *,
        metric: Metric = "cosine",
        center: Center = "none",
        whiten: float | None = None,
    ) -> None:
        check_similarity(metric, whiten)
        if center not in ("none", "gallery", "each"):
            raise ValueError(
                f"`center` must be none, gallery or each, got {center!r}. Choose one of them."
            )
        self.metric, self.center, self.whiten = metric, center, whiten

    @property
    def protocol(self) -> Protocol:
        """`retrieval/1` and all settings."""
        return Protocol.of(
            "retrieval", metric=self.metric, center=self.center, ties="last", whiten=self.whiten
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, `top5`, `map` (mean average precision) and `median_rank`.

        The rank is the rank of the first relevant sample, from 1. Queries whose label is not in the
        gallery are skipped.

        Raises:
            ValueError: when no query's label is in the gallery.
        """
        (gallery, names), (queries, labels) = labeled(train, "gallery"), labeled(test, "query")
        known = torch.isin(labels, names)
        if not known.any():
            raise ValueError(
                f"None of the {len(labels)} queries has its label in the gallery. Check the task's "
                "labels."
            )
        queries, labels = queries[known], labels[known]
        if self.center == "each":
            queries, gallery = queries - queries.mean(dim=0), gallery - gallery.mean(dim=0)
        ranks, precisions = [], []
        for rows, near in similarities(
            gallery,
            queries,
            metric=self.metric,
            center=self.center == "gallery",
            whiten=self.whiten,
        ):
            first, precision = ranked(near, labels[rows].unsqueeze(1) == names)
            ranks.append(first)
            precisions.append(precision)
        rank, precision = torch.cat(ranks), torch.cat(precisions)
        yield self.row("top1", Accuracy(rank <= 1))
        yield self.row("top5", (rank <= 5).double().mean().item())
        yield self.row("map", precision.mean().item())
        yield self.row("median_rank", rank.double().quantile(0.5).item())


def ranked(near: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rank of the first relevant sample, and average precision.

    Args:
        near: similarities `[B, N]`.
        relevant: bool `[B, N]`, with at least one in each row.

    Returns:
        int64 `[B]` from 1, and float64 `[B]`.
    """
    # Two stable sorts: irrelevant ones first, then by similarity, so that among equals they stay
    # first.
    order = relevant.to(torch.uint8).sort(dim=1, stable=True).indices
    order = order.gather(1, near.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
    hits = relevant.gather(1, order).double()
    positions = torch.arange(1, near.shape[1] + 1, device=near.device)
    precision = (hits * hits.cumsum(dim=1) / positions).sum(dim=1) / hits.sum(dim=1)
    return hits.argmax(dim=1) + 1, precision
