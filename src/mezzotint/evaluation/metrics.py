"""Metrics of a classifier: accuracy, top-5, mean over classes; mean average precision of tags."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mezzotint.types import Features

_TOP5_FROM = 11  # classes; with ten or fewer, five predictions say little


class Accuracy(float):
    """The fraction of samples that are classified correctly, together with which ones.

    Two accuracies on the same samples differ by far less than two on different samples; only the
    samples themselves can show it.

    Attributes:
        correct: bool `[M]`, samples that are classified correctly.
    """

    correct: Tensor

    def __new__(cls, correct: Tensor) -> "Accuracy":
        """Take the mean of `correct`."""
        accuracy = super().__new__(cls, correct.double().mean().item())
        accuracy.correct = correct
        return accuracy

    def __getnewargs__(self) -> tuple[Tensor]:  # type: ignore[override]
        """Copies and pickles are made from `correct`."""
        return (self.correct,)


def labeled(features: Features, role: str, *, padded: bool = False) -> tuple[Tensor, Tensor]:
    """Return features and labels.

    Args:
        features: features with labels.
        role: what they are for, `"training"` or `"test"`, used in messages.
        padded: whether NaN marks padding, as in patch tokens.

    Raises:
        ValueError: without labels or samples, or for features that are not finite.
    """
    if features.y is None:
        raise ValueError(
            f"The {role} features have no labels; this probe needs one per sample. Pass "
            "Features(x, y)."
        )
    if len(features.x) == 0 or len(features.x) != len(features.y):
        raise ValueError(
            f"A probe needs one label per sample and at least one sample, got {len(features.x)} "
            f"{role} features and {len(features.y)} labels. Check the task's split."
        )
    if not padded:
        require_finite(features.x, role)
    return features.x, features.y


def require_finite(x: Tensor, role: str) -> None:
    """Raise a ValueError for features that are NaN or infinite."""
    if not bool(x.isfinite().all()):
        raise ValueError(f"{role.capitalize()} features contain NaN or inf. Did training diverge?")


def learnable(features: Features, *, padded: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Return features to fit a classifier to, the labels of its columns, and each sample's column.

    Args:
        features: training features with labels.
        padded: whether NaN marks padding, as in patch tokens.

    Returns:
        `[N, D]`, int64 `[C]` and int64 `[N]`; for tags, bool `[N, C]` instead of the last.

    Raises:
        ValueError: without labels or samples, for features that are not finite, or one class alone.
    """
    x, labels = labeled(features, "training", padded=padded)
    if labels.ndim != 1:
        return x, torch.arange(labels.shape[1]), labels
    names, y = torch.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"A probe needs two classes or more, but all {len(x)} training samples have one. Check "
            "the task's labels."
        )
    return x, names, y


def classification(scores: Tensor, names: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield `top1` (an `Accuracy`), from eleven classes on `top5`, and `mean_per_class`.

    For tags `map` and `auc` instead.

    Args:
        scores: `[M, C]`; among equal scores the first class wins. `−inf` is never correct.
        names: int64 `[C]`, the label of each column.
        labels: int64 `[M]`; one that is not among `names` counts as an error. For tags, bool
            `[M, C]`.
    """
    if labels.ndim == 2:
        # Average precision of a tag that no test sample has, or all have, is not defined.
        known = [c for c in range(labels.shape[1]) if labels[:, c].any() and not labels[:, c].all()]
        by_class = [ranking(scores[:, c], labels[:, c]) for c in known]
        yield "map", sum(precision for precision, _ in by_class) / max(1, len(known))
        yield "auc", sum(area for _, area in by_class) / max(1, len(known))
        return
    correct = names[scores.argmax(dim=1)] == labels
    yield "top1", Accuracy(correct)
    if len(names) >= _TOP5_FROM:
        best = scores.topk(5, dim=1)
        # A class without any vote has −inf, and must not be correct by filling the five.
        among = (names[best.indices] == labels.unsqueeze(1)) & best.values.isfinite()
        yield "top5", among.any(dim=1).double().mean().item()
    classes, members = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(members, minlength=len(classes))
    hits = torch.bincount(members, weights=correct.double(), minlength=len(classes))
    yield "mean_per_class", (hits / counts).mean().item()


def ranking(scores: Tensor, hits: Tensor) -> tuple[float, float]:
    """Return average precision, and the area under the receiver operating characteristic.

    Average precision is the sum of precisions at each step of recall, weighted by the step, without
    interpolation; equal scores are one step. The area is the fraction of pairs of a hit and a miss
    in the right order, ties as a half.

    Args:
        scores: `[M]`.
        hits: bool `[M]`, some true and some false.
    """
    order = scores.argsort(descending=True)
    ordered, relevant = scores[order], hits[order].double()
    # Equal scores have no order, so precision is read only at the last of them.
    ends = torch.cat(
        [ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool, device=scores.device)]
    )
    true_positives = relevant.cumsum(0)[ends]
    retrieved = torch.arange(1, len(scores) + 1, device=scores.device)[ends].double()
    step = torch.diff(true_positives, prepend=true_positives.new_zeros(1))
    precision = (step * true_positives / retrieved).sum() / true_positives[-1]
    false_positives = retrieved - true_positives
    misses = torch.diff(false_positives, prepend=false_positives.new_zeros(1))
    area = (misses * (true_positives - step / 2)).sum() / (true_positives[-1] * false_positives[-1])
    return precision.item(), area.item()
