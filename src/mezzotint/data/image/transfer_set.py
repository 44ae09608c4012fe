"""The data sets that features are usually transferred to, as their authors distribute them: nothing is downloaded.

Pretraining sees the training images, the task `label/test` learns from them and is scored on the
test images. The literature reports `mean_per_class` of `aircraft`, `caltech101`, `flowers102` and
`pets`, `map` of `voc2007`, and `top1` of the others (Kornblith et al. 2019, arXiv 1805.08974); all
that apply are among the rows.

Which images of the usual transfer data sets are for learning and which for scoring, read from the
authors' files.

Each function takes the folder as the user gave it and the number of the split, and finds the files
in there, or in the folder of their usual name. Text and Matlab files are read; nothing is executed.
"""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.folder import scan
from mezzotint.data.image.classic_files import find_folder, read_names
from mezzotint.data.image.folder import ImageFolder, PathList
from mezzotint.data.sampling import some_of_each
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import key_of
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input, Sample

Labeled = tuple[str, tuple[str, ...]]
"""The path of an image, relative to the root, and the names of its classes: one, or any number where they are tags."""

_PER_CLASS = 30
_PETS = "annotations/trainval.txt"


@dataclass(frozen=True)
class Lists:
    """A data set with its usual split.

    Attributes:
        root: of the paths.
        train: images to learn from; training and validation together where the authors have both.
        test: images to be scored.
        classes: in the order of their numbers.
    """

    root: str
    train: list[Labeled]
    test: list[Labeled]
    classes: list[str]


def aircraft(root: str, split: int) -> Lists:
    """FGVC-Aircraft (Maji et al. 2013): 100 variants; `images_variant_trainval.txt` → `images_variant_test.txt`."""
    folder, _ = find_folder(
        root, {"fgvc-aircraft-2013b/data": "variants.txt", "data": "variants.txt"}
    )

    def part(name: str) -> list[Labeled]:
        lines = (line.partition(" ") for line in read_names(f"{folder}/images_variant_{name}.txt"))
        return [(f"images/{number}.jpg", (variant.strip(),)) for number, _, variant in lines]

    return Lists(folder, part("trainval"), part("test"), read_names(f"{folder}/variants.txt"))


def caltech101(root: str, split: int) -> Lists:
    """Caltech-101 (Fei-Fei et al. 2004): 30 images of each of 102 folders, background included, and the rest.

    The authors give no split; this is a keyed one, another for each number.
    """
    folder = os.path.join(root, "101_ObjectCategories")
    folder = folder if os.path.isdir(folder) else root
    paths = [path for path in scan(folder).images if "/" in path]
    classes = sorted({path.partition("/")[0] for path in paths})
    if len(classes) < 2:
        raise ValueError(
            f"{root} has no 101_ObjectCategories with classes; allowed is the unpacked data set: check it"
        )
    labels = np.array([classes.index(path.partition("/")[0]) for path in paths], np.int64)
    pool = np.arange(len(paths), dtype=np.int64)
    chosen = set(
        some_of_each(labels, pool, key_of(split, "caltech101"), per_class=_PER_CLASS).tolist()
    )
    found: list[Labeled] = [(path, (path.partition("/")[0],)) for path in paths]
    train = [item for place, item in enumerate(found) if place in chosen]
    return Lists(
        folder, train, [item for place, item in enumerate(found) if place not in chosen], classes
    )


def cars(root: str, split: int) -> Lists:
    """Stanford Cars (Krause et al. 2013): 196 models; needs scipy, and `cars_test_annos_withlabels.mat`."""
    folder, _ = find_folder(root, {"stanford_cars": "devkit/cars_meta.mat"})
    classes = [str(name) for name in _matlab(f"{folder}/devkit/cars_meta.mat", "class_names")]
    withlabels = "cars_test_annos_withlabels.mat"
    test = (
        f"{folder}/{withlabels}"
        if os.path.isfile(f"{folder}/{withlabels}")
        else f"{folder}/devkit/{withlabels}"
    )

    def part(path: str, images: str) -> list[Labeled]:
        table = _matlab(path, "annotations")
        return [
            (f"{images}/{row['fname']}", (_nth(classes, int(row["class"]), path),)) for row in table
        ]

    return Lists(
        folder,
        part(f"{folder}/devkit/cars_train_annos.mat", "cars_train"),
        part(test, "cars_test"),
        classes,
    )


