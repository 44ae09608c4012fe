"""Scores of a classifier: accuracy, top-5, and the mean over classes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mezzotint.types import Features

_TOP5_FROM = 11  # classes; with ten or fewer, five guesses say little


def labelled(features: Features, role: str) -> tuple[Tensor, Tensor]:
    """Features and labels, refused where there are none.

    Raises:
        ValueError: without labels or without samples.
    """
    if features.y is None:
        raise ValueError(f"the {role} features have no labels; this probe needs one a sample: pass Features(x, y)")
    if len(features.x) == 0 or len(features.x) != len(features.y):
        raise ValueError(
            f"got {len(features.x)} {role} features and {len(features.y)} labels; allowed is the same number, at "
            "least one: check the task's split"
        )
    return features.x, features.y


def classification(scores: Tensor, names: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """Yield `top1`, with more than ten classes `top5`, and `mean_per_class`.

    Args:
        scores: `[M, C]`; at equal scores the first class wins. `−inf` is never right.
        names: int64 `[C]`, the label that each column stands for.
        labels: int64 `[M]`; one that is not among `names` counts as wrong.
    """
    right = names[scores.argmax(dim=1)] == labels
    yield "top1", right.double().mean().item()
    if len(names) >= _TOP5_FROM:
        best = scores.topk(5, dim=1)
        among = (names[best.indices] == labels.unsqueeze(1)) & best.values.isfinite()
        yield "top5", among.any(dim=1).double().mean().item()
    classes, members = torch.unique(labels, return_inverse=True)
    counts = torch.bincount(members, minlength=len(classes))
    hits = torch.bincount(members, weights=right.double(), minlength=len(classes))
    yield "mean_per_class", (hits / counts).mean().item()
