"""Listing a folder: images, classes, splits and links, against the paths that were made."""

import os
from pathlib import Path

import pytest

from mezzotint.data.folder import class_of, files_fingerprint, scan, split_of


def fill(root: Path, *paths: str) -> str:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x" * len(path))
    return str(root)


def test_files_are_sorted_by_kind_and_by_bytes(tmp_path: Path) -> None:
    root = fill(
        tmp_path, "b/2.PNG", "b/10.jpg", "a/é.webp", "a/notes.txt", ".hidden/1.png", "B.gif"
    )
    os.symlink(tmp_path / "b", tmp_path / "link")
    listing = scan(root)
    assert listing.images == ["B.gif", "a/é.webp", "b/10.jpg", "b/2.PNG"]
    assert listing.others == ["a/notes.txt"] and listing.links == ["link"]
    assert listing.folders == ["a", "b"] and listing.splits() == []


def test_splits_need_train_and_nothing_else(tmp_path: Path) -> None:
    root = fill(tmp_path, "val/cat/1.png", "train/cat/1.png")
    assert scan(root).splits() == ["train", "val"]
    fill(tmp_path, "extra/1.png")
    assert scan(root).splits() == []


def test_classes_without_an_image_are_named(tmp_path: Path) -> None:
    root = fill(tmp_path, "train/cat/deep/1.png", "train/dog/notes.txt", "val/cat/1.png")
    (tmp_path / "test").mkdir()
    assert scan(root).empty_classes() == ["test", "train/dog"]


@pytest.mark.parametrize(
    ("path", "splits", "split", "name"),
    [
        ("cat/1.png", [], None, "cat"),
        ("1.png", [], None, None),
        ("train/cat/x/1.png", ["train"], "train", "cat"),
        ("train/1.png", ["train"], "train", None),
    ],
)
def test_class_and_split_of_a_path(
    path: str, splits: list[str], split: str | None, name: str | None
) -> None:
    assert split_of(path, splits) == split and class_of(path, split) == name


def test_the_fingerprint_sees_names_sizes_and_missing_files(tmp_path: Path) -> None:
    root = fill(tmp_path, "a.png", "b.png")
    first = files_fingerprint(root, [b"a.png", b"b.png"])
    assert first == files_fingerprint(root, [b"a.png", b"b.png"]) and len(first) == 16
    assert first != files_fingerprint(root, [b"b.png", b"a.png"])
    (tmp_path / "b.png").write_bytes(b"longer content")
    longer = files_fingerprint(root, [b"a.png", b"b.png"])
    (tmp_path / "b.png").unlink()
    assert len({first, longer, files_fingerprint(root, [b"a.png", b"b.png"])}) == 3


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, wrong in (("file", "is a file"), ("gone", "does not exist")):
        with pytest.raises(
            ValueError, match=f"{name}` {wrong}. It must be a folder of images. Check"
        ):
            scan(str(tmp_path / name))
