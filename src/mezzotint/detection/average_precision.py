"""Average precision as COCO computes it, and mean IoU.

(Lin et al. 2014, arXiv 1405.0312, and the evaluation server of COCO.)

Detections of a class are matched to the objects of their image in order of their scores, each with
the unmatched object that it overlaps most, if the IoU reaches the threshold. Precision, made
monotone, is read at 101 recalls; AP is the mean over ten IoU thresholds from 0.5 to 0.95 and over
the classes that have objects. Ignored objects do not count as misses, and detections that match
only them are left out. At most 100 detections of a class count per image.
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
_MAX_DETECTIONS = 100
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Detections:
    """Objects that a detector found in one image.

    Attributes:
        boxes: `[n, 4]`: left, top, right, bottom.
        scores: `[n]`.
        labels: int64 `[n]`, from 0.
        masks: bool `[n, H, W]`, if the detector predicts masks.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None


def average_precision(
    detections: Sequence[Detections],
    samples: Sequence[DetectionSample],
    num_classes: int,
    *,
    masks: bool = False,
) -> dict[str, float]:
    """Compute `AP`, `AP50` and `AP75` as means over classes; NaN if there are no objects.

    Args:
        detections: detections of each sample.
        samples: samples with their annotated objects.
        num_classes: number of labels.
        masks: compare masks instead of boxes.
    """
    return mean_precision(precision_by_class(detections, samples, num_classes, masks=masks))


def mean_precision(table: Floats) -> dict[str, float]:
    """Average a table of `precision_by_class` over the classes that have objects."""
    known = table[~np.isnan(table[:, 0])]
    return named(known.mean(axis=0) if len(known) else np.full(len(THRESHOLDS), np.nan))


def named(precisions: Floats) -> dict[str, float]:
    """Name the precisions at all thresholds, float64 `[10]`: `AP`, `AP50` and `AP75`."""
    return {
        "AP": float(precisions.mean()),
        "AP50": float(precisions[0]),
        "AP75": float(precisions[5]),
    }


def precision_by_class(
    detections: Sequence[Detections],
    samples: Sequence[DetectionSample],
    num_classes: int,
    *,
    masks: bool = False,
) -> Floats:
    """Compute the precision of each class at each threshold, float64 `[num_classes, 10]`.

    Classes without objects have NaN.

    Args:
        detections: see `average_precision`.
        samples: see `average_precision`.
        num_classes: see `average_precision`.
        masks: see `average_precision`.
    """
    table = np.full((num_classes, len(THRESHOLDS)), np.nan)
    for label in range(num_classes):
        parts = [_matched(f, s, label, masks) for f, s in zip(detections, samples, strict=True)]
        objects = sum(part[3] for part in parts)
        if objects:
            scores = np.concatenate([part[0] for part in parts])
            correct = np.concatenate([part[1] for part in parts], axis=1)
            left_out = np.concatenate([part[2] for part in parts], axis=1)
            table[label] = _precisions(scores, correct, left_out, objects)
    return table


def _matched(
    found: Detections, sample: DetectionSample, label: int, masks: bool
) -> tuple[Floats, Bools, Bools, int]:
    """Match the detections of one class in one image.

    Returns:
        Scores; by threshold, which detections are correct and which are left out; and the number of
        objects that count.
    """
    chosen = (found.labels == label).nonzero()[:, 0]
    order = torch.from_numpy(
        np.argsort(-found.scores[chosen].numpy(), kind="stable")[:_MAX_DETECTIONS]
    )
    chosen = chosen[order]
    objects = (sample.labels == label).nonzero()[:, 0]
    # Ignored objects come last: one is matched only if no other object can be.
    objects = objects[torch.argsort(sample.ignored[objects].int(), stable=True)]
    ignored = sample.ignored[objects].numpy()
    if masks:
        assert found.masks is not None and sample.masks is not None
        overlap = mask_overlaps(found.masks[chosen], sample.masks[objects], sample.crowd[objects])
    else:
        overlap = box_overlaps(found.boxes[chosen], sample.boxes[objects], sample.crowd[objects])
    table = overlap.numpy()
    correct = np.zeros((len(THRESHOLDS), len(chosen)), np.bool_)
    left_out = np.zeros_like(correct)
    for row, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(objects), np.bool_)
        for index in range(len(chosen)):
            best = _best(table[index], min(threshold, 1 - 1e-10), taken, ignored)
            if best is not None:
                taken[best] = not ignored[best]  # an ignored object may be matched many times
                correct[row, index], left_out[row, index] = not ignored[best], ignored[best]
    return found.scores[chosen].double().numpy(), correct, left_out, int((~ignored).sum())


