"""Scenes as pictures: what is in them, and what a network found, drawn upon the image.

Of what a detector found as many objects are shown as there are, the surest first, so that no
threshold is chosen that suits one network more than another. Right is what has the right class and
overlaps an object that is still free by half or more.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.data.detection.source import VOID, DetectionSample
from mezzotint.detection.average_precision import Found, box_overlaps, mask_overlaps
from mezzotint.report.pictures import Picture, picture
from mezzotint.report.render import PALETTE

_SIDE, _FONT, _LETTERS = 240, 15, 14
_TRUE, _RIGHT, _WRONG = "#ffffff", "#86c977", "#f0806a"


def true_picture(scene: DetectionSample, names: Sequence[str], *, masks: bool = False) -> Picture:
    """The objects of a scene.

    Args:
        scene: with boxes.
        names: of the classes.
        masks: show masks as well.
    """
    wanted = ~scene.ignored
    colors = [_TRUE] * int(wanted.sum())
    words = [names[label] for label in scene.labels[wanted].tolist()]
    shown = scene.masks[wanted] if masks and scene.masks is not None else None
    short = [_short(word) for word in words]
    return _outlined(
        scene,
        scene.boxes[wanted],
        colors,
        short,
        shown,
        f"{scene.id}: {', '.join(words) or 'nothing'}",
    )


def found_picture(
    scene: DetectionSample, found: Found, names: Sequence[str]
) -> tuple[Picture, str]:
    """The surest of what was found in a scene, and how many of them are right, in words."""
    wanted = (~scene.ignored).nonzero()[:, 0]
    best = found.scores.argsort(descending=True, stable=True)[: max(1, len(wanted))]
    right = _right(scene, wanted, found, best)
    colors = [_RIGHT if one else _WRONG for one in right]
    words = [f"{_short(names[int(found.labels[i])])} {float(found.scores[i]):.2f}" for i in best]
    masks = None if found.masks is None else found.masks[best]
    said = f"{sum(right)} of {len(wanted)} found" if len(wanted) else "nothing to be found"
    return _outlined(scene, found.boxes[best], colors, words, masks, f"{scene.id}: {said}"), said


def _right(scene: DetectionSample, wanted: Tensor, found: Found, best: Tensor) -> list[bool]:
    """Which of the surest are right; an object is found once."""
    crowd = torch.zeros(len(wanted), dtype=torch.bool)
    if found.masks is not None and scene.masks is not None:
        overlap = mask_overlaps(found.masks[best], scene.masks[wanted], crowd)
    else:
        overlap = box_overlaps(found.boxes[best], scene.boxes[wanted], crowd)
    overlap[found.labels[best][:, None] != scene.labels[wanted][None, :]] = 0.0
    free, right = torch.ones(len(wanted), dtype=torch.bool), []
    for row in overlap:
        place = int((row * free).argmax()) if len(wanted) else 0
        right.append(bool(len(wanted)) and bool(free[place]) and float(row[place]) >= 0.5)
        if right[-1]:
            free[place] = False
    return right


def map_picture(scene: DetectionSample, classes: Tensor, what: str) -> tuple[Picture, str]:
    """A map of classes over a scene, and the share of its known pixels that are right, in words.

    Args:
        scene: with its own map.
        classes: `[H, W]`: 0 for none, which is not painted.
        what: the picture is, for those who do not see it.
    """
    assert scene.classes is not None
    known = scene.classes != VOID
    share = float((classes.long() == scene.classes.long())[known].double().mean())
    painted = scene.image.clone()
    for value in sorted(set(classes.flatten().tolist())):
        if value not in (0, VOID):
            painted = _blended(
                painted, classes == value, PALETTE[(value - 1) % len(PALETTE)][1], 0.65
            )
    words = f"{share:.2f} of pixels right"
    return picture(_enlarged(painted), f"{scene.id}, {what}: {words}", most=_SIDE), words


def _outlined(
    scene: DetectionSample,
    boxes: Tensor,
    colors: Sequence[str],
    words: Sequence[str],
    masks: Tensor | None,
    alt: str,
) -> Picture:
    image = scene.image.clone()
    for mask, color in zip([] if masks is None else masks, colors, strict=False):
        image = _blended(image, mask, color, 0.5)
    enlarged = _enlarged(image)
    scale = enlarged.shape[2] / scene.image.shape[2]
    drawn = Image.fromarray(enlarged.permute(1, 2, 0).numpy())
    pen = ImageDraw.Draw(drawn)
    for (left, top, right, bottom), color, word in zip(boxes.tolist(), colors, words, strict=True):
        place = [
            left * scale,
            top * scale,
            max(left + 1, right) * scale - 1,
            max(top + 1, bottom) * scale - 1,
        ]
        pen.rectangle([place[0] - 1, place[1] - 1, place[2] + 1, place[3] + 1], outline="#000000")
        pen.rectangle(place, outline=color, width=3)
        size = pen.textbbox((0, 0), word, font_size=_FONT)
        across = min(max(0.0, place[0]), max(0.0, drawn.width - size[2] - 4.0))
        down = place[1] - size[3] - 3 if place[1] > size[3] + 3 else place[1] + 3
        pen.rectangle([across, down, across + size[2] + 4, down + size[3] + 2], fill="#000000")
        pen.text((across + 2, down), word, fill=color, font_size=_FONT)
    return picture(torch.from_numpy(np.array(drawn)).permute(2, 0, 1), alt, most=_SIDE)


def _short(name: str) -> str:
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"


def _blended(image: Tensor, mask: Tensor, color: str, share: float) -> Tensor:
    rgb = torch.tensor([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=torch.float32)[
        :, None, None
    ]
    mixed = ((1.0 - share) * image.float() + share * rgb).round().to(torch.uint8)
    return torch.where(mask, mixed, image)


def _enlarged(image: Tensor) -> Tensor:
    """The longer side becomes `_SIDE` pixels."""
    scale = _SIDE / max(image.shape[1:])
    size = [max(1, round(side * scale)) for side in image.shape[1:]]
    return (
        interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
        .round()
        .to(torch.uint8)
    )
