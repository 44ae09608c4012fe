"""Average precision as COCO measures it (Lin et al. 2014, arXiv 1405.0312, and its evaluation server), and mean IoU.

Detections of a class are matched to the objects of their image in order of their scores, each with
the free object that it overlaps most, if by enough. Precision, made monotone, is read at 101
recalls; AP is the mean over ten IoUs from 0.5 to 0.95 and over the classes that have objects.
Ignored objects are not asked for, and what matches only them is left out. At most 100 detections of
a class count in an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.detection.source import VOID, DetectionSample

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST = 100
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """What a detector found in one image.

    Attributes:
        boxes: `[n, 4]`: left, top, right, bottom.
        scores: `[n]`.
        labels: int64 `[n]`, from 0.
        masks: bool `[n, H, W]`, where there are any.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def average_precision(
    found: Sequence[Found],
    scenes: Sequence[DetectionSample],
    num_classes: int,
    *,
    masks: bool = False,
) -> dict[str, float]:
    """`AP`, `AP50` and `AP75` as fractions, means over classes; NaN where there is nothing to find.

    Args:
        found: an entry for each scene.
        scenes: with the objects to be found.
        num_classes: how many labels there are.
        masks: measure overlap of masks instead of boxes.
    """
    return mean_precision(precision_by_class(found, scenes, num_classes, masks=masks))


def mean_precision(table: Floats) -> dict[str, float]:
    """`AP`, `AP50` and `AP75` over the classes that have objects, of what `precision_by_class` returns."""
    known = table[~np.isnan(table[:, 0])]
    return named(known.mean(axis=0) if len(known) else np.full(len(THRESHOLDS), np.nan))


def named(precisions: Floats) -> dict[str, float]:
    """`AP`, `AP50` and `AP75` of the precisions at all thresholds, float64 `[10]`."""
    return {
        "AP": float(precisions.mean()),
        "AP50": float(precisions[0]),
        "AP75": float(precisions[5]),
    }


def precision_by_class(
    found: Sequence[Found],
    scenes: Sequence[DetectionSample],
    num_classes: int,
    *,
    masks: bool = False,
) -> Floats:
    """The precision of each class at each threshold, float64 `[num_classes, 10]`; NaN for a class without objects.

    Args:
        found: see `average_precision`.
        scenes: see `average_precision`.
        num_classes: see `average_precision`.
        masks: see `average_precision`.
    """
    table = np.full((num_classes, len(THRESHOLDS)), np.nan)
    for label in range(num_classes):
        parts = [_matched(f, s, label, masks) for f, s in zip(found, scenes, strict=True)]
        wanted = sum(part[3] for part in parts)
        if wanted:
            scores = np.concatenate([part[0] for part in parts])
            right = np.concatenate([part[1] for part in parts], axis=1)
            left_out = np.concatenate([part[2] for part in parts], axis=1)
            table[label] = _precisions(scores, right, left_out, wanted)
    return table


def _matched(
    found: Found, scene: DetectionSample, label: int, masks: bool
) -> tuple[Floats, Bools, Bools, int]:
    """Of one image and class: scores; by threshold, which are right and which are left out; how many are wanted."""
    chosen = (found.labels == label).nonzero()[:, 0]
    order = torch.from_numpy(np.argsort(-found.scores[chosen].numpy(), kind="stable")[:_MOST])
    chosen = chosen[order]
    there = (scene.labels == label).nonzero()[:, 0]
    # Wanted objects first: an ignored one is matched only where no wanted one can be.
    there = there[torch.argsort(scene.ignored[there].int(), stable=True)]
    ignored = scene.ignored[there].numpy()
    if masks:
        assert found.masks is not None and scene.masks is not None
        overlap = mask_overlaps(found.masks[chosen], scene.masks[there], scene.crowd[there])
    else:
        overlap = box_overlaps(found.boxes[chosen], scene.boxes[there], scene.crowd[there])
    table = overlap.numpy()
    right = np.zeros((len(THRESHOLDS), len(chosen)), np.bool_)
    left_out = np.zeros_like(right)
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(there), np.bool_)
        for place in range(len(chosen)):
            best = _best(table[place], min(threshold, 1 - 1e-10), taken, ignored)
            if best is not None:
                taken[best] = not ignored[best]  # any number may fall on an ignored one
                right[row, place], left_out[row, place] = not ignored[best], ignored[best]
    return found.scores[chosen].double().numpy(), right, left_out, int((~ignored).sum())


def _best(overlaps: Floats, least: float, taken: Bools, ignored: Bools) -> int | None:
    """The free object with the largest overlap, the last of equal ones; an ignored one only where there is no other."""
    for wanted in (True, False):
        able = [
            i
            for i in range(len(overlaps))
            if ignored[i] != wanted and not taken[i] and overlaps[i] >= least
        ]
        if able:
            return max(able, key=lambda i: (overlaps[i], i))
    return None


def _precisions(scores: Floats, right: Bools, left_out: Bools, wanted: int) -> Floats:
    """The mean precision over recalls, by threshold."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[:, order], axis=1)
    misses = np.cumsum(~right[:, order] & ~left_out[:, order], axis=1)
    means = np.zeros(len(THRESHOLDS))
    for row in range(len(THRESHOLDS)):
        precision = hits[row] / np.maximum(hits[row] + misses[row], 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(hits[row] / wanted, _RECALLS, side="left")
        means[row] = sum(precision[p] for p in places if p < len(precision)) / len(_RECALLS)
    return means


def box_overlaps(a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    """IoU of boxes `[n, 4]` and `[m, 4]`, float64 `[n, m]`; of a crowd, the share of the first that lies in it."""
    a, b = a.double(), b.double()
    sides = (
        torch.minimum(a[:, None, 2:], b[None, :, 2:])
        - torch.maximum(a[:, None, :2], b[None, :, :2])
    ).clamp_min(0)
    return _ratio(
        sides.prod(2), (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1), crowd
    )


def mask_overlaps(a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    """IoU of masks `[n, H, W]` and `[m, H, W]`; see `box_overlaps`."""
    first, second = a.flatten(1).float(), b.flatten(1).float()
    return _ratio((first @ second.T).double(), first.sum(1).double(), second.sum(1).double(), crowd)


def _ratio(both: Tensor, a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    union = torch.where(crowd[None, :], a[:, None].expand_as(both), a[:, None] + b[None, :] - both)
    return torch.where(union > 0, both / union, torch.zeros_like(both))


class MeanIoU:
    """Intersection over union of each class over all pixels of all images, and their mean.

    Args:
        num_classes: the background, which counts, included.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predicted: Tensor, wanted: Tensor) -> None:
        """Count one image: int `[H, W]` each; pixels whose wanted class is `VOID` are left out."""
        size = len(self.counts)
        known = wanted != VOID
        places = wanted[known].long() * size + predicted[known].long()
        self.counts += torch.bincount(places, minlength=size * size).view(size, size)

    def by_class(self) -> Tensor:
        """float64 `[num_classes]`; NaN for a class that is neither there nor named."""
        right = self.counts.diagonal().double()
        return right / (self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal())

    def mean(self) -> float:
        """The mean over classes that are there or were named."""
        return float(self.by_class().nanmean())
