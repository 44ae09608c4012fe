"""NumPy files by name, never a pickle; labels against np.unique."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mezzotint.data.formats.numpy_files import (
    array_uses,
    label_indices,
    label_names,
    named_array,
    numpy_arrays,
    with_class_names,
)
from mezzotint.data.table.table import Table
from mezzotint.recipe.schema import construct, resolve


def test_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.ones(2))
    np.save(tmp_path / "a.npy", np.arange(4))
    found = numpy_arrays(tmp_path / "a.npz", "an .npz file")
    assert found.keys() == {"x", "y"} and found["x"].tolist() == [0, 1, 2]
    single = numpy_arrays(tmp_path / "a.npy", "an .npy file", single="tokens")
    assert single["tokens"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"PK", b"hello"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="a.npz` cannot be read .* It must be an .npz file, never"):
        numpy_arrays(tmp_path / "a.npz", "an .npz file")


def test_pickles_and_unnamed_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "a.npy", np.arange(4))
    for name, reason in (
        ("a.npz", "array .x. has Python objects"),
        ("a.npy", "one array without a name"),
    ):
        with pytest.raises(ValueError, match=f"{name}` cannot be read .*{reason}"):
            numpy_arrays(tmp_path / name, "an .npz file")


def test_archives_that_unpack_to_too_much_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        for _ in range(17):
            member.write(bytes(16 << 20))
    assert path.stat().st_size < 2 << 20
    with pytest.raises(ValueError, match="bomb.npz` cannot be read .it unpacks to 285 MB, more"):
        numpy_arrays(path, "an .npz file")
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(1 << 20))  # small: no harm
    assert numpy_arrays(tmp_path / "zeros.npz", "an .npz file")["x"].size == 1 << 20


def test_members_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="its member 'readme.txt' is not an array"):
        numpy_arrays(tmp_path / "a.npz", "an .npz file")


def test_labels_are_indices_of_sorted_names() -> None:
    words = np.array(["dog", "cat", "dog"])
    labels, names = label_indices(words, 3, "y")
    assert names == ["cat", "dog"] and [names[label] for label in labels] == words.tolist()
    labels, names = label_indices(np.array([5, -1, 3, 5]), 4, "y")
    assert names == ["3", "5"] and labels.tolist() == [1, -1, 0, 1]
    labels, names = label_indices(np.array([True, False]), 2, "y")
    assert names == ["False", "True"] and labels.tolist() == [1, 0]


def test_labels_of_a_column_whole_floats_and_signs() -> None:
    labels, names = label_indices(np.array([[2], [0], [2]]), 3, "y")
    assert names == ["0", "2"] and labels.tolist() == [1, 0, 1]
    labels, names = label_indices(np.array([10.0, -1.0, 9.0]), 3, "y")
    assert names == ["9", "10"] and labels.tolist() == [1, -1, 0]
    labels, names = label_indices(np.array([1, -1, -1, 1]), 4, "y")  # two classes of an SVM
    assert names == ["-1", "1"] and labels.tolist() == [1, 0, 0, 1]
    labels, names = label_indices(np.array(["a", "", "b"]), 3, "y")
    assert names == ["a", "b"] and labels.tolist() == [0, -1, 1]
    big = np.array([2**60, 2**60 + 1])
    assert label_indices(big, 2, "y")[1] == [str(2**60), str(2**60 + 1)]
    assert label_names(big) == [str(2**60), str(2**60 + 1)]


def test_an_array_is_chosen_by_name_and_a_single_one_needs_none() -> None:
    assert named_array("x", {"a": 1, "x": 2}, "f.npz", "points") == "x"
    assert named_array("x", {"arr_0": 1}, "f.npz", "points") == "arr_0"
    with pytest.raises(ValueError, match="has no array 'x', only a, b. Name the points with"):
        named_array("x", {"a": 1, "b": 2}, "f.npz", "points")
    with pytest.raises(ValueError, match="has no array 'z', only a"):
        named_array("z", {"a": 1}, "f.npz", "points")
    uses = array_uses({"x": np.zeros((2, 3)), "odd": np.zeros(2)}, {"x": "series", "y": "label"})
    assert [(use.name, use.use) for use in uses] == [("x", "series"), ("odd", "left out")]


@pytest.mark.parametrize(
    "values", [np.zeros(3), np.zeros(2, np.int64), np.zeros((4, 2), np.int64), np.full(4, 0.5)]
)
def test_labels_of_other_types_or_shapes_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="y must hold 4 integers or strings, one for each row"):
        label_indices(values, 4, "y", "row")


def test_numbers_of_classes_get_their_names_in_every_modality(tmp_path: Path) -> None:
    labels, names = np.array([0, 2, 0, -1, 2, 2]), np.array(["cat", "dog", "owl"])
    files: dict[str, Any] = {
        "arrays": np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4),
        "point_clouds": np.random.default_rng(0).normal(size=(6, 8, 3)),
        "series": np.random.default_rng(0).normal(size=(6, 1, 8)),
        "tokens": np.arange(24).reshape(6, 4),
        "table": np.random.default_rng(0).normal(size=(6, 2)),
    }
    for kind, x in files.items():
        path = str(tmp_path / f"{kind}.npz")
        np.savez(path, x=x, y=labels, classes=names)
        more: dict[str, Any] = (
            {"y": "y"} if kind == "table" else {"length": 4} if kind == "tokens" else {}
        )
        config = resolve({"kind": kind, "path": path, **more}, "Source", "data")
        source = construct(config, "Source", {})
        assert list(source.classes) == ["cat", "owl"], kind
        np.savez(path, x=x, y=labels, classes=names[:2])
        with pytest.raises(ValueError, match="classes must name every label, got 2 names and the"):
            construct(config, "Source", {})


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([1.0, np.nan, 0.0, 10.0]), ["1", None, "0", "10"]),
        (np.array([0.1, np.nan, 0.2], np.float32), ["0.1", None, "0.2"]),
        (np.array([np.nan, np.inf]), [None, None]),
        (np.array([-1.0, np.nan, 1.0]), ["-1", None, "1"]),
        (np.array([-1.0, 0.0, 1.0]), [None, "0", "1"]),
        (np.array([2, -1, 0]), ["2", None, "0"]),
        (np.array([True, False]), ["True", "False"]),
        (np.array(["a", ""]), ["a", None]),
    ],
)
def test_labels_have_one_name_in_each_type(
    values: np.ndarray, names: list[str | None], tmp_path: Path
) -> None:
    """NaN is no class, and a label has the same name as a float or an integer."""
    assert label_names(values) == names
    if "0.1" not in names:
        labels, classes = label_indices(values, len(values), "y")
        assert [classes[i] if i >= 0 else None for i in labels] == names
    x = np.arange(float(len(values)))
    np.savez(tmp_path / "a.npz", x=x[:, None], y=values)
    if any(names):
        table = Table(path=str(tmp_path / "a.npz"))
        assert sorted(table.classes) == sorted(name for name in names if name is not None)


def test_bytes_are_text(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", y=np.array(["é".encode(), b"b"]), x=np.array([b"\xff"]))
    arrays = numpy_arrays(tmp_path / "a.npz", "an .npz file")
    assert arrays["y"].tolist() == ["é", "b"] and arrays["x"].dtype.kind == "S"
    assert label_indices(np.array([b"b", b"a", b""]), 3, "y")[1] == ["a", "b"]


def test_class_names_of_floats(tmp_path: Path) -> None:
    names = {"classes": np.array(["cat", "dog"])}
    assert with_class_names(np.array([1.0, np.nan, 0.0]), names, "a").tolist() == ["dog", "", "cat"]
