"""Listing a folder: samples, links and leftovers, against the paths that were made."""

import os
from pathlib import Path

import pytest

from mezzotint.data.listing.folder import files_fingerprint, scan


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
    assert listing.folders == ["a", "b"] and listing.leftovers == [".hidden"]


@pytest.mark.parametrize(
    "name", ["__MACOSX", ".ipynb_checkpoints", "__pycache__", "@eaDir", "$RECYCLE.BIN"]
)
def test_leftovers_of_other_programs_are_not_listed(name: str, tmp_path: Path) -> None:
    listing = scan(fill(tmp_path, "cat/1.png", "cat/._1.png", f"cat/{name}/1.png", f"{name}/2.png"))
    assert listing.images == ["cat/1.png"] and listing.folders == ["cat"]
    assert listing.leftovers == sorted([name, f"cat/{name}"], key=os.fsencode)
    # A file of this name is no folder of leftovers.
    assert scan(fill(tmp_path / "other", "__MACOSX")).others == ["__MACOSX"]


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