def _best(overlaps: Floats, least: float, taken: Bools, ignored: Bools) -> int | None:
    """Choose the unmatched object with the largest overlap, the last of equal ones.

    An ignored object is chosen only if there is no other.
    """
    for counted in (True, False):
        candidates = [
            i
            for i in range(len(overlaps))
            if ignored[i] != counted and not taken[i] and overlaps[i] >= least
        ]
        if candidates:
            return max(candidates, key=lambda i: (overlaps[i], i))
    return None


def _precisions(scores: Floats, correct: Bools, left_out: Bools, objects: int) -> Floats:
    """Compute the mean precision over recalls, by threshold."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(correct[:, order], axis=1)
    misses = np.cumsum(~correct[:, order] & ~left_out[:, order], axis=1)
    means = np.zeros(len(THRESHOLDS))
    for row in range(len(THRESHOLDS)):
        precision = hits[row] / np.maximum(hits[row] + misses[row], 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        positions = np.searchsorted(hits[row] / objects, _RECALLS, side="left")
        means[row] = sum(precision[p] for p in positions if p < len(precision)) / len(_RECALLS)
    return means


def box_overlaps(a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    """Compute the IoU of boxes `[n, 4]` and `[m, 4]`, float64 `[n, m]`.

    For a crowd it is the fraction of the first box that lies in the crowd.
    """
    a, b = a.double(), b.double()
    sides = (
        torch.minimum(a[:, None, 2:], b[None, :, 2:])
        - torch.maximum(a[:, None, :2], b[None, :, :2])
    ).clamp_min(0)
    return _ratio(
        sides.prod(2), (a[:, 2:] - a[:, :2]).prod(1), (b[:, 2:] - b[:, :2]).prod(1), crowd
    )


def mask_overlaps(a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    """Compute the IoU of masks `[n, H, W]` and `[m, H, W]`; see `box_overlaps`."""
    first, second = a.flatten(1).float(), b.flatten(1).float()
    return _ratio((first @ second.T).double(), first.sum(1).double(), second.sum(1).double(), crowd)


def _ratio(both: Tensor, a: Tensor, b: Tensor, crowd: Tensor) -> Tensor:
    union = torch.where(crowd[None, :], a[:, None].expand_as(both), a[:, None] + b[None, :] - both)
    return torch.where(union > 0, both / union, torch.zeros_like(both))


class MeanIoU:
    """Accumulate the IoU of each class over all pixels of all images, and their mean.

    Args:
        num_classes: number of classes, including the background.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def add(self, predicted: Tensor, target: Tensor) -> None:
        """Add one image, int `[H, W]` each; pixels whose target is `VOID` are left out."""
        size = len(self.counts)
        known = target != VOID
        cells = target[known].long() * size + predicted[known].long()
        self.counts += torch.bincount(cells, minlength=size * size).view(size, size)

    def by_class(self) -> Tensor:
        """Return float64 `[num_classes]`; NaN for a class that is neither present nor predicted."""
        correct = self.counts.diagonal().double()
        return correct / (self.counts.sum(0) + self.counts.sum(1) - self.counts.diagonal())

    def mean(self) -> float:
        """Return the mean over classes that are present or predicted."""
        return float(self.by_class().nanmean())
