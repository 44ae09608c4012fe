"""Read the usual transfer data sets from the files that their authors distribute.

Nothing is downloaded. Pretraining sees the training images; the task `label/test` learns from them
and is scored on the test images. The literature reports `mean_per_class` of `aircraft`,
`caltech101`, `flowers102` and
`pets`, `map` of `voc2007`, and `top1` of the others (Kornblith et al. 2019, arXiv 1805.08974); all
that apply are measured.

The split is read from the authors' files.

Each function takes the folder that the user gave and the number of the split, and finds the files
in it, or in its subfolder of the usual name. Text and Matlab files are read; nothing is executed.
"""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.image.classic_files import find_folder, read_names
from mezzotint.data.image.folder import ImageFolder, PathList, check_interpolation
from mezzotint.data.listing.folder import scan
from mezzotint.data.listing.lists import require_inside
from mezzotint.data.listing.sampling import some_of_each
from mezzotint.data.source import Index, Source, Task
from mezzotint.seeding import key_of
from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD, Input, Interpolation, Sample

LabeledPath = tuple[str, tuple[str, ...]]
"""Path of an image, relative to the root, and its class names: one, or any number of tags."""

_PER_CLASS = 30
_PETS = "annotations/trainval.txt"


@dataclass(frozen=True)
class Lists:
    """A data set with its usual split.

    Attributes:
        root: folder of the paths.
        train: training images; with validation images, if the authors separate them.
        test: images to score.
        classes: class names, in the order of their numbers.
    """

    root: str
    train: list[LabeledPath]
    test: list[LabeledPath]
    classes: list[str]


def aircraft(root: str, split: int) -> Lists:
    """FGVC-Aircraft (Maji et al. 2013): 100 variants; `trainval` → `test`."""
    folder, _ = find_folder(
        root, {"fgvc-aircraft-2013b/data": "variants.txt", "data": "variants.txt"}
    )

    def part(name: str) -> list[LabeledPath]:
        lines = (line.partition(" ") for line in read_names(f"{folder}/images_variant_{name}.txt"))
        return [(f"images/{number}.jpg", (variant.strip(),)) for number, _, variant in lines]

    return Lists(folder, part("trainval"), part("test"), read_names(f"{folder}/variants.txt"))


def caltech101(root: str, split: int) -> Lists:
    """Caltech-101 (Fei-Fei et al. 2004): 30 images of each of 102 folders → the rest.

    The background folder is included. The authors define no split; this one is drawn by its number.
    """
    folder = os.path.join(root, "101_ObjectCategories")
    folder = folder if os.path.isdir(folder) else root
    paths = [path for path in scan(folder).images if "/" in path]
    classes = sorted({path.partition("/")[0] for path in paths})
    if len(classes) < 2:
        raise ValueError(
            f"`{root}` has no 101_ObjectCategories with class folders. It must be the unpacked "
            "data set. Check `data.root`."
        )
    labels = np.array([classes.index(path.partition("/")[0]) for path in paths], np.int64)
    pool = np.arange(len(paths), dtype=np.int64)
    chosen = set(
        some_of_each(labels, pool, key_of(split, "caltech101"), per_class=_PER_CLASS).tolist()
    )
    listed: list[LabeledPath] = [(path, (path.partition("/")[0],)) for path in paths]
    train = [item for i, item in enumerate(listed) if i in chosen]
    return Lists(folder, train, [item for i, item in enumerate(listed) if i not in chosen], classes)


def cars(root: str, split: int) -> Lists:
    """Stanford Cars (Krause et al. 2013): 196 models; needs scipy."""
    folder, _ = find_folder(root, {"stanford_cars": "devkit/cars_meta.mat"})
    classes = [str(name) for name in _matlab(f"{folder}/devkit/cars_meta.mat", "class_names")]
    withlabels = "cars_test_annos_withlabels.mat"
    test = (
        f"{folder}/{withlabels}"
        if os.path.isfile(f"{folder}/{withlabels}")
        else f"{folder}/devkit/{withlabels}"
    )

    def part(path: str, images: str) -> list[LabeledPath]:
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
    """Describable Textures (Cimpoi et al. 2014): 47 textures in 10 splits; train and val → test."""
    _between(split, 10, "dtd")
    folder, _ = find_folder(root, {"dtd": f"labels/test{split}.txt"})

    def part(name: str) -> list[LabeledPath]:
        paths = read_names(f"{folder}/labels/{name}{split}.txt")
        return [(f"images/{path}", (path.partition("/")[0],)) for path in paths]

    train = [*part("train"), *part("val")]
    return Lists(folder, train, part("test"), _named(train))