def dtd(root: str, split: int) -> Lists:
    """Describable Textures (Cimpoi et al. 2014): 47 textures in 10 splits; training and validation → test."""
    _between(split, 10, "dtd")
    folder, _ = find_folder(root, {"dtd": f"labels/test{split}.txt"})

    def part(name: str) -> list[Labeled]:
        paths = read_names(f"{folder}/labels/{name}{split}.txt")
        return [(f"images/{path}", (path.partition("/")[0],)) for path in paths]

    train = [*part("train"), *part("val")]
    return Lists(folder, train, part("test"), _named(train))


def flowers102(root: str, split: int) -> Lists:
    """Oxford Flowers (Nilsback and Zisserman 2008): 102 flowers; training and validation → test; needs scipy."""
    folder, _ = find_folder(
        root, {"flowers-102": "imagelabels.mat", "oxford_flowers102": "imagelabels.mat"}
    )
    labels = _matlab(f"{folder}/imagelabels.mat", "labels").astype(np.int64)
    classes = [str(number) for number in range(1, int(labels.max()) + 1)]

    def part(name: str) -> list[Labeled]:
        numbers = _matlab(f"{folder}/setid.mat", name).astype(np.int64).tolist()
        return [(f"jpg/image_{number:05d}.jpg", (str(labels[number - 1]),)) for number in numbers]

    return Lists(folder, [*part("trnid"), *part("valid")], part("tstid"), classes)


def food101(root: str, split: int) -> Lists:
    """Food-101 (Bossard et al. 2014): 101 dishes, 750 images of each → 250."""
    folder, _ = find_folder(root, {"food-101": "meta/train.txt"})

    def part(name: str) -> list[Labeled]:
        paths = read_names(f"{folder}/meta/{name}.txt")
        return [(f"images/{path}.jpg", (path.partition("/")[0],)) for path in paths]

    return Lists(folder, part("train"), part("test"), read_names(f"{folder}/meta/classes.txt"))


def pets(root: str, split: int) -> Lists:
    """Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds; `trainval.txt` → `test.txt`."""
    folder, _ = find_folder(root, {"oxford-iiit-pet": _PETS, "oxford_pets": _PETS})

    def part(name: str) -> list[Labeled]:
        lines = [
            line.split()
            for line in read_names(f"{folder}/annotations/{name}.txt")
            if not line.startswith("#")
        ]
        return [(f"images/{line[0]}.jpg", (line[0].rpartition("_")[0],)) for line in lines]

    train = part("trainval")
    return Lists(folder, train, part("test"), _named(train))


def sun397(root: str, split: int) -> Lists:
    """SUN397 (Xiao et al. 2010): 397 scenes in 10 splits of 50 → 50 images of each."""
    _between(split, 10, "sun397")
    folder, _ = find_folder(root, {"SUN397": "ClassName.txt"})
    places = (folder, f"{folder}/Partitions", f"{folder}/../Partitions", root)
    lists = next((p for p in places if os.path.isfile(f"{p}/Training_{split:02d}.txt")), folder)

    def part(name: str) -> list[Labeled]:
        paths = [line.lstrip("/") for line in read_names(f"{lists}/{name}_{split:02d}.txt")]
        return [(path, (path.rpartition("/")[0],)) for path in paths]

    return Lists(
        folder,
        part("Training"),
        part("Testing"),
        [n.lstrip("/") for n in read_names(f"{folder}/ClassName.txt")],
    )


def voc2007(root: str, split: int) -> Lists:
    """PASCAL VOC 2007 (Everingham et al. 2010), classification: 20 tags; `trainval` → `test`.

    An object that is marked as difficult is there; the authors leave it out of the score of its
    class.
    """
    lists = "ImageSets/Main"
    folder, _ = find_folder(
        root, {name: f"{lists}/aeroplane_test.txt" for name in ("VOC2007", "VOCdevkit/VOC2007")}
    )
    ending = "_trainval.txt"
    files = sorted(name for name in os.listdir(f"{folder}/{lists}") if name.endswith(ending))
    classes = [name.removesuffix(ending) for name in files]

    def part(name: str) -> list[Labeled]:
        tags: dict[str, list[str]] = {}
        for title in classes:
            for line in read_names(f"{folder}/{lists}/{title}_{name}.txt"):
                number, _, there = line.partition(" ")
                tags.setdefault(number, []).extend([title] if int(there) >= 0 else [])
        return [(f"JPEGImages/{number}.jpg", tuple(own)) for number, own in sorted(tags.items())]

    return Lists(folder, part("trainval"), part("test"), classes)


