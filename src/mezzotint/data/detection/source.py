"""Images with boxes, masks and class maps, for detection and segmentation."""

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
from mezzotint.types import Unreadable

Part = Literal["train", "test"]
PARTS: tuple[Part, Part] = ("train", "test")

VOID = 255
"""The value in class maps of pixels that are neither learned nor scored."""


@dataclass(frozen=True)
class DetectionSample:
    """An image with its n objects.

    Attributes:
        id: name of the image.
        image: uint8 `[3, H, W]`.
        boxes: float32 `[n, 4]`: left, top, right, bottom, in pixels; the width is right − left.
        labels: int64 `[n]`, indices of the classes, from 0.
        ignored: bool `[n]`: difficult objects and crowds, neither learned nor scored; a detection
            of one is no error.
        crowd: bool `[n]`: ignored objects that stand for many.
        masks: bool `[n, H, W]`, if known.
        classes: uint8 `[H, W]`, class of each pixel: 0 for background, the label + 1, or `VOID`; if
            known.
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
    """Samples for detection and segmentation, in a training and a test part.

    Attributes:
        name: name of the data, for the names of metrics.
        classes: names of the classes, by label.
        has_masks: whether samples have masks of objects.
        has_classes: whether samples have class maps.
    """

    name: str
    classes: Sequence[str]
    has_masks: bool
    has_classes: bool

    @abstractmethod
    def count(self, part: Part) -> int:
        """Return the number of training or test samples."""

    @abstractmethod
    def read(self, part: Part, index: int) -> DetectionSample:
        """Read one sample.

        Raises:
            Unreadable: when its files cannot be read: training takes another image instead, and an
                image to score is left out.
            ValueError: when its annotations do not fit its image.
        """


def read_image(path: Path, name: str) -> Tensor:
    """Read an image in color, upright, uint8 `[3, H, W]`.

    Raises:
        Unreadable: with its name, when it cannot be read.
    """
    try:
        with open_image(str(path)) as file:
            return torch.from_numpy(np.array(decode(file))).permute(2, 0, 1).contiguous()
    except Undecodable as error:
        raise Unreadable(name, str(error)) from None


def paint(masks: Tensor, labels: Tensor, crowd: Tensor) -> Tensor:
    """Paint a class map from masks; later objects cover earlier ones, and crowds are `VOID`."""
    classes = torch.zeros(masks.shape[1:], dtype=torch.uint8)
    for mask, label, is_crowd in zip(masks, labels.tolist(), crowd.tolist(), strict=True):
        classes[mask] = VOID if is_crowd else label + 1
    return classes
