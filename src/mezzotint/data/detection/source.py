"""Images with what is in them: boxes, masks and classes, for detection and segmentation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.image.decode import Undecodable, decode, open_image
from mezzotint.recipe.component import Component

Part = Literal["train", "test"]

VOID = 255
"""In maps of classes: a place that is neither learned nor scored."""


@dataclass(frozen=True)
class DetectionSample:
    """One image with its n objects.

    Attributes:
        id: name of the image.
        image: uint8 `[3, H, W]`.
        boxes: float32 `[n, 4]`: left, top, right, bottom, in pixels; the width is right − left.
        labels: int64 `[n]`, places in the classes, from 0.
        ignored: bool `[n]`: difficult or a crowd; neither learned, nor asked for, nor held against
            who finds it.
        crowd: bool `[n]`: of the ignored ones, those that stand for many objects.
        masks: bool `[n, H, W]`, where they are known.
        classes: uint8 `[H, W]`, the class of each pixel: 0 for none, else the label + 1, or `VOID`;
            where known.
    """

    id: str
    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    crowd: Tensor
    masks: Tensor | None = None
    classes: Tensor | None = None


class DetectionSource(Component, ABC, abstract=True):
    """Where scenes come from.

    Attributes:
        name: of the data, for the names of figures.
        classes: names of the classes, by label.
        has_masks: whether scenes have masks of objects.
        has_classes: whether scenes have maps of classes.
    """

    name: str
    classes: Sequence[str]
    has_masks: bool
    has_classes: bool

    @abstractmethod
    def count(self, part: Part) -> int:
        """How many scenes there are to learn from, or to be scored on."""

    @abstractmethod
    def read(self, part: Part, index: int) -> DetectionSample:
        """One scene.

        Raises:
            ValueError: when its files cannot be read.
        """


def read_image(path: Path) -> Tensor:
    """An image in color, upright, uint8 `[3, H, W]`.

    Raises:
        ValueError: when it cannot be read.
    """
    try:
        with open_image(str(path)) as file:
            return torch.from_numpy(np.array(decode(file))).permute(2, 0, 1).contiguous()
    except Undecodable as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); get it again, or take it off the list"
        ) from None


def paint(masks: Tensor, labels: Tensor, crowd: Tensor) -> Tensor:
    """A map of classes from masks of objects; later objects cover earlier ones, and crowds are void."""
    found = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for mask, label, many in zip(masks, labels.tolist(), crowd.tolist(), strict=True):
        found[mask] = VOID if many else label + 1
    return found
