"""The layout rule, against folders whose splits and classes are known; and over all modalities."""

import unicodedata
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.listing.folder import Listing, scan
from mezzotint.data.listing.layout import (
    Parts,
    empty_classes,
    layout_of,
    parts_of,
    role_of,
    role_of_file,
    roles_of,
    scored_role,
)
from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.source import Source
from mezzotint.data.tokens.tokens import Tokens
from mezzotint.data.video.folder import VideoFolder


def parts(*paths: str, split: str | None = None) -> Parts:
    return parts_of(Listing("photos", images=sorted(paths)), split=split)


def classes(found: Parts) -> list[str | None]:
    return [found.layout.class_of(path) for path in found.train]


def test_names_of_splits_have_any_case() -> None:
    names = ("Train", "TRAINING", "Valid", "dev", "Testing", "tests")
    roles = ["train", "train", "val", "val", "test", None]
    assert [role_of(name) for name in names] == roles
    assert [role_of_file(n) for n in ("ply_data_test0", "latest", "x.val", "train_1", "data")] == [
        "test", None, "val", "train", None,
    ]  # fmt: skip


def test_a_column_names_splits_if_all_its_entries_do() -> None:
    assert roles_of(["Train", "test", " ", "DEV"]) == ["train", "test", None, "val"]
    assert roles_of(["train", "left"]) is None and roles_of(["test", "test"]) is None
    roles = ["train", "val", "test"]
    assert scored_role(roles, [True, True, True]) == "val"
    assert scored_role(roles, [True, True, True], first="test") == "test"
    assert scored_role(roles, [True, False, True]) == "test"
    assert scored_role(roles, [True, False, False]) is None


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("other", ["val", "VALID", "Validation", "dev", "test", "testing"])
def test_every_pair_of_splits_is_known(train: str, other: str) -> None:
    found = parts(f"{train}/cat/1.png", f"{train}/dog/2.png", f"{other}/cat/3.png")
    assert found.train == [f"{train}/cat/1.png", f"{train}/dog/2.png"]
    assert found.scored == [f"{other}/cat/3.png"] and found.name == other.lower()
    assert classes(found) == ["cat", "dog"]


@pytest.mark.parametrize(
    ("paths", "train", "scored"),
    [
        # Beside a training split and another one, other folders and files are left out.
        ("train/a/1 train/b/2 val/a/3 extra/4 5", "train/a/1 train/b/2", "val/a/3"),
        # A training split with class folders needs no other split.
        ("train/a/1 train/b/2 annotations/3", "train/a/1 train/b/2", ""),
        ("train/a/1 train/b/2 extra/3", "train/a/1 train/b/2", ""),
        # A class of railway trains, beside other classes.
        ("car/1 plane/2 train/3", "car/1 plane/2 train/3", ""),
        # A test split next to classes is never trained on, labeled or not.
        ("cat/1 dog/2 test/3", "cat/1 dog/2", ""),
        ("cat/1 dog/2 test/cat/3", "cat/1 dog/2", "test/cat/3"),
        # A split without classes of the training split is not scored; the next one may be.
        ("train/a/1 train/b/2 val/3 test/a/4", "train/a/1 train/b/2", "test/a/4"),
        ("train/a/1 train/b/2 test/unknown/3", "train/a/1 train/b/2", ""),
        # Without a training split and anything else, the first split is trained on.
        ("val/a/1 test/a/2", "val/a/1", "test/a/2"),
        ("test/a/1 test/b/2", "test/a/1 test/b/2", ""),
        # Folders around everything, also around splits.
        ("pets/a/1 pets/b/2", "pets/a/1 pets/b/2", ""),
        ("zip/pets/train/a/1 zip/pets/val/a/2", "zip/pets/train/a/1", "zip/pets/val/a/2"),
        ("pets/images/a/1 pets/masks/a/1", "pets/images/a/1", ""),
        # Splits inside the classes, as in ModelNet40.
        ("a/train/1 a/test/2 b/train/3", "a/train/1 b/train/3", "a/test/2"),
        ("a/train/1 a/deep/2 b/train/3", "a/deep/2 a/train/1 b/train/3", ""),
    ],
)
def test_what_is_trained_on_and_scored(paths: str, train: str, scored: str) -> None:
    found = parts(*paths.split())
    assert found.train == train.split() and found.scored == scored.split()


def test_classes_below_wrappers_splits_and_folds() -> None:
    assert classes(parts("pets/a/deep/1", "pets/b/2")) == ["a", "b"]
    assert classes(parts("pets/train/a/1", "pets/train/b/2", "pets/val/a/3")) == ["a", "b"]
    # One class with deeper folders and files of its own is no folder around everything.
    assert classes(parts("a/1", "a/deep/2")) == ["a", "a"]
    # Classes named as splits below a split, as CIFAR-100 has one.
    assert classes(parts("test/bear/1", "train/bear/2", "train/train/3")) == ["bear", "train"]
    assert classes(parts("a/train/1", "a/test/2", "b/train/3")) == ["a", "b"]
    folds = parts("fold1/a/1", "fold2/b/2", "fold10/a/3")
    assert classes(folds) == ["a", "a", "b"]
    assert [folds.layout.fold_of(path) for path in folds.train] == [1, 10, 2]
    assert classes(parts("fold1/1", "fold2/2")) == [None, None]


