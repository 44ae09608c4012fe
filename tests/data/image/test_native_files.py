"""Arrays as images: axes, several arrays, boxes, and what is no image."""

import importlib.util
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from mezzotint.data.image import native_files
from mezzotint.data.image.decode import Undecodable
from mezzotint.data.image.native_files import axes_of, open_stored, require_packages

VALUES = np.random.default_rng(0).normal(size=(37, 53, 4)).astype(np.float32)


def write_zarr(path: Path, **arrays: Any) -> None:
    group = zarr.open_group(str(path), mode="w")
    for name, values in arrays.items():
        kept = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=values.shape)
        kept[...] = values


def read(path: Path, number: int = 0, box: Any = None, **given: Any) -> Any:
    with open_stored(str(path), 10**6, **given) as stored:
        return stored.read(number, box or (0, 0, stored.size("H"), stored.size("W")))


def refused(path: Path, **given: Any) -> str:
    with pytest.raises(Undecodable) as caught:
        read(path, **given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "given", "axes"),
    [
        ((40, 50), None, "HW"),
        ((40, 50, 3), None, "HWC"),
        ((13, 64, 64), None, "CHW"),
        ((1, 40, 50), None, "CHW"),
        ((1, 3, 40, 50), None, "1CHW"),
        ((1, 1, 40, 50), None, "1CHW"),
        ((9, 40, 50, 3), None, "NHWC"),
        ((9, 3, 40, 50), None, "NCHW"),
        ((100, 40, 50), "NHW", "NHW"),
        ((1, 100, 40, 50), "NHW", "1NHW"),
        ((40, 50, 200), "HWC", "HWC"),
    ],
)
def test_axes(shape: tuple[int, ...], given: str | None, axes: str) -> None:
    assert axes_of(shape, given) == axes


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((100, 40, 50), None, "the axes of an array of 100 x 40 x 50 are unclear"),
        ((4, 40, 4), None, "unclear"),
        ((5,), None, "an array of 5, and an image has 2 to 4 axes"),
        ((), None, "an array of a single number, and"),
        ((2, 3, 4, 5, 6), None, "2 to 4 axes"),
        ((40, 50), "NHW", "does not have the axes NHW"),
        ((3, 9, 40, 50), "NHW", "does not have the axes NHW"),
        ((0, 50), None, "has no pixels"),
    ],
)
def test_axes_that_nobody_can_tell(shape: Any, given: str | None, message: str) -> None:
    with pytest.raises(Undecodable, match=message):
        axes_of(shape, given)


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "zarr"])
def test_arrays_are_read_by_boxes_in_any_order_of_axes(tmp_path: Path, suffix: str) -> None:
    for name, values, axes in (
        ("hwc", VALUES, None),
        ("chw", VALUES.transpose(2, 0, 1), None),
        ("whc", VALUES.transpose(1, 0, 2), "WHC"),
    ):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "npy":
            np.save(path, values)
        elif suffix == "npz":
            np.savez(path, values)
        elif suffix == "h5":
            with h5py.File(path, "w") as file:
                file["deep/inside"] = values
        else:
            write_zarr(path, image=np.ascontiguousarray(values))
        np.testing.assert_array_equal(read(path, axes=axes), VALUES)
        box = read(path, box=(3, 5, 20, 30), axes=axes)
        np.testing.assert_array_equal(box, VALUES[3:23, 5:35])


def test_only_the_box_of_a_memory_map_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    with open_stored(str(tmp_path / "a.npy"), 10**6) as stored:
        assert isinstance(stored.values, np.memmap)
        assert np.shares_memory(stored.read(0, (0, 0, 9, 9)), stored.values)


@pytest.mark.parametrize("suffix", ["npz", "h5", "zarr"])
def test_several_arrays_are_chosen_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    arrays: dict[str, Any] = {"one": VALUES, "two": 2 * VALUES}
    if suffix == "npz":
        np.savez(path, **arrays)
        np.savez(tmp_path / "labelled.npz", x=VALUES, label=3, classes=["a"])
        np.testing.assert_array_equal(read(tmp_path / "labelled.npz"), VALUES)
    elif suffix == "h5":
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
            file["label"] = np.arange(3)  # no image, so it is no choice
    else:
        write_zarr(path, **arrays)
    np.testing.assert_array_equal(read(path, array="two"), arrays["two"])
    np.testing.assert_array_equal(read(path, array="/two"), arrays["two"])
    assert "the file has several arrays (one, two), choose one with data.reader.array" in refused(
        path
    )
    assert "the file has no array 'three' (one, two)" in refused(path, array="three")


def test_files_without_an_image(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "words.h5", "w") as file:
        file["text"] = "hello"
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    (tmp_path / "other.h5").write_bytes(b"no HDF5" * 20)
    write_zarr(tmp_path / "rows.zarr", rows=np.arange(9))
    (tmp_path / "folder.zarr").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((9, 9), complex))
    for name, message in (
        ("words.h5", "an array of object, and an image has numbers"),
        ("empty.h5", "the file has no array"),
        ("other.h5", "not an image: no HDF5 header"),
        ("rows.zarr", "not an image: an array of 9, and an image has 2 to 4 axes"),
        ("folder.zarr", "not an image: a folder without an array of zarr"),
        ("objects.npy", "unsupported: an array of Python objects"),
        ("complex.npy", "an array of complex128, and an image has numbers"),
        ("gone.npy", "missing: the file is gone"),
        ("gone.zarr", "missing: the file is gone"),
    ):
        assert message in refused(tmp_path / name), name


def test_a_package_that_is_missing_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        native_files, "find_spec", lambda name: None if name == "pydicom" else found(name)
    )
    require_packages(["a.png", "b.tif", "c.npy"])
    with pytest.raises(ValueError, match=r"`x.dcm` is read with pydicom, .*'mezzotint\[native\]'"):
        require_packages(["a.png", "x.dcm"])
