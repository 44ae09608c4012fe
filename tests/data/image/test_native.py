"""Images in their own type: channels, ranges, crops, and files that differ or are broken."""

import functools
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from mezzotint.data.doctor import SourceReport, examine
from mezzotint.data.image.folder import CROP_FRACTION, ImageFolder
from mezzotint.data.image.native import Native
from mezzotint.data.open import open_source
from mezzotint.detection.detectron2 import write_detectron2
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.recipe.schema import construct, resolve
from mezzotint.types import Crop, Unreadable
from tests.data.image.stored import png16, write_dicom

RNG = np.random.default_rng(0)


def tiff(path: Path, values: npt.NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, values, photometric="minisblack", **options)


def folder(root: Path, count: int = 6, channels: int = 2, high: int = 65536) -> ImageFolder:
    for number in range(count):
        values = RNG.integers(0, high, (20, 24, channels)).astype(np.uint16)
        tiff(root / f"c{number % 2}" / f"{number}.tif", values, planarconfig="contig")
    return opened(root)


def opened(root: Path, size: int = 8, **reader: Any) -> ImageFolder:
    return ImageFolder(root=str(root), size=size, reader=Native(**reader))


def whole(height: int, width: int, *, size: int) -> list[Crop]:
    return [Crop((0, 0, height, width), size)]


