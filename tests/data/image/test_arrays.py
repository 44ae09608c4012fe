import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mezzotint.data.image.arrays import Arrays
from mezzotint.data.memory import moments
from mezzotint.data.source import Source

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 7, 9), dtype=np.uint8)
RGB = RNG.integers(0, 256, (12, 7, 9, 3), dtype=np.uint8)


def stored(folder: Path, **named: npt.NDArray[Any]) -> str:
    np.savez(folder / "a.npz", **named)  # type: ignore[arg-type]
    return str(folder / "a.npz")


def refused(pattern: str, **keys: Any) -> None:
    with pytest.raises(ValueError, match=pattern) as caught:
        Arrays(**keys)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_images_and_labels(compressed: bool, tmp_path: Path) -> None:
    labels = np.arange(12) % 3 + 5
    (np.savez_compressed if compressed else np.savez)(tmp_path / "a.npz", x=RGB, y=labels)
    source = Arrays(path=str(tmp_path / "a.npz"))
    assert isinstance(source, Source) and source.in_memory and source.evaluation()[1]
    np.testing.assert_array_equal(source.images.numpy(), RGB.transpose(0, 3, 1, 2))
    assert source.classes == ["5", "6", "7"] and source.labels.tolist() == (labels - 5).tolist()
    sample = source.read(4)
    assert sample["id"] == "x/000004" and sample["label"] == 1
    assert torch.equal(source.read_batch(torch.tensor([4, 0])), source.images[[4, 0]])
    task = source.evaluation()[1][0]
    assert task.name == "label/holdout" and sorted([*task.train, *task.test]) == list(range(12))
    assert np.bincount(task.labels[task.test]).tolist() == [1, 1, 1]


def test_an_npy_has_images_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GRAY)
    source = Arrays(path=str(tmp_path / "a.npy"))
    assert (
        source.input.shape == (1, 7, 9)
        and source.read(0)["label"] is None
        and source.evaluation()[1] == []
    )
    np.testing.assert_array_equal(source.images[:, 0].numpy(), GRAY)


@pytest.mark.parametrize(
    ("values", "layout"),
    [
        (GRAY, "auto"),
        (RGB, "auto"),
        (RGB.transpose(0, 3, 1, 2), "auto"),
        (RGB.repeat(2, axis=3), "NHWC"),
        (RGB[:, :3, :, :], "NHWC"),
        (RGB[:, :3, :, :].transpose(0, 3, 1, 2), "NCHW"),
        (np.asfortranarray(RGB), "NHWC"),
        (RGB[:, ::-1], "NHWC"),
    ],
)
def test_layouts(values: npt.NDArray[np.uint8], layout: Any, tmp_path: Path) -> None:
    images = Arrays(path=stored(tmp_path, x=values), layout=layout).images.numpy()
    channels_last = {3: values[..., None]}.get(values.ndim, values)
    first = layout == "NCHW" or (layout == "auto" and values.ndim == 4 and values.shape[1] == 3)
    np.testing.assert_array_equal(images, values if first else channels_last.transpose(0, 3, 1, 2))
    assert images.flags.c_contiguous


@pytest.mark.parametrize("shape", [(5, 3, 8, 3), (5, 8, 8, 8), (5, 8), (5, 2, 3, 4, 5), (8,)])
def test_a_shape_that_can_be_read_in_two_ways_is_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = stored(tmp_path, x=np.zeros(shape, np.uint8))
    refused(r"x must be \[N, H, W\], .*, got shape \(.*Set layout=", path=path)


@pytest.mark.parametrize(
    ("shape", "layout"), [((5, 8, 8), "NCHW"), ((0, 8, 8), "auto"), ((5, 0, 8, 3), "NHWC")]
)
def test_a_shape_without_images_is_refused(
    shape: tuple[int, ...], layout: Any, tmp_path: Path
) -> None:
    refused(
        "x must have . non-empty dimensions .*, got shape .*Reshape",
        path=stored(tmp_path, x=np.zeros(shape, np.uint8)),
        layout=layout,
    )