def test_the_split_to_train_on_can_be_named() -> None:
    found = parts("train/a/1", "train/b/2", "Val/a/3", split="val")
    assert found.train == ["Val/a/3"] and found.scored == []
    with pytest.raises(ValueError, match="`split` must be one of the splits of photos, train, Val"):
        parts("train/a/1", "Val/a/3", split="test")


def test_notes_name_what_is_left_out_and_why(tmp_path: Path) -> None:
    for name in ("set/train/a/1", "set/train/b/1", "set/val/a/1", "set/val/c/1", "set/extra/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "set/test").mkdir()
    (tmp_path / "set/test/1.png").touch()
    (tmp_path / "__MACOSX").mkdir()
    for name in ("1.HEIC", "2.heic", "notes.txt"):
        (tmp_path / "set/train/a" / name).touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "set/test/1.png")
    assert parts_of(scan(str(tmp_path))).notes == (
        "`val` has `c`, and `train` has no sample of it",
        "`test` has no class folders, so its 1 images are neither trained on nor scored",
        "everything is in `set`",
        "left out: `set/extra` (1 images), `__MACOSX`",
        "not read: 2 .heic, 1 .txt (`pip install 'mezzotint[heic]'` reads .heic)",
        "not followed: 1 symbolic link",
    )


def test_long_lists_of_notes_are_cut() -> None:
    listing = Listing("x", images=["train/a/1", "val/a/1"], leftovers=[f".{i}" for i in range(9)])
    assert parts_of(listing).notes == ("left out: `.0`, `.1`, `.2`, `.3` and 5 more",)


def test_classes_without_a_sample_are_named() -> None:
    listing = Listing(
        "x",
        images=["train/cat/deep/1.png", "val/cat/1.png"],
        folders=["annotations", "test", "train", "train/cat", "train/cat/deep", "train/dog", "val",
                 "val/cat"],
    )  # fmt: skip
    assert empty_classes(listing) == ["test", "train/dog"]


def test_two_spellings_of_a_name_are_one_class() -> None:
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert one != two
    found = parts(f"train/{one}/1", "train/bar/1", f"val/{two}/2")
    assert found.scored == [f"val/{two}/2"]
    assert found.layout.class_of(found.scored[0]) == one
    assert layout_of([f"{two}/1", "bar/2"]).class_of(f"{two}/1") == one


def _image(path: Path, number: int) -> None:
    Image.fromarray(np.full((8, 8, 3), 10 * number, np.uint8)).save(path.with_suffix(".png"))


def _sound(path: Path, number: int) -> None:
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.arange(4000) * number % 999).astype(np.int16).tobytes())


def _points(path: Path, number: int) -> None:
    np.save(path.with_suffix(".npy"), np.random.default_rng(number).normal(size=(8, 3)))


def _text(path: Path, number: int) -> None:
    path.with_suffix(".txt").write_text(f"text number {number}")


def _video(path: Path, number: int) -> None:
    path.with_suffix(".mp4").write_bytes(bytes(number))  # listed, never read here


Make = Callable[[Path, int], None]
MODALITIES: dict[str, tuple[Make, Callable[[str], Source]]] = {
    "image": (_image, lambda root: ImageFolder(root=root, size=8)),
    "audio": (_sound, lambda root: AudioFolder(root=root, seconds=0.2)),
    "points": (_points, lambda root: point_clouds(path=root, points=8)),
    "tokens": (_text, lambda root: Tokens(path=root, length=16)),
    "video": (_video, lambda root: VideoFolder(root=root, frames=2, size=8)),
}


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_rule_holds_for_every_modality(modality: str, tmp_path: Path) -> None:
    make, open_folder = MODALITIES[modality]
    names = [
        "A/__MACOSX/x",
        "A/.ipynb_checkpoints/x",
        "__MACOSX/a/x",
        "A/annotations/x",
        "A/TEST/y",
    ]
    names += [f"A/{split}/{c}/{i}" for split in ("Train", "valid") for c in "ab" for i in range(3)]
    for number, name in enumerate(names, 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name, number)
    source: Any = open_folder(str(tmp_path))
    both, (task, *_) = source.evaluation()
    assert list(source.classes) == ["a", "b"] and task.name in ("label/valid", "label/test")
    assert len(source) == 6 and len(both) == 12
    assert all("Train" in source.id_of(i) for i in range(6))
    assert all("valid" in both.id_of(int(i)) for i in task.test)
    said = source.outcome()
    for word in ("2 classes", "train 6", "`__MACOSX`", "`A/annotations`", "`TEST` has no class",
                 "everything is in `A`"):  # fmt: skip
        assert word in said, (word, said)


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_unlabeled_test_split_gives_a_holdout_in_every_modality(
    modality: str, tmp_path: Path
) -> None:
    make, open_folder = MODALITIES[modality]
    names = [f"train/{c}/{i}" for c in "ab" for i in range(5)] + [f"test/{i}" for i in range(4)]
    for number, name in enumerate(names, 1):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name, number)
    both, (task, *_) = open_folder(str(tmp_path)).evaluation()
    assert task.name == "label/holdout" and len(task.test) == 2 and len(task.train) == 8
    assert all("train" in both.id_of(i) for i in range(len(both)))