def test_every_value_of_16_bits_survives(tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (tmp_path / "a.png").write_bytes(png16(values[..., None]))
    (crop,) = opened(tmp_path).read_crops(0, functools.partial(whole, size=256))
    assert crop.dtype == torch.float32
    np.testing.assert_array_equal(np.rint(crop[0].numpy() * 65535.0), values)
    assert float(crop.min()) == 0.0 and float(crop.max()) == 1.0


def test_a_whole_sample_is_the_middle_resized_with_antialiasing(tmp_path: Path) -> None:
    source = folder(tmp_path)
    values = tifffile.imread(tmp_path / "c0" / "0.tif")
    side = round(20 * CROP_FRACTION)
    top, left = (20 - side) // 2, (24 - side) // 2
    middle = torch.from_numpy(values[top : top + side, left : left + side].astype(np.float32))
    expected = tv.resize(middle.permute(2, 0, 1) / 65535.0, [8, 8], antialias=True)
    torch.testing.assert_close(source.read(0)["x"], expected, atol=1e-6, rtol=0)
    assert source.input.shape == (2, 8, 8) and source.input.dtype == "uint16"


def test_stated_range_clips_before_the_resize_and_missing_data_is_0(tmp_path: Path) -> None:
    values = np.full((16, 16), 50.0, np.float32)
    values[3, 3], values[8, 8], values[12, 12] = 1e9, np.nan, -9999.0
    tiff(tmp_path / "a.tif", values, extratags=[(42113, "s", 0, "-9999", True)])
    source = opened(tmp_path, range=[0, 100], mean=[0.5], std=[0.2])
    (crop,) = source.read_crops(0, functools.partial(whole, size=16))
    expected = torch.full((1, 16, 16), 0.5)
    expected[0, 3, 3], expected[0, 8, 8], expected[0, 12, 12] = 1.0, 0.0, 0.0
    torch.testing.assert_close(crop, expected)
    (small,) = source.read_crops(0, functools.partial(whole, size=8))
    resized = tv.resize(expected, [8, 8], antialias=True)
    torch.testing.assert_close(small, resized, atol=1e-6, rtol=0)


def test_percentiles_mean_and_std_of_each_channel(tmp_path: Path) -> None:
    every = []
    for number in range(5):
        values = RNG.normal([10.0, -3.0], [2.0, 0.1], (30, 30, 2)).astype(np.float32)
        tiff(tmp_path / f"{number}.tif", values, planarconfig="contig")
        every.append(values.reshape(-1, 2))
    source = opened(tmp_path, percentiles=(1.0, 99.0))
    low, high = np.percentile(np.concatenate(every), [1, 99], axis=0)
    np.testing.assert_allclose(np.array(source.input.range), np.stack([low, high], 1), rtol=1e-6)
    mapped = np.clip((np.concatenate(every) - low) / (high - low), 0.0, 1.0)
    np.testing.assert_allclose(source.input.mean, mapped.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(source.input.std, mapped.std(axis=0), rtol=1e-6)


def test_bits_are_those_of_the_files(tmp_path: Path) -> None:
    for number in range(3):
        values = RNG.integers(0, 4096, (12, 12)).astype(np.uint16)
        write_dicom(tmp_path / f"IM{number}", values, rescale=(1, -1024))  # without an extension
    source = opened(tmp_path)
    assert source.input.range == ((-1024.0, 3071.0),) and source.input.bits == 12
    assert source.described()[1] == "1 channel of uint16 of 12 bits; -1,024 … 3,071 becomes 0 … 1"


def test_few_of_the_bits_are_pointed_out(tmp_path: Path) -> None:
    notes = folder(tmp_path, high=4096).notes
    assert any("images are dark; data.reader.range=percentiles fits them" in n for n in notes)


def test_channels_are_chosen_and_named(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (12, 12, 4)).astype(np.uint16)
    tiff(tmp_path / "a.tif", values, planarconfig="contig")
    source = opened(tmp_path, channels=[3, 0], names=["near IR", "red"])
    (crop,) = source.read_crops(0, functools.partial(whole, size=12))
    chosen = torch.from_numpy(values[..., [3, 0]].astype(np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(crop, chosen / 65535.0)
    assert source.input.channels == ("near IR", "red")


def test_fitted_settings_read_other_images_the_same_way(tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    other = folder(tmp_path / "b", high=1000)
    kept = resolve(source.settings() | {"root": str(tmp_path / "b")}, "Source", "data")
    again = construct(kept, "Source", {})
    assert again.input == source.input and other.input.mean != source.input.mean
    assert resolve(again.settings(), "Source", "data") == kept


def test_images_of_one_file_are_samples_that_stay_together(tmp_path: Path) -> None:
    for number in range(6):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["x"] = RNG.integers(0, 255, (4, 12, 12, 3)).astype(np.uint8)
    source = opened(tmp_path)
    assert len(source) == 24 and source.id_of(5) == "1.h5#000001"
    with h5py.File(tmp_path / "1.h5") as file:
        expected = torch.from_numpy(file["x"][1].transpose(2, 0, 1) / np.float32(255))
    torch.testing.assert_close(source.read_crops(5, functools.partial(whole, size=12))[0], expected)
    groups = source._independent(np.full(24, -1))
    assert groups.reshape(6, 4).tolist() == [[4 * i] * 4 for i in range(6)]


def test_one_broken_file_in_fifty_is_named_and_left_out(tmp_path: Path) -> None:
    folder(tmp_path, count=50)
    (tmp_path / "c0" / "10.tif").write_bytes(b"no TIFF")
    source = opened(tmp_path)
    assert "1 of 50 probed files cannot be read, such as `c0/10.tif` (not an image" in (
        source.outcome()
    )
    (index,) = [i for i in range(50) if source.id_of(i) == "c0/10.tif"]
    with pytest.raises(Unreadable, match=r"c0/10.tif: not an image: no TIFF header"):
        source.read(index)


def test_a_rare_file_of_another_kind_is_unreadable(tmp_path: Path) -> None:
    folder(tmp_path, count=30)
    three = RNG.integers(0, 65536, (20, 20, 3)).astype(np.uint16)
    tiff(tmp_path / "c0" / "x.tif", three, planarconfig="contig")
    tiff(tmp_path / "c0" / "y.tif", (three[..., :2] >> 8).astype(np.uint8), planarconfig="contig")
    source = opened(tmp_path)
    assert "2 of 32 probed files differ, such as c0/x.tif" in source.outcome()
    reasons = {}
    for index in range(32):
        try:
            source.read(index)
        except Unreadable as error:
            reasons[error.id] = error.reason
    assert reasons == {
        "c0/x.tif": "unsupported: 3 channels, and other files have 2",
        "c0/y.tif": "unsupported: uint8 values, and other files have uint16",
    }


def test_files_that_differ_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "channels", count=4)
    folder(tmp_path / "channels" / "more", count=2, channels=3)
    with pytest.raises(ValueError, match=r"as many channels, got 4 with 2 .* 2 with 3 .*=\[0\]"):
        opened(tmp_path / "channels")
    assert opened(tmp_path / "channels", channels=[0]).input.shape[0] == 1
    folder(tmp_path / "types", count=4)
    for number in range(2):
        eight = RNG.integers(0, 255, (9, 9, 2)).astype(np.uint8)
        tiff(tmp_path / "types" / f"{number}.tif", eight, planarconfig="contig")
    with pytest.raises(ValueError, match="values of one type, got 4 with uint16, .* 2 with uint8"):
        opened(tmp_path / "types")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"channels": []}, "`data.reader.channels` must be indices from 0"),
        ({"channels": [-1]}, "`data.reader.channels` must be indices from 0"),
        ({"percentiles": (99.0, 1.0)}, "`data.reader.percentiles` must be two numbers"),
        ({"axes": "HWX"}, "`data.reader.axes` must be H, W and any of N and C"),
        ({"axes": "HC"}, "`data.reader.axes` must be H, W"),
        ({"range": [1.0, 0.0]}, "with a larger high"),
        ({"range": []}, "with a larger high"),
        ({"range": [[0.0, 1.0], [2.0]]}, "with a larger high"),
        ({"dtype": "int12"}, "`data.reader.dtype` must be one of bool"),
    ],
)
def test_keys_that_cannot_be_used(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Native(**given)


def test_keys_that_do_not_fit_the_files(tmp_path: Path) -> None:
    folder(tmp_path)
    for given, message in (
        ({"channels": [0, 2]}, "2 channels, and data.reader.channels names 2"),
        ({"names": ["red"]}, "`data.reader.names` must have 2 names"),
        ({"mean": [0.5], "std": [0.5]}, "has 2 channels, and data.reader.mean has others"),
        ({"range": [[0, 1], [0, 2], [0, 3]]}, "or 2 such pairs, .*, got 3 pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(tmp_path, **given)
    np.save(tmp_path / "float.npy", np.zeros((9, 9), np.float32))
    with pytest.raises(ValueError, match="cannot be bits, because floats have no bit depth"):
        opened(tmp_path / "float.npy", range="bits")


def test_nothing_to_read(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.arange(9))
    with pytest.raises(
        ValueError, match=r"no image that can be read, of 1 tried; .* `rows.npy` \(not an"
    ):
        opened(tmp_path)
    np.save(tmp_path / "rows.npy", np.full((9, 9), np.nan))
    with pytest.raises(ValueError, match="has no image with data in all channels"):
        opened(tmp_path)
    with pytest.raises(ValueError, match=r"has no images.* rows.npy is read by data.reader=native"):
        ImageFolder(root=str(tmp_path))


def test_the_8_bit_reader_names_this_one(tmp_path: Path) -> None:
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8)).save(tmp_path / "a.png")
    assert "data.reader=native" in ImageFolder(root=str(tmp_path)).outcome()


def test_a_constant_channel_has_std_1_and_a_zarr_is_one_file(tmp_path: Path) -> None:
    from tests.data.image.test_native_files import write_zarr

    write_zarr(tmp_path / "a.zarr", x=np.stack([np.zeros((9, 9)), np.eye(9)]).astype(np.float32))
    source = opened(tmp_path)
    assert source.id_of(0) == "a.zarr" and source.input.std[0] == 1.0
    assert opened(tmp_path / "a.zarr").input == source.input
    assert source.fingerprint() and torch.isfinite(source.read(0)["x"]).all()


def test_the_doctor_on_bits_ranges_constant_and_equal_channels(tmp_path: Path) -> None:
    for number in range(3):
        first = RNG.integers(0, 1024, (12, 12)).astype(np.uint16) * 4
        first[0, 0] = 4092
        values = np.stack([first, first, np.full_like(first, 7)], axis=2)
        tiff(tmp_path / f"{number}.tif", values, planarconfig="contig")
    (tmp_path / "broken.tif").write_bytes(b"x")
    report = examine(tmp_path, overrides=["reader=native", "size=8"])
    assert isinstance(report, SourceReport) and not report.ok
    assert report.channels[0].endswith(" … 4,092, 12 of 16 bits used, the lowest 2 are always 0")
    assert report.channels[2] == "channel 2: 7 … 7, 3 of 16 bits used"
    assert report.problems[:2] == [
        "channel 2 has one value in all images",
        "channel 0 and channel 1 are the same",
    ]
    assert report.problems[2].startswith("value range: channel 0 reaches 4,092 of 65,535")
    assert [name for name, _ in report.unreadable] == ["broken.tif"]
    fitted = examine(tmp_path, overrides=["reader={kind: native, range: [0, 2000]}", "size=8"])
    assert isinstance(fitted, SourceReport)
    assert "outside of the range" in fitted.channels[0] and fitted.problems == report.problems[:2]


def test_the_range_of_training_is_kept_and_never_fitted_again(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", count=8)
    encoder = resnet8(source.input, width=4)
    save_encoder(encoder, tmp_path / "encoder", source=source)
    kept = load_encoder(tmp_path / "encoder")
    assert kept.input == source.input
    folder(tmp_path / "b", high=1000)
    other = open_source(str(tmp_path / "b"), kept.input, kept.preprocessing)
    assert other.input.range == source.input.range and other.input.mean == source.input.mean
    message = r"is mapped to \[0, 1\] by the range .* but the encoder was trained with the range"
    with pytest.raises(ValueError, match=message):
        open_source(
            str(tmp_path / "b"),
            kept.input,
            kept.preprocessing,
            overrides=["data.reader.range=[0, 9]"],
        )
    with pytest.raises(ValueError, match="detectron2 reads 8 bits"):
        write_detectron2(kept, tmp_path / "x.pkl")