def flowers102(root: str, split: int) -> Lists:
    """Oxford Flowers (Nilsback and Zisserman 2008): 102 flowers, train and val → test; scipy."""
    folder, _ = find_folder(
        root, {"flowers-102": "imagelabels.mat", "oxford_flowers102": "imagelabels.mat"}
    )
    labels = _matlab(f"{folder}/imagelabels.mat", "labels").astype(np.int64)
    classes = [str(number) for number in range(1, int(labels.max()) + 1)]

    def part(name: str) -> list[LabeledPath]:
        numbers = _matlab(f"{folder}/setid.mat", name).astype(np.int64).tolist()
        return [(f"jpg/image_{number:05d}.jpg", (str(labels[number - 1]),)) for number in numbers]

    return Lists(folder, [*part("trnid"), *part("valid")], part("tstid"), classes)


def food101(root: str, split: int) -> Lists:
    """Food-101 (Bossard et al. 2014): 101 dishes, 750 images of each → 250."""
    folder, _ = find_folder(root, {"food-101": "meta/train.txt"})

    def part(name: str) -> list[LabeledPath]:
        paths = read_names(f"{folder}/meta/{name}.txt")
        return [(f"images/{path}.jpg", (path.partition("/")[0],)) for path in paths]

    return Lists(folder, part("train"), part("test"), read_names(f"{folder}/meta/classes.txt"))


def pets(root: str, split: int) -> Lists:
    """Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds; `trainval.txt` → `test.txt`."""
    folder, _ = find_folder(root, {"oxford-iiit-pet": _PETS, "oxford_pets": _PETS})

    def part(name: str) -> list[LabeledPath]:
        lines = [
            line.split()
            for line in read_names(f"{folder}/annotations/{name}.txt")
            if not line.startswith("#")
        ]
        return [(f"images/{line[0]}.jpg", (line[0].rpartition("_")[0],)) for line in lines]

    train = part("trainval")
    return Lists(folder, train, part("test"), _named(train))


def sun397(root: str, split: int) -> Lists:
    """SUN397 (Xiao et al. 2010): 397 classes in 10 splits of 50 → 50 images of each."""
    _between(split, 10, "sun397")
    folder, _ = find_folder(root, {"SUN397": "ClassName.txt"})
    folders = (folder, f"{folder}/Partitions", f"{folder}/../Partitions", root)
    lists = next((p for p in folders if os.path.isfile(f"{p}/Training_{split:02d}.txt")), folder)

    def part(name: str) -> list[LabeledPath]:
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

    Objects marked as difficult count as present; the authors leave them out of the score of their
    class.
    """
    lists = "ImageSets/Main"
    folder, _ = find_folder(
        root, {name: f"{lists}/aeroplane_test.txt" for name in ("VOC2007", "VOCdevkit/VOC2007")}
    )
    ending = "_trainval.txt"
    files = sorted(name for name in os.listdir(f"{folder}/{lists}") if name.endswith(ending))
    classes = [name.removesuffix(ending) for name in files]

    def part(name: str) -> list[LabeledPath]:
        tags: dict[str, list[str]] = {}
        for title in classes:
            for line in read_names(f"{folder}/{lists}/{title}_{name}.txt"):
                number, _, present = line.partition(" ")
                tags.setdefault(number, []).extend([title] if int(present) >= 0 else [])
        return [(f"JPEGImages/{number}.jpg", tuple(own)) for number, own in sorted(tags.items())]

    return Lists(folder, part("trainval"), part("test"), classes)


LAYOUTS: dict[str, Callable[[str, int], Lists]] = {
    "aircraft": aircraft, "caltech101": caltech101, "cars": cars, "dtd": dtd,
    "flowers102": flowers102, "food101": food101, "pets": pets, "sun397": sun397,
    "voc2007": voc2007,
}  # fmt: skip


def _named(items: Iterable[LabeledPath]) -> list[str]:
    return sorted({name for _, names in items for name in names})


def _nth(classes: Sequence[str], number: int, path: str) -> str:
    if not 1 <= number <= len(classes):
        raise ValueError(
            f"`{path}` must number classes 1 to {len(classes)}, got {number}. Get the file again."
        )
    return classes[number - 1]


def _between(split: int, count: int, name: str) -> None:
    if not 1 <= split <= count:
        raise ValueError(
            f"`split` must be 1 to {count} for {name}, got {split}. 1 is the usual one."
        )


def _matlab(path: str, name: str) -> Any:
    """Read one variable of a Matlab file, flat; needs scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"`{path}` is a Matlab file, and scipy is not installed. Run `pip install scipy`."
        ) from None
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True, variable_names=[name])[name])
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"`{path}` has no {name} ({detail}). It must be the authors' file. Get it again."
        ) from None


