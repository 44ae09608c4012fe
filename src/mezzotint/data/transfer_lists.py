"""Which images of the usual transfer data sets are for learning and which for scoring, read from the authors' files.

Each function takes the folder as the user gave it and the number of the split, and finds the files in there, or in the
folder of their usual name. Text and Matlab files are read; nothing is executed.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mezzotint.data.classic_files import find_folder, read_names
from mezzotint.data.folder import scan
from mezzotint.data.split import some_of_each
from mezzotint.seeding import key_of

Labelled = tuple[str, tuple[str, ...]]
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
    train: list[Labelled]
    test: list[Labelled]
    classes: list[str]


def aircraft(root: str, split: int) -> Lists:
    """FGVC-Aircraft (Maji et al. 2013): 100 variants; `images_variant_trainval.txt` → `images_variant_test.txt`."""
    folder, _ = find_folder(root, {"fgvc-aircraft-2013b/data": "variants.txt", "data": "variants.txt"})

    def part(name: str) -> list[Labelled]:
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
        raise ValueError(f"{root} has no 101_ObjectCategories with classes; allowed is the unpacked data set: check it")
    labels = np.array([classes.index(path.partition("/")[0]) for path in paths], np.int64)
    pool = np.arange(len(paths), dtype=np.int64)
    chosen = set(some_of_each(labels, pool, key_of(split, "caltech101"), per_class=_PER_CLASS).tolist())
    found: list[Labelled] = [(path, (path.partition("/")[0],)) for path in paths]
    train = [item for place, item in enumerate(found) if place in chosen]
    return Lists(folder, train, [item for place, item in enumerate(found) if place not in chosen], classes)


def cars(root: str, split: int) -> Lists:
    """Stanford Cars (Krause et al. 2013): 196 models; needs scipy, and `cars_test_annos_withlabels.mat`."""
    folder, _ = find_folder(root, {"stanford_cars": "devkit/cars_meta.mat"})
    classes = [str(name) for name in _matlab(f"{folder}/devkit/cars_meta.mat", "class_names")]
    withlabels = "cars_test_annos_withlabels.mat"
    test = f"{folder}/{withlabels}" if os.path.isfile(f"{folder}/{withlabels}") else f"{folder}/devkit/{withlabels}"

    def part(path: str, images: str) -> list[Labelled]:
        table = _matlab(path, "annotations")
        return [(f"{images}/{row['fname']}", (_nth(classes, int(row["class"]), path),)) for row in table]

    return Lists(folder, part(f"{folder}/devkit/cars_train_annos.mat", "cars_train"), part(test, "cars_test"), classes)


def dtd(root: str, split: int) -> Lists:
    """Describable Textures (Cimpoi et al. 2014): 47 textures in 10 splits; training and validation → test."""
    _between(split, 10, "dtd")
    folder, _ = find_folder(root, {"dtd": f"labels/test{split}.txt"})

    def part(name: str) -> list[Labelled]:
        paths = read_names(f"{folder}/labels/{name}{split}.txt")
        return [(f"images/{path}", (path.partition("/")[0],)) for path in paths]

    train = [*part("train"), *part("val")]
    return Lists(folder, train, part("test"), _named(train))


def flowers102(root: str, split: int) -> Lists:
    """Oxford Flowers (Nilsback and Zisserman 2008): 102 flowers; training and validation → test; needs scipy."""
    folder, _ = find_folder(root, {"flowers-102": "imagelabels.mat", "oxford_flowers102": "imagelabels.mat"})
    labels = _matlab(f"{folder}/imagelabels.mat", "labels").astype(np.int64)
    classes = [str(number) for number in range(1, int(labels.max()) + 1)]

    def part(name: str) -> list[Labelled]:
        numbers = _matlab(f"{folder}/setid.mat", name).astype(np.int64).tolist()
        return [(f"jpg/image_{number:05d}.jpg", (str(labels[number - 1]),)) for number in numbers]

    return Lists(folder, [*part("trnid"), *part("valid")], part("tstid"), classes)


def food101(root: str, split: int) -> Lists:
    """Food-101 (Bossard et al. 2014): 101 dishes, 750 images of each → 250."""
    folder, _ = find_folder(root, {"food-101": "meta/train.txt"})

    def part(name: str) -> list[Labelled]:
        paths = read_names(f"{folder}/meta/{name}.txt")
        return [(f"images/{path}.jpg", (path.partition("/")[0],)) for path in paths]

    return Lists(folder, part("train"), part("test"), read_names(f"{folder}/meta/classes.txt"))


def pets(root: str, split: int) -> Lists:
    """Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds; `trainval.txt` → `test.txt`."""
    folder, _ = find_folder(root, {"oxford-iiit-pet": _PETS, "oxford_pets": _PETS})

    def part(name: str) -> list[Labelled]:
        lines = [line.split() for line in read_names(f"{folder}/annotations/{name}.txt") if not line.startswith("#")]
        return [(f"images/{line[0]}.jpg", (line[0].rpartition("_")[0],)) for line in lines]

    train = part("trainval")
    return Lists(folder, train, part("test"), _named(train))


def sun397(root: str, split: int) -> Lists:
    """SUN397 (Xiao et al. 2010): 397 scenes in 10 splits of 50 → 50 images of each."""
    _between(split, 10, "sun397")
    folder, _ = find_folder(root, {"SUN397": "ClassName.txt"})
    places = (folder, f"{folder}/Partitions", f"{folder}/../Partitions", root)
    lists = next((p for p in places if os.path.isfile(f"{p}/Training_{split:02d}.txt")), folder)

    def part(name: str) -> list[Labelled]:
        paths = [line.lstrip("/") for line in read_names(f"{lists}/{name}_{split:02d}.txt")]
        return [(path, (path.rpartition("/")[0],)) for path in paths]

    return Lists(
        folder, part("Training"), part("Testing"), [n.lstrip("/") for n in read_names(f"{folder}/ClassName.txt")]
    )


def voc2007(root: str, split: int) -> Lists:
    """PASCAL VOC 2007 (Everingham et al. 2010), classification: 20 tags; `trainval` → `test`.

    An object that is marked as difficult is there; the authors leave it out of the score of its class.
    """
    lists = "ImageSets/Main"
    folder, _ = find_folder(root, {name: f"{lists}/aeroplane_test.txt" for name in ("VOC2007", "VOCdevkit/VOC2007")})
    ending = "_trainval.txt"
    files = sorted(name for name in os.listdir(f"{folder}/{lists}") if name.endswith(ending))
    classes = [name.removesuffix(ending) for name in files]

    def part(name: str) -> list[Labelled]:
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


def _named(items: Iterable[Labelled]) -> list[str]:
    return sorted({name for _, names in items for name in names})


def _nth(classes: Sequence[str], number: int, path: str) -> str:
    if not 1 <= number <= len(classes):
        raise ValueError(f"{path} has the class {number}; allowed are 1 to {len(classes)}: get the file again")
    return classes[number - 1]


def _between(split: int, most: int, name: str) -> None:
    if not 1 <= split <= most:
        raise ValueError(f"got split={split}; {name} has the splits 1 to {most}: 1 is the usual one")


def _matlab(path: str, name: str) -> Any:
    """One variable of a Matlab file, flat; needs scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(f"{path} is a Matlab file; reading it needs scipy: pip install scipy") from None
    try:
        return np.atleast_1d(loadmat(path, squeeze_me=True, variable_names=[name])[name])
    except Exception as error:  # whatever the reader raises on a damaged file
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} has no {name} ({detail}); allowed is the authors' file: get it again") from None
