"""The transfer data sets, each in its authors' layout with a few tiny images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from mezzotint.data.image.transfer_set import TransferSet
from mezzotint.data.source import Source
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.suite import splits
from mezzotint.recipe.schema import construct, resolve

Expected = tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]
"""Classes; paths and class of the images to learn from; the same of those to be scored."""


def paint(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    level = sum(map(ord, path.stem)) % 200
    Image.fromarray(np.full((20, 24, 3), level, np.uint8)).save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def aircraft(root: Path) -> Expected:
    data = root / "fgvc-aircraft-2013b" / "data"
    write(data / "variants.txt", "707-320", "Boeing 717")
    write(data / "images_variant_trainval.txt", "0000001 707-320", "0000002 Boeing 717")
    write(data / "images_variant_test.txt", "0000003 Boeing 717")
    for number in (1, 2, 3):
        paint(data / "images" / f"{number:07d}.jpg")
    train = [("images/0000001.jpg", "707-320"), ("images/0000002.jpg", "Boeing 717")]
    return ["707-320", "Boeing 717"], train, [("images/0000003.jpg", "Boeing 717")]


def cars(root: Path) -> Expected:
    def annotations(numbers: dict[str, int]) -> dict[str, np.ndarray]:
        rows = np.array(
            [(1, k, f) for f, k in numbers.items()],
            dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")],
        )
        return {"annotations": rows}

    (root / "devkit").mkdir()
    names = np.array(["AM General Hummer", "Acura RL"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    savemat(root / "devkit" / "cars_train_annos.mat", annotations({"00001.jpg": 2, "00002.jpg": 1}))
    savemat(root / "cars_test_annos_withlabels.mat", annotations({"00001.jpg": 1, "00002.jpg": 2}))
    for folder in ("cars_train", "cars_test"):
        for number in (1, 2):
            paint(root / folder / f"{number:05d}.jpg")
    train = [("cars_train/00001.jpg", "Acura RL"), ("cars_train/00002.jpg", "AM General Hummer")]
    test = [("cars_test/00001.jpg", "AM General Hummer"), ("cars_test/00002.jpg", "Acura RL")]
    return ["AM General Hummer", "Acura RL"], train, test


def dtd(root: Path) -> Expected:
    parts = {
        "train": ["banded/banded_1.jpg", "woven/woven_1.jpg"],
        "val": ["woven/woven_2.jpg"],
        "test": ["banded/b_2.jpg"],
    }
    for name, paths in parts.items():
        write(root / "dtd" / "labels" / f"{name}1.txt", *paths)
        for path in paths:
            paint(root / "dtd" / "images" / path)
    found = {
        name: [(f"images/{p}", p.partition("/")[0]) for p in paths] for name, paths in parts.items()
    }
    return ["banded", "woven"], [*found["train"], *found["val"]], found["test"]


def flowers102(root: Path) -> Expected:
    savemat(root / "imagelabels.mat", {"labels": np.array([[2, 1, 2, 1]])})
    savemat(
        root / "setid.mat",
        {"trnid": np.array([[1]]), "valid": np.array([[4]]), "tstid": np.array([[3, 2]])},
    )
    for number in range(1, 5):
        paint(root / "jpg" / f"image_{number:05d}.jpg")
    train = [("jpg/image_00001.jpg", "2"), ("jpg/image_00004.jpg", "1")]
    return ["1", "2"], train, [("jpg/image_00003.jpg", "2"), ("jpg/image_00002.jpg", "1")]


def food101(root: Path) -> Expected:
    food = root / "food-101"
    write(food / "meta" / "classes.txt", "apple_pie", "waffles")
    write(food / "meta" / "train.txt", "apple_pie/10", "waffles/11")
    write(food / "meta" / "test.txt", "waffles/12")
    for path in ("apple_pie/10", "waffles/11", "waffles/12"):
        paint(food / "images" / f"{path}.jpg")
    train = [("images/apple_pie/10.jpg", "apple_pie"), ("images/waffles/11.jpg", "waffles")]
    return ["apple_pie", "waffles"], train, [("images/waffles/12.jpg", "waffles")]


def pets(root: Path) -> Expected:
    write(
        root / "annotations" / "trainval.txt",
        "# header",
        "Abyssinian_100 1 1 1",
        "american_bulldog_7 2 2 1",
    )
    write(root / "annotations" / "test.txt", "american_bulldog_8 2 2 1")
    for name in ("Abyssinian_100", "american_bulldog_7", "american_bulldog_8"):
        paint(root / "images" / f"{name}.jpg")
    train = [
        ("images/Abyssinian_100.jpg", "Abyssinian"),
        ("images/american_bulldog_7.jpg", "american_bulldog"),
    ]
    return (
        ["Abyssinian", "american_bulldog"],
        train,
        [("images/american_bulldog_8.jpg", "american_bulldog")],
    )


def sun397(root: Path) -> Expected:
    sun = root / "SUN397"
    write(sun / "ClassName.txt", "/a/abbey", "/a/apse/indoor")
    write(root / "Partitions" / "Training_01.txt", "/a/abbey/s1.jpg", "/a/apse/indoor/s2.jpg")
    write(root / "Partitions" / "Testing_01.txt", "/a/apse/indoor/s3.jpg")
    for path in ("a/abbey/s1", "a/apse/indoor/s2", "a/apse/indoor/s3"):
        paint(sun / f"{path}.jpg")
    train = [("a/abbey/s1.jpg", "a/abbey"), ("a/apse/indoor/s2.jpg", "a/apse/indoor")]
    return ["a/abbey", "a/apse/indoor"], train, [("a/apse/indoor/s3.jpg", "a/apse/indoor")]


LAYOUTS: list[Callable[[Path], Expected]] = [aircraft, cars, dtd, flowers102, food101, pets, sun397]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_usual_split(
    layout: Callable[[Path], Expected], tmp_path: Path
) -> None:
    classes, train, test = layout(tmp_path)
    config = resolve(
        {"kind": "transfer_set", "name": layout.__name__, "root": str(tmp_path), "size": 16},
        "Source",
        "data",
    )
    source: TransferSet = construct(config, "Source", {})
    assert (
        isinstance(source, Source) and source.croppable and source.config["name"] == layout.__name__
    )
    assert source.classes == classes and len(source) == len(train)
    found = [source.read(position) for position in range(len(source))]
    assert [(sample["id"], classes[sample["label"]]) for sample in found] == train  # type: ignore[index]
    assert found[0]["x"].shape == (3, 16, 16) and found[0]["x"].dtype == torch.uint8
    both, (task,) = source.evaluation()
    assert (task.name, task.kind, list(task.classes)) == ("label/test", "classify", classes)
    assert task.train.tolist() == list(range(len(train)))
    scored = [
        (both.read(position)["id"], classes[int(task.labels[position])])
        for position in task.test.tolist()
    ]
    assert scored == test
    assert len(source.fingerprint()) == 16


def test_caltech_has_thirty_of_each_class_and_the_rest(tmp_path: Path) -> None:
    for title, count in (("BACKGROUND_Google", 33), ("accordion", 31)):
        for number in range(count):
            paint(tmp_path / "101_ObjectCategories" / title / f"image_{number:04d}.jpg")
    first, again, other = (
        TransferSet(name="caltech101", root=str(tmp_path), size=8, split=s) for s in (1, 1, 2)
    )
    _, (task,) = first.evaluation()
    assert np.bincount(first.labels).tolist() == [30, 30] and np.bincount(
        task.labels[task.test]
    ).tolist() == [3, 1]
    names = [[source.id_of(position) for position in range(60)] for source in (first, again, other)]
    assert names[0] == names[1] != names[2]


def test_voc_is_a_task_of_tags(tmp_path: Path) -> None:
    lists = tmp_path / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main"
    own = {"aeroplane": "1 -1 -1 1", "cat": "-1 1 -1 1", "dog": "-1 0 -1 -1"}
    for title, marks in own.items():
        write(
            lists / f"{title}_trainval.txt",
            *(f"{n:06d} {m:>2}" for n, m in enumerate(marks.split())),
        )
        write(
            lists / f"{title}_test.txt",
            *(f"{10 + n:06d} {m:>2}" for n, m in enumerate(reversed(marks.split()))),
        )
    for number in (0, 1, 2, 3, 10, 11, 12, 13):
        paint(tmp_path / "VOCdevkit" / "VOC2007" / "JPEGImages" / f"{number:06d}.jpg")
    source = TransferSet(name="voc2007", root=str(tmp_path), size=16)
    assert (
        source.classes == ["aeroplane", "cat", "dog"]
        and source.read(0)["id"] == "JPEGImages/000000.jpg"
    )
    labels = [source.read(position)["label"] for position in range(4)]
    expected = [
        [True, False, False],
        [False, True, True],
        [False, False, False],
        [True, True, False],
    ]
    assert [label.tolist() for label in labels] == expected  # type: ignore[union-attr]
    both, (task,) = source.evaluation()
    assert task.kind == "tag" and task.labels[task.test].tolist() == expected[::-1]
    assert both.read(7)["label"].tolist() == expected[0]  # type: ignore[union-attr]
    x = torch.from_numpy(np.asarray(task.labels, np.float32)) + torch.arange(8)[:, None] * 1e-3
    for _, train, test in splits(Extraction(x, torch.arange(8)), [task]):
        rows = {row.metric: row.value for row in Linear().run(train, test)}
    assert rows["map"] == pytest.approx(1.0)  # features that say it all


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"name": "dtd"},
            "has no dtd/labels/test1.txt. It must be the unpacked data set, or the folder above",
        ),
        ({"name": "dtd", "split": 11}, "`split` must be 1 to 10 for dtd, got 11"),
        ({"name": "cub"}, "`name` must be one of aircraft, caltech101, .*, got 'cub'"),
        ({"name": "pets", "size": 0}, "got size=0"),
        ({"name": "caltech101"}, "has no 101_ObjectCategories with class folders"),
    ],
)
def test_what_is_missing_or_unknown_is_told(
    keys: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        TransferSet(root=str(tmp_path), **keys)  # type: ignore[arg-type]


def test_files_that_disagree_are_told(tmp_path: Path) -> None:
    aircraft(tmp_path)
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    write(data / "images_variant_test.txt", "0000003 Concorde")
    with pytest.raises(
        ValueError, match="names the class 'Concorde', which is not listed. It must have the"
    ):
        TransferSet(name="aircraft", root=str(tmp_path))
    flowers102(tmp_path)
    (tmp_path / "setid.mat").write_bytes(b"no matlab")
    with pytest.raises(
        ValueError, match=r"setid.mat` has no trnid \(.*\). It must be the authors' file"
    ):
        TransferSet(name="flowers102", root=str(tmp_path))