LAYOUTS: dict[str, Callable[[str, int], Lists]] = {
    "aircraft": aircraft, "caltech101": caltech101, "cars": cars, "dtd": dtd, "flowers102": flowers102,
    "food101": food101, "pets": pets, "sun397": sun397, "voc2007": voc2007,
}  # fmt: skip


def _named(items: Iterable[Labeled]) -> list[str]:
    return sorted({name for _, names in items for name in names})


def _nth(classes: Sequence[str], number: int, path: str) -> str:
    if not 1 <= number <= len(classes):
        raise ValueError(
            f"{path} has the class {number}; allowed are 1 to {len(classes)}: get the file again"
        )
    return classes[number - 1]


def _between(split: int, most: int, name: str) -> None:
    if not 1 <= split <= most:
        raise ValueError(
            f"got split={split}; {name} has the splits 1 to {most}: 1 is the usual one"
        )


def _matlab(path: str, name: str) -> Any:
    """One variable of a Matlab file, flat; needs scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"{path} is a Matlab file; reading it needs scipy: pip install scipy"
        ) from None
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True, variable_names=[name])[name])
    except Exception as error:  # whatever the reader raises on a damaged file
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"{path} has no {name} ({detail}); allowed is the authors' file: get it again"
        ) from None


Name = Literal[
    "aircraft", "caltech101", "cars", "dtd", "flowers102", "food101", "pets", "sun397", "voc2007"
]


class TransferSet(ImageFolder):
    """FGVC-Aircraft, Caltech-101, Stanford Cars, DTD, Flowers-102, Food-101, Pets, SUN397 or VOC 2007.

    Images are read as `image_folder` reads them.

    Args:
        name: which one.
        root: the unpacked data set, or the folder above.
        size: height and width of a whole sample, in pixels.
        split: of the 10 splits of `dtd` and `sun397`, and of any number for `caltech101`, whose 30
            training images a class are drawn; the others have one.
        max_pixels: images of more pixels are refused before they are decoded.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; −1 for `voc2007`, where an image has several.

    Raises:
        ValueError: when a file of the data set is missing or is not what it should be.
    """

    opens = frozenset()

    def __init__(
        self,
        *,
        name: Name,
        root: str,
        size: int = 224,
        split: int = 1,
        max_pixels: int = 50_000_000,
    ) -> None:
        if name not in LAYOUTS:
            raise ValueError(
                f"got name={name!r}; allowed is one of {', '.join(LAYOUTS)}: choose one of them"
            )
        if size < 1 or max_pixels < 1:
            raise ValueError(
                f"got size={size} and max_pixels={max_pixels}; allowed are whole numbers from 1 on"
            )
        lists = LAYOUTS[name](os.fspath(root), split)
        self.name, self.root, self.size, self.max_pixels = name, lists.root, size, max_pixels
        self.input = Input((3, size, size), IMAGENET_MEAN, IMAGENET_STD)
        self.split, self.scored, self.classes = "train", "test", lists.classes
        place = {title: number for number, title in enumerate(lists.classes)}
        unknown = next(
            (t for _, own in (*lists.train, *lists.test) for t in own if t not in place), None
        )
        if unknown is not None or not lists.train or not lists.test:
            got = (
                f"the class {unknown!r}, which is not listed"
                if unknown is not None
                else "a list without an image"
            )
            raise ValueError(
                f"{lists.root}: got {got}; allowed are the authors' files: unpack the data set again"
            )
        self._tags, self._scored_tags = (_table(part, place) for part in (lists.train, lists.test))
        self._paths, self._scored_paths = (
            PathList([path for path, _ in part]) for part in (lists.train, lists.test)
        )
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


def _table(part: Sequence[Labeled], place: dict[str, int]) -> npt.NDArray[np.bool_]:
    table = np.zeros((len(part), len(place)), np.bool_)
    for row, (_, own) in enumerate(part):
        table[row, [place[title] for title in own]] = True
    return table
