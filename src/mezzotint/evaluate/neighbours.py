"""Similarities between two sets of features, a block of queries at a time, for kNN and retrieval.

Centring subtracts the mean of the training features from both sides before the cosine; it uses no label and nothing of
the test set. It is off by default, as in the published protocols: `docs/evaluation.md` shows that it helps trained
encoders a little and harms untrained ones, so leaving it out is the choice that favours the baselines.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Metric = Literal["cosine", "euclidean"]

_BLOCK_ELEMENTS = 1 << 24  # of similarities held at once: 64 MB


def check_metric(metric: str) -> None:
    """Refuse an unknown metric."""
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"got metric={metric!r}; allowed is cosine or euclidean: choose one of them")


def similarities(train: Tensor, queries: Tensor, *, metric: Metric, center: bool) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of the similarity matrix.

    Args:
        train: `[N, D]`.
        queries: `[M, D]`.
        metric: `cosine`, or `euclidean`: `−‖a − b‖² / 2s²` with `s²` the mean squared norm of the (centred) training
            features, which for features of unit norm is the cosine less one, so that temperatures keep their meaning.
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
