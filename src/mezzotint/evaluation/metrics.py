"""Scores of a classifier: accuracy, top-5, the mean over classes; with several labels mean average precision."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mezzotint.types import Features

_TOP5_FROM = 11  # classes; with ten or fewer, five guesses say little


class Share(float):
    """The share of samples that are right, which keeps what it is the share of.

    Two figures of the same samples differ by far less than two of different ones, which only these
    samples can tell.

    Attributes:
        hits: bool `[M]`, which samples are right.
    """

    hits: Tensor

    def __new__(cls, hits: Tensor) -> "Share":
        """The mean of `hits`."""
        share = super().__new__(cls, hits.double().mean().item())
        share.hits = hits
        return share

    def __getnewargs__(self) -> tuple[Tensor]:  # type: ignore[override]
        """What copies and pickles are made from."""
        return (self.hits,)


def labeled(features: Features, role: str) -> tuple[Tensor, Tensor]:
    """Features and labels, refused where there are none.

    Raises:
        ValueError: without labels or without samples.
    """
    if features.y is None:
        raise ValueError(
            f"the {role} features have no labels; this probe needs one a sample: pass Features(x, y)"
        )
    if len(features.x) == 0 or len(features.x) != len(features.y):
        raise ValueError(
            f"got {len(features.x)} {role} features and {len(features.y)} labels; allowed is the same number, at "
            "least one: check the task's split"
        )
    return features.x, features.y


def learnable(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """What a classifier is fitted to: features, the names of its columns, and where among these each label is.

    Returns:
        `[N, D]`, int64 `[C]` and int64 `[N]`; of samples with several labels, bool `[N, C]` instead
        of the last.

    Raises:
        ValueError: without labels or samples, or for features that are not finite.
    """
    x, labels = labeled(features, "training")
    if not bool(x.isfinite().all()):
        raise ValueError(
            "got training features that are NaN or infinite; allowed are finite ones: was training?"
        )
    if labels.ndim != 1:
        return x, torch.arange(labels.shape[1]), labels
    names, y = torch.unique(labels, return_inverse=True)
    return x, names, y


def classification(scores: Tensor, names: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield `top1` (a `Share`), of eleven classes or more `top5`, `mean_per_class`; of several labels `map` and `auc`.

    Args:
        scores: `[M, C]`; at equal scores the first class wins. `−inf` is never right.
        names: int64 `[C]`, the label that each column stands for.
        labels: int64 `[M]`; one that is not among `names` counts as wrong. Or bool `[M, C]`, where
            a sample has any number of labels.
    """
    if labels.ndim == 2:
        known = [c for c in range(labels.shape[1]) if labels[:, c].any() and not labels[:, c].all()]
        by_class = [ranking(scores[:, c], labels[:, c]) for c in known]
        yield "map", sum(precision for precision, _ in by_class) / max(1, len(known))
        yield "auc", sum(area for _, area in by_class) / max(1, len(known))
        return
    right = names[scores.argmax(dim=1)] == labels
    yield "top1", Share(right)
    if len(names) >= _TOP5_FROM:
        best = scores.topk(5, dim=1)
        among = (names[best.indices] == labels.unsqueeze(1)) & best.values.isfinite()
        yield "top5", among.any(dim=1).double().mean().item()
    classes, members = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(members, minlength=len(classes))
    hits = torch.bincount(members, weights=right.double(), minlength=len(classes))
    yield "mean_per_class", (hits / counts).mean().item()


def ranking(scores: Tensor, hits: Tensor) -> tuple[float, float]:
    """How well scores put hits first: average precision, and the area under the receiver operating characteristic.

    Average precision is the sum of precisions at each step of recall, weighted by the step, without
    interpolation. Equal scores are one step. The area is the share of pairs of a hit and a miss in
    the right order, ties as a half.

    Args:
        scores: `[M]`.
        hits: bool `[M]`, some true and some false.
    """
    order = scores.argsort(descending=True)
    ordered, found = scores[order], hits[order].double()
    ends = torch.cat(
        [ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=scores.device)]
    )
    right = found.cumsum(0)[ends]
    seen = torch.arange(1, len(scores) + 1, device=scores.device)[ends].double()
    gained = torch.diff(right, prepend=right.new_zeros(1))
    precision = (gained * right / seen).sum() / right[-1]
    wrong = seen - right
    passed = torch.diff(wrong, prepend=wrong.new_zeros(1))
    area = (passed * (right - gained / 2)).sum() / (right[-1] * wrong[-1])
    return precision.item(), area.item()
