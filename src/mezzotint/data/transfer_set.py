"""The data sets that features are usually transferred to, as their authors distribute them: nothing is downloaded.

Pretraining sees the training images, the task `label/test` learns from them and is scored on the test images. The
literature reports `mean_per_class` of `aircraft`, `caltech101`, `flowers102` and `pets`, `map` of `voc2007`, and `top1`
of the others (Kornblith et al. 2019, arXiv 1805.08974); all that apply are among the rows.
"""

import copy
import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.image import ImageFolder, PathList
from mezzotint.data.source import Index, Source, Task
from mezzotint.data.transfer_lists import LAYOUTS, Labelled
from mezzotint.types import Input, Sample

Name = Literal["aircraft", "caltech101", "cars", "dtd", "flowers102", "food101", "pets", "sun397", "voc2007"]


class TransferSet(ImageFolder, Source):
    """FGVC-Aircraft, Caltech-101, Stanford Cars, DTD, Flowers-102, Food-101, Pets, SUN397 or VOC 2007.

    Images are read as `image_folder` reads them.

    Args:
        name: which one.
        root: the unpacked data set, or the folder above.
        size: height and width of a whole sample, in pixels.
        split: of the 10 splits of `dtd` and `sun397`, and of any number for `caltech101`, whose 30 training images a
            class are drawn; the others have one.
        max_pixels: images of more pixels are refused before they are decoded.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; −1 for `voc2007`, where an image has several.

    Raises:
        ValueError: when a file of the data set is missing or is not what it should be.
    """

    def __init__(self, *, name: Name, root: str, size: int = 224, split: int = 1, max_pixels: int = 50_000_000) -> None:
        if name not in LAYOUTS:
            raise ValueError(f"got name={name!r}; allowed is one of {', '.join(LAYOUTS)}: choose one of them")
        if size < 1 or max_pixels < 1:
            raise ValueError(f"got size={size} and max_pixels={max_pixels}; allowed are whole numbers from 1 on")
        lists = LAYOUTS[name](os.fspath(root), split)
        self.name, self.root, self.size, self.max_pixels = name, lists.root, size, max_pixels
        self.input = Input((3, size, size), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.split, self.scored, self.classes = "train", "test", lists.classes
        place = {title: number for number, title in enumerate(lists.classes)}
        unknown = next((t for _, own in (*lists.train, *lists.test) for t in own if t not in place), None)
        if unknown is not None or not lists.train or not lists.test:
            got = f"the class {unknown!r}, which is not listed" if unknown is not None else "a list without an image"
            raise ValueError(f"{lists.root}: got {got}; allowed are the authors' files: unpack the data set again")
        self._tags, self._scored_tags = (_table(part, place) for part in (lists.train, lists.test))
        self._paths, self._scored_paths = (PathList([path for path, _ in part]) for part in (lists.train, lists.test))
        self.labels, self._scored_labels = self._single(self._tags), self._single(self._scored_tags)

    def _single(self, tags: npt.NDArray[np.bool_]) -> Index:
        """Labels of images that have one; negative for a set of tags."""
        if self.name == "voc2007":
            return np.full(len(tags), -1, np.int64)
        return np.asarray(tags.argmax(axis=1), np.int64)

    def read(self, index: int) -> Sample:
        """The middle of an image, uint8 `[3, size, size]`; of `voc2007` its label is a bool tensor `[classes]`."""
        sample = super().read(index)
        if self.name == "voc2007":
            sample["label"] = torch.from_numpy(self._tags[index])
        return sample

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All images, and the task over the usual split."""
        if self.name != "voc2007":
            return super().evaluation()
        both = copy.copy(self)
        both._tags = np.concatenate([self._tags, self._scored_tags])
        both.labels = np.full(len(both._tags), -1, np.int64)
        both._paths = PathList([*self._paths, *self._scored_paths])
        places = np.arange(len(both._tags), dtype=np.int64)
        train, test = places[: len(self)], places[len(self) :]
        return both, [Task("label/test", "tag", both._tags, train, test, self.classes)]


def _table(part: Sequence[Labelled], place: dict[str, int]) -> npt.NDArray[np.bool_]:
    table = np.zeros((len(part), len(place)), np.bool_)
    for row, (_, own) in enumerate(part):
        table[row, [place[title] for title in own]] = True
    return table