@settings(deadline=None)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64, np.float16]),
        array_shapes(min_dims=3, max_dims=3, max_side=5),
        elements={"min_value": 0, "max_value": 1},
    )
)
def test_floats_are_rounded_to_eight_bits(
    tmp_path_factory: pytest.TempPathFactory, values: npt.NDArray[Any]
) -> None:
    images = Arrays(path=stored(tmp_path_factory.mktemp("a"), x=values)).images[:, 0].numpy()
    assert np.abs(images / 255 - values.astype(np.float64)).max() <= 0.5 / 255 + 1e-12


@settings(deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=4, max_dims=4, max_side=4)))
def test_bytes_are_kept(
    tmp_path_factory: pytest.TempPathFactory, values: npt.NDArray[np.uint8]
) -> None:
    source = Arrays(path=stored(tmp_path_factory.mktemp("a"), x=values), layout="NCHW")
    np.testing.assert_array_equal(source.images.numpy(), values)
    assert min(source.input.std) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(bad: float, tmp_path: Path) -> None:
    values = RNG.random((6, 5, 5))
    values[2, 1, 1] = values[4, 0, 0] = values[4, 0, 1] = bad
    refused("has NaN or infinity in 2 of 6 images. .*repair", path=stored(tmp_path, x=values))


@pytest.mark.parametrize("bad", [1.01, -0.01, 255.0])
def test_floats_out_of_range_are_refused(bad: float, tmp_path: Path) -> None:
    values = RNG.random((6, 5, 5))
    values[2, 1, 1] = bad
    refused(
        "must be uint8, or floats in .*, got values from .*Scale it first",
        path=stored(tmp_path, x=values),
    )


@pytest.mark.parametrize("kind", [np.int64, np.uint16, np.bool_, np.complex64])
def test_other_types_are_refused(kind: type, tmp_path: Path) -> None:
    refused(
        "must be uint8, or floats in .*, got .*Convert it",
        path=stored(tmp_path, x=GRAY.astype(kind)),
    )


class Marker:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


def test_a_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker, harmful = tmp_path / "executed", np.array([Marker(tmp_path / "executed")], dtype=object)
    np.savez(tmp_path / "x.npz", x=harmful, y=np.zeros(1, np.int64))
    np.savez(tmp_path / "y.npz", x=GRAY[:1], y=harmful)
    np.save(tmp_path / "x.npy", harmful, allow_pickle=True)
    for name in ("x.npz", "y.npz", "x.npy"):
        refused("has Python objects.*never a pickle", path=str(tmp_path / name))
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Marker(marker)))
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Marker(marker)))
    refused("is not a NumPy file", path=str(tmp_path / "raw.npy"))
    refused("a member of the archive is not an array", path=str(tmp_path / "raw.npz"))
    assert not marker.exists()
    pickle.loads((tmp_path / "raw.npy").read_bytes())
    assert marker.exists()  # the payload does work


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"hello world", b"\x80\x04N."]
)
def test_what_is_no_numpy_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    refused("a.npz` (cannot be read|is not a NumPy file)", path=str(tmp_path / "a.npz"))


@settings(deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read_right(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kept = io.BytesIO()
    np.savez_compressed(kept, x=GRAY)
    content = bytearray(kept.getvalue())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("a") / "a.npz"
    path.write_bytes(content)
    try:
        source = Arrays(path=str(path))
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:  # a bit that carries nothing, such as a time stamp
        np.testing.assert_array_equal(source.images[:, 0].numpy(), GRAY)


def test_a_header_that_promises_too_much(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**13, 8, 8)}
    )
    (tmp_path / "a.npy").write_bytes(header.getvalue() + b"\0" * 64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue() + b"\0" * 64)
    for name in ("a.npy", "a.npz"):
        refused(f"{name}` cannot be read", path=str(tmp_path / name))


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = stored(tmp_path, images=GRAY, target=np.arange(12))
    refused("has no array 'x', only images, target. Name the images", path=path)
    wanted = "has no array 'labels', only 'images', 'target'. Set `data.y`"
    refused(wanted, path=path, x="images", y="labels")
    assert Arrays(path=path, x="images").classes == []  # without y= labels are taken where they are
    assert len(Arrays(path=path, x="images", y="target").classes) == 12
    refused("gone.npz` cannot be opened .*Check `data.path`", path=str(tmp_path / "gone.npz"))


