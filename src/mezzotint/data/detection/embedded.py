"""A synthetic detection data set: embedded emoji pasted on photographs.

The photographs are scikit-learn's two (by danielbuechele and vultilion on Flickr, CC BY 2.0):
training samples have backgrounds from their left three fifths, test samples from the rest. The
emoji are split as well: a fifth of each category, in both drawing styles, appears in test samples
only. Objects, positions and sizes are a function of seed, part and index, so nothing is stored.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.data.detection.source import DetectionSample, DetectionSource, Part, paint
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.seeding import key_of

Pixels = npt.NDArray[np.uint8]
_LIGHT = 236  # brighter pixels may be background: white, or white blended with an edge
_TRAIN_FRACTION = 0.6


class Pasted(DetectionSource):
    """Paste emoji on photographs, with boxes and masks.

    Args:
        images: number of training samples.
        test_images: number of test samples; they do not change with `images`.
        size: side of a sample in pixels.
        objects: minimum and maximum number of emoji in a sample.
        scale: minimum and maximum side of an emoji in pixels.
        one_class: detect emoji as one class instead of by category.
        seed: seed of objects, positions and sizes, any whole number.

    Raises:
        ValueError: when emoji of that size do not fit.
    """

    def __init__(
        self,
        *,
        images: int = 256,
        test_images: int = 128,
        size: int = 96,
        objects: tuple[int, int] = (1, 3),
        scale: tuple[int, int] = (24, 48),
        one_class: bool = False,
        seed: int = 0,
    ) -> None:
        if images < 1 or test_images < 1 or not 1 <= objects[0] <= objects[1]:
            raise ValueError(
                "`images` and `test_images` must be 1 or more, and `objects` a minimum of 1 or "
                f"more and a maximum, got images={images}, test_images={test_images}, "
                f"objects={list(objects)}. Try objects=[1, 3]."
            )
        if not 8 <= scale[0] <= scale[1] <= size <= 256:
            raise ValueError(
                "`size` must be 8 to 256 pixels, and `scale` a minimum of 8 pixels or more and a "
                f"maximum of at most `size`, got size={size} and scale={list(scale)}. Try size=96 "
                "and scale=[24, 48]."
            )
        self.name = "pasted"
        self.has_masks = self.has_classes = True
        self._counts = {"train": images, "test": test_images}
        self.size, self.objects, self.scale, self.one_class, self.seed = (
            size,
            objects,
            scale,
            one_class,
            seed,
        )
        (task,) = (
            t
            for t in EmbeddedImages(name="emoji").evaluation()[1]
            if t.name == "category/within-style"
        )
        self.classes = ("emoji",) if one_class else tuple(task.classes)
        half = len(task.labels) // 2  # offset of the second drawing of an emoji
        self._pools = {
            "train": np.concatenate([task.train, task.train + half]),
            "test": np.concatenate([task.test, task.test + half]),
        }
        self._labels = np.asarray(task.labels)
        self._made: dict[tuple[str, int], DetectionSample] = {}

    def count(self, part: Part) -> int:
        return self._counts[part]

    def read(self, part: Part, index: int) -> DetectionSample:
        """Make one sample; its objects do not overlap."""
        if (part, index) not in self._made:
            self._made[part, index] = self._make(part, index)
        return self._made[part, index]

    def _make(self, part: Part, index: int) -> DetectionSample:
        rng = np.random.default_rng(key_of("pasted", self.seed, part, index))
        image = _background(part, self.size, rng)
        wanted = int(rng.integers(self.objects[0], self.objects[1] + 1))
        masks: list[Tensor] = []
        labels: list[int] = []
        for _ in range(20 * wanted):
            if len(masks) == wanted:
                break
            chosen = int(rng.choice(self._pools[part]))
            side = int(rng.integers(self.scale[0], self.scale[1] + 1))
            top, left = (int(rng.integers(self.size - side + 1)) for _ in range(2))
            flip = bool(rng.random() < 0.5)
            color, alpha = _cut_out(chosen)
            if float(alpha.mean()) < 0.2:  # a white drawing is reduced to its outline
                continue
            both = interpolate(
                torch.cat([color, alpha])[None], (side, side), mode="bilinear", antialias=True
            )[0]
            both = both.flip(2) if flip else both
            mask = torch.zeros(self.size, self.size, dtype=torch.bool)
            mask[top : top + side, left : left + side] = both[3] > 0.5
            if any(bool((mask & other).any()) for other in masks) or not mask.any():
                continue
            region = image[:, top : top + side, left : left + side]
            region.copy_(both[3] * both[:3] + (1.0 - both[3]) * region)
            masks.append(mask)
            labels.append(0 if self.one_class else int(self._labels[chosen]))
        return _sample(f"pasted/{part}/{index:05d}", image, masks, labels)


def _sample(name: str, image: Tensor, masks: list[Tensor], labels: list[int]) -> DetectionSample:
    stack = torch.stack(masks) if masks else torch.zeros(0, *image.shape[1:], dtype=torch.bool)
    known, none = (
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(labels), dtype=torch.bool),
    )
    pixels = image.mul(255.0).round().clamp(0, 255).to(torch.uint8)
    return DetectionSample(
        name, pixels, boxes_of(stack), known, none, none, stack, paint(stack, known, none)
    )


def boxes_of(masks: Tensor) -> Tensor:
    """Return the smallest boxes around masks `[n, H, W]`; no mask may be empty."""
    found = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return torch.tensor(found, dtype=torch.float32).view(-1, 4)


def _background(part: Part, size: int, rng: np.random.Generator) -> Tensor:
    photograph = _photographs()[int(rng.integers(2))]
    edge = int(_TRAIN_FRACTION * photograph.shape[2])
    background = photograph[:, :, :edge] if part == "train" else photograph[:, :, edge:]
    top, left = (int(rng.integers(side - size + 1)) for side in background.shape[1:])
    crop = background[:, top : top + size, left : left + size]
    crop = crop.flip(2) if rng.random() < 0.5 else crop
    return crop.float() / 255.0


@functools.cache
def _photographs() -> list[Tensor]:
    from sklearn.datasets import load_sample_images

    return [
        torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images
    ]


@functools.cache
def _cut_out(index: int) -> tuple[Tensor, Tensor]:
    """Cut out an emoji: color `[3, 32, 32]` in [0, 1], and its mask `[1, 32, 32]`.

    The background is nearly white and connected to the border; white inside an outline is kept.
    """
    pixels = _emoji_pixels()[index]
    background = _connected((pixels >= _LIGHT).all(0))
    return torch.from_numpy(pixels).float() / 255.0, torch.from_numpy(~background)[None].float()


def _connected(light: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Find the light pixels connected to the border, by growing from it until nothing changes."""
    found = np.zeros_like(light)
    found[0], found[-1], found[:, 0], found[:, -1] = light[0], light[-1], light[:, 0], light[:, -1]
    while True:
        grown = found.copy()
        grown[1:] |= found[:-1]
        grown[:-1] |= found[1:]
        grown[:, 1:] |= found[:, :-1]
        grown[:, :-1] |= found[:, 1:]
        grown &= light
        if (grown == found).all():
            return found
        found = grown


@functools.cache
def _emoji_pixels() -> npt.NDArray[Any]:
    return EmbeddedImages(name="emoji").images.numpy()
