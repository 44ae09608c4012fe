"""Pictures of detection samples: ground truth and predictions, drawn on the image.

A detector shows its predictions with the highest scores, as many as there are objects. This needs
no score threshold, which would favor one network over another. A prediction is correct if its
class is right and its IoU with an object that no better prediction has matched is at least 0.5.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.average_precision import Detections, box_overlaps, mask_overlaps
from mezzotint.report.pictures import Picture, picture
from mezzotint.report.render import PALETTE

_SIDE, _FONT, _LETTERS = 240, 15, 14
_TRUTH, _CORRECT, _WRONG = "#ffffff", "#86c977", "#f0806a"


def true_picture(sample: DetectionSample, names: Sequence[str], *, masks: bool = False) -> Picture:
    """Draw the objects of a sample.

    Args:
        sample: sample with boxes.
        names: names of the classes.
        masks: whether to draw masks as well.
    """
    objects = ~sample.ignored
    colors = [_TRUTH] * int(objects.sum())
    words = [names[label] for label in sample.labels[objects].tolist()]
    shown = sample.masks[objects] if masks and sample.masks is not None else None
    short = [_short(word) for word in words]
    return _outlined(
        sample,
        sample.boxes[objects],
        colors,
        short,
        shown,
        f"{sample.id}: {', '.join(words) or 'no objects'}",
    )


def found_picture(
    sample: DetectionSample, found: Detections, names: Sequence[str]
) -> tuple[Picture, str]:
    """Draw the best predictions, and say how many of them are correct."""
    objects = (~sample.ignored).nonzero()[:, 0]
    # As many as there are objects: a detector always returns a tail of unlikely boxes.
    best = found.scores.argsort(descending=True, stable=True)[: max(1, len(objects))]
    correct = _correct(sample, objects, found, best)
    colors = [_CORRECT if one else _WRONG for one in correct]
    words = [f"{_short(names[int(found.labels[i])])} {float(found.scores[i]):.2f}" for i in best]
    masks = None if found.masks is None else found.masks[best]
    result = f"{sum(correct)} of {len(objects)} found" if len(objects) else "no objects"
    drawn = _outlined(sample, found.boxes[best], colors, words, masks, f"{sample.id}: {result}")
    return drawn, result


def _correct(
    sample: DetectionSample, objects: Tensor, found: Detections, best: Tensor
) -> list[bool]:
    """Return which predictions are correct; each object is matched once."""
    crowd = torch.zeros(len(objects), dtype=torch.bool)
    if found.masks is not None and sample.masks is not None:
        overlap = mask_overlaps(found.masks[best], sample.masks[objects], crowd)
    else:
        overlap = box_overlaps(found.boxes[best], sample.boxes[objects], crowd)
    overlap[found.labels[best][:, None] != sample.labels[objects][None, :]] = 0.0
    free, correct = torch.ones(len(objects), dtype=torch.bool), []
    for row in overlap:
        match = int((row * free).argmax()) if len(objects) else 0
        correct.append(bool(len(objects)) and bool(free[match]) and float(row[match]) >= 0.5)
        if correct[-1]:
            free[match] = False
    return correct


def map_picture(sample: DetectionSample, classes: Tensor, what: str) -> tuple[Picture, str]:
    """Draw a segmentation map over an image, and state the pixel accuracy.

    Args:
        sample: sample with its ground-truth map.
        classes: map `[H, W]`; 0 is the background, which is not colored.
        what: what the map is, for the alternative text.
    """
    assert sample.classes is not None
    known = sample.classes != VOID
    accuracy = float((classes.long() == sample.classes.long())[known].double().mean())
    painted = sample.image.clone()
    for value in sorted(set(classes.flatten().tolist())):
        if value not in (0, VOID):
            painted = _blended(
                painted, classes == value, PALETTE[(value - 1) % len(PALETTE)][1], 0.65
            )
    words = f"pixel accuracy {accuracy:.2f}"
    return picture(_enlarged(painted), f"{sample.id}, {what}: {words}", most=_SIDE), words


def _outlined(
    sample: DetectionSample,
    boxes: Tensor,
    colors: Sequence[str],
    words: Sequence[str],
    masks: Tensor | None,
    alt: str,
) -> Picture:
    image = sample.image.clone()
    for mask, color in zip([] if masks is None else masks, colors, strict=False):
        image = _blended(image, mask, color, 0.5)
    enlarged = _enlarged(image)
    scale = enlarged.shape[2] / sample.image.shape[2]
    drawn = Image.fromarray(enlarged.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(drawn)
    for (left, top, right, bottom), color, word in zip(boxes.tolist(), colors, words, strict=True):
        corners = [
            left * scale,
            top * scale,
            max(left + 1, right) * scale - 1,
            max(top + 1, bottom) * scale - 1,
        ]
        # A dark outline around the light one, so that it is visible on any image.
        halo = [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1]
        pen.rectangle(halo, outline="#000000")
        pen.rectangle(corners, outline=color, width=3)
        size = pen.textbbox((0, 0), word, font_size=_FONT)
        # Labels stay inside the picture, and below the edge where there is no room above it.
        across = min(max(0.0, corners[0]), max(0.0, drawn.width - size[2] - 4.0))
        above = corners[1] > size[3] + 3
        down = corners[1] - size[3] - 3 if above else corners[1] + 3
        pen.rectangle([across, down, across + size[2] + 4, down + size[3] + 2], fill="#000000")
        pen.text((across + 2, down), word, fill=color, font_size=_FONT)
    return picture(torch.from_numpy(np.array(drawn)).permute(2, 0, 1), alt, most=_SIDE)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _blended(image: Tensor, mask: Tensor, color: str, opacity: float) -> Tensor:
    rgb = torch.tensor([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=torch.float32)[
        :, None, None
    ]
    mixed = ((1.0 - opacity) * image.float() + opacity * rgb).round().to(torch.uint8)
    return torch.where(mask, mixed, image)


def _enlarged(image: Tensor) -> Tensor:
    """Resize the longer side to `_SIDE` pixels."""
    scale = _SIDE / max(image.shape[1:])
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return (
        interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
        .round()
        .to(torch.uint8)
    )
