"""Lists with settings: trust, folds, tables of classes; and files cut into clips."""

from pathlib import Path

import pytest

from mezzotint.data.listing.file_list import (
    FileList,
    as_list,
    clip_name,
    cut_into_clips,
    parts_of_lists,
)
from mezzotint.data.listing.lists import ListedFile, read_list


def test_a_path_is_a_list_without_settings(tmp_path: Path) -> None:
    plain = as_list(str(tmp_path / "a.csv"))
    assert plain is not None and plain.path == str(tmp_path / "a.csv") and not plain.allow_outside
    own = FileList(path="b.csv", test_fold=3)
    assert as_list(own) is own and as_list(None) is None
    assert own.config == {"kind": "file_list", "path": "b.csv", "test_fold": 3}


def test_only_a_trusted_list_may_lead_outside(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\n../a.wav,x\n")
    with pytest.raises(ValueError, match="leads outside .*write `{path: .*, allow_outside: true}`"):
        parts_of_lists(str(root), str(listed), None, read_list)
    trusted = FileList(path=str(listed), allow_outside=True)
    assert [e.path for e in parts_of_lists(str(root), trusted, None, read_list).train] == [
        "../a.wav"
    ]
    own = tmp_path / "own.csv"
    own.write_text("path,label\nb.wav,x\n")
    with pytest.raises(ValueError, match="`.*list.csv` names"):
        parts_of_lists(str(root), str(own), str(listed), read_list)
    found = parts_of_lists(str(root), str(own), trusted, read_list)
    assert (len(found.train), len(found.scored), found.name) == (1, 1, "test")


def test_a_fold_and_a_second_list_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,label,fold\na.wav,x,1\nb.wav,y,2\n")
    own = FileList(path=str(path), test_fold=2)
    found = parts_of_lists(str(tmp_path), own, None, read_list)
    assert [e.path for e in found.train] == ["a.wav"] and [e.path for e in found.scored] == [
        "b.wav"
    ]
    with pytest.raises(ValueError, match="must be null where `test_files` says .* got test_fold=2"):
        parts_of_lists(str(tmp_path), own, str(path), read_list)


def test_files_are_cut_into_as_many_clips_as_fill_them() -> None:
    lengths = {"a": 10.0, "b": 1.9, "c": 0.3}

    def length(path: str) -> float:
        if path not in lengths:
            raise ValueError("broken")
        return lengths[path]

    entries = [ListedFile(name, ("x",), source="s") for name in "abcd"]
    clips = cut_into_clips(entries, 2.5, length)
    assert [(c.path, c.start) for c in clips] == [
        ("a", 0.0), ("a", 2.5), ("a", 5.0), ("a", 7.5), ("b", None), ("c", None), ("d", None),
    ]  # fmt: skip
    assert all(c.labels == ("x",) and c.source == "s" for c in clips)
    assert [clip_name(c.path, c.start) for c in clips[3:5]] == ["a#t=7.5", "b"]