Name = Literal[
    "aircraft", "caltech101", "cars", "dtd", "flowers102", "food101", "pets", "sun397", "voc2007"
]


class TransferSet(ImageFolder):
    """Use a transfer data set as its authors distribute it.

    FGVC-Aircraft, Caltech-101, Stanford Cars, DTD, Flowers-102, Food-101, Pets, SUN397, VOC 2007.
    Images are read as by `image_folder`.

    Args:
        name: name of the data set.
        root: the unpacked data set, or the folder above.
        size: height and width of a whole sample, in pixels.
        split: one of the 10 splits of `dtd` and `sun397`, or any whole number for
            `caltech101`, whose 30 training images a class are drawn; the others have one split.
        max_pixels: images with more pixels are unreadable; checked before decoding.
        interpolation: filter by which whole samples are resized.
        allow_outside: whether the lists may lead outside of the folder, by `../a`, absolute paths,
            and symbolic links; set it for lists that you trust.

    Attributes:
        classes: names of the classes.
        labels: int64 `[N]`; −1 for `voc2007`, whose images have several.

    Raises:
        ValueError: when a file of the data set is missing or malformed.
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
        interpolation: Interpolation = "bilinear",
        allow_outside: bool = False,
    ) -> None:
        self.interpolation = check_interpolation(interpolation)
        if name not in LAYOUTS:
            raise ValueError(
                f"`name` must be one of {', '.join(LAYOUTS)}, got {name!r}. Choose one."
            )
        if size < 1 or max_pixels < 1:
            raise ValueError(
                f"`size` and `max_pixels` must be 1 or more, got size={size} and "
                f"max_pixels={max_pixels}. 224 and 50000000 are the defaults."
            )
        lists = LAYOUTS[name](os.fspath(root), split)
        if not allow_outside:
            paths = [path for path, _ in (*lists.train, *lists.test)]
            require_inside(lists.root, paths, f"the lists of {name}", has_key=True)
        self.name, self.root, self.size, self.max_pixels = name, lists.root, size, max_pixels
        self.input = Input((3, size, size), IMAGENET_MEAN, IMAGENET_STD)
        self.split, self.scored, self.classes = "train", "test", lists.classes
        position = {title: number for number, title in enumerate(lists.classes)}
        unknown = next(
            (t for _, own in (*lists.train, *lists.test) for t in own if t not in position), None
        )
        if unknown is not None or not lists.train or not lists.test:
            problem = (
                f"names the class {unknown!r}, which is not listed"
                if unknown is not None
                else "has a list without an image"
            )
            raise ValueError(
                f"`{lists.root}` {problem}. It must have the authors' files. Unpack the data set "
                "again."
            )
        self._tags, self._scored_tags = (
            _table(part, position) for part in (lists.train, lists.test)
        )
        self._paths, self._scored_paths = (
            PathList([path for path, _ in part]) for part in (lists.train, lists.test)
        )
        self.labels, self._scored_labels = self._single(self._tags), self._single(self._scored_tags)

    def _single(self, tags: npt.NDArray[np.bool_]) -> Index:
        """Return the labels of images with one label each; −1 for tags."""
        if self.name == "voc2007":
            return np.full(len(tags), -1, np.int64)
        return np.asarray(tags.argmax(axis=1), np.int64)

    def read(self, index: int) -> Sample:
        """Read the middle of an image; the label of `voc2007` is a bool tensor `[classes]`."""
        sample = super().read(index)
        if self.name == "voc2007":
            sample["label"] = torch.from_numpy(self._tags[index])
        return sample

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and the task over the usual split."""
        if self.name != "voc2007":
            return super().evaluation()
        both = copy.copy(self)
        both._tags = np.concatenate([self._tags, self._scored_tags])
        both.labels = np.full(len(both._tags), -1, np.int64)
        both._paths = PathList([*self._paths, *self._scored_paths])
        rows = np.arange(len(both._tags), dtype=np.int64)
        train, test = rows[: len(self)], rows[len(self) :]
        return both, [Task("label/test", "tag", both._tags, train, test, self.classes)]


def _table(part: Sequence[LabeledPath], position: dict[str, int]) -> npt.NDArray[np.bool_]:
    table = np.zeros((len(part), len(position)), np.bool_)
    for row, (_, own) in enumerate(part):
        table[row, [position[title] for title in own]] = True
    return table