def test_labels_of_other_kinds(tmp_path: Path) -> None:
    names = np.array(["dog", "cat"] * 6)
    source = Arrays(path=stored(tmp_path, x=GRAY, y=names))
    assert source.classes == ["cat", "dog"] and source.read(0)["label"] == 1
    partly = np.array([-1] * 6 + [3, 4] * 3)
    source = Arrays(path=stored(tmp_path, x=GRAY, y=partly))
    assert source.classes == ["3", "4"] and source.read(0)["label"] is None
    task = source.evaluation()[1][0]
    assert sorted([*task.train, *task.test]) == list(range(6, 12))
    assert Arrays(path=stored(tmp_path, x=GRAY, y=np.zeros(12, np.int64))).evaluation()[1] == []
    for bad in (
        np.zeros(11, np.int64),
        np.zeros((12, 2), np.int64),
        np.full(12, 0.5),
        np.full(12, b"\xff"),  # not UTF-8
    ):
        refused("must hold 12 integers or strings.*y=null", path=stored(tmp_path, x=GRAY, y=bad))
        assert Arrays(path=stored(tmp_path, x=GRAY, y=bad), y=None).classes == []


def test_normalization_is_measured_unless_it_is_given(tmp_path: Path) -> None:
    path = stored(tmp_path, x=RGB)
    source = Arrays(path=path)
    assert (source.input.mean, source.input.std) == moments(source.images)
    given_values = Arrays(path=path, mean=[0.5, 0.5, 0.5], std=[0.2, 0.2, 0.2])
    assert given_values.input.mean == (0.5, 0.5, 0.5) and given_values.input.std == (0.2, 0.2, 0.2)
    with pytest.raises(ValueError, match="`mean` and `std` must have 3 values"):
        Arrays(path=path, mean=[0.5], std=[0.2])


def test_size_resizes_with_antialiasing(tmp_path: Path) -> None:
    path = stored(tmp_path, x=RGB)
    source = Arrays(path=path, size=4)
    whole = torch.from_numpy(RGB.transpose(0, 3, 1, 2).copy()).float()
    plain = torch.nn.functional.interpolate(whole, (4, 4), mode="bilinear", antialias=True)
    assert source.input.shape == (3, 4, 4) and (source.images - plain).abs().max() <= 1.01
    refused("`size` must be 1 or more pixels, got 0", path=path, size=0)
    refused("must be more than 0 and less than 1, got 1.5", path=path, holdout=1.5)


def test_the_fingerprint_knows_pixels_shape_and_labels(tmp_path: Path) -> None:
    labels, changed = np.arange(12) % 2, RGB.copy()
    changed[0, 0, 0, 0] ^= 1
    variants: list[dict[str, npt.NDArray[Any]]] = [
        {"x": RGB, "y": labels},
        {"x": changed, "y": labels},
        {"x": RGB, "y": 1 - labels},
        {"x": RGB},
        {"x": RGB.reshape(12, 9, 7, 3), "y": labels},
    ]
    prints = [Arrays(path=stored(tmp_path, **variant)).fingerprint() for variant in variants]
    assert len(set(prints)) == len(variants)
    assert Arrays(path=stored(tmp_path, **variants[0])).fingerprint() == prints[0]


def test_the_config_says_how_it_was_made(tmp_path: Path) -> None:
    path = stored(tmp_path, x=GRAY)
    assert Arrays(path=path, size=8).config == {"kind": "arrays", "path": path, "size": 8}
