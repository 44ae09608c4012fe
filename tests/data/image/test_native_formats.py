"""Pictures, TIFF and DICOM in their own types: each value is the one that was written."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1

from mezzotint.data.image.decode import Undecodable, decode, open_image
from mezzotint.data.image.native_files import StoredImages, open_stored
from tests.data.image.stored import png16, write_dicom

Values = npt.NDArray[Any]
DEEP = np.random.default_rng(0).integers(0, 65536, (37, 53, 4)).astype(np.uint16)
EIGHT = (DEEP >> 8).astype(np.uint8)
BOX = (5, 9, 20, 30)
INSIDE = np.s_[5:25, 9:39]


def read(path: Path, number: int = 0, **given: Any) -> tuple[Values, StoredImages]:
    with open_stored(str(path), 10**6, **given) as stored:
        whole = (0, 0, stored.size("H"), stored.size("W"))
        box = stored.read(number, BOX)
        values = stored.read(number, whole)
    np.testing.assert_array_equal(box, values[INSIDE])
    return values, stored


def refused(path: Path, **given: Any) -> str:
    with pytest.raises(Undecodable) as caught, open_stored(str(path), 10**6, **given) as stored:
        stored.read(0, (0, 0, stored.size("H"), stored.size("W")))
    return str(caught.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_png_of_any_filter(tmp_path: Path, channels: int, interlaced: bool) -> None:
    content = png16(DEEP[..., :channels], filtered=True, interlaced=interlaced)
    (tmp_path / "a.png").write_bytes(content)
    values, stored = read(tmp_path / "a.png")
    np.testing.assert_array_equal(values, DEEP[..., :channels])
    assert (stored.dtype, stored.bits, stored.bounds) == ("uint16", 16, (0.0, 65535.0))


def test_damaged_png(tmp_path: Path) -> None:
    whole = png16(DEEP[..., :3])
    changed = bytearray(whole)
    changed[500] ^= 1
    for name, content, fault in (
        ("half.png", whole[: len(whole) // 2], "truncated"),
        ("changed.png", bytes(changed), "broken: a checksum"),
        ("empty.png", b"", "empty"),
        ("text.png", b"no picture", "not an image"),
    ):
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name).startswith(fault)


def test_other_pictures_keep_their_channels(tmp_path: Path) -> None:
    for channels, name in ((1, "gray.png"), (2, "alpha.png"), (3, "rgb.png"), (4, "rgba.png")):
        image = EIGHT[..., 0] if channels == 1 else EIGHT[..., :channels]
        Image.fromarray(np.ascontiguousarray(image)).save(tmp_path / name)
        values, stored = read(tmp_path / name)
        np.testing.assert_array_equal(values, EIGHT[..., :channels])
        assert (stored.dtype, stored.bits) == ("uint8", 8)
    Image.fromarray(np.ascontiguousarray(EIGHT[..., :3])).quantize(9).save(tmp_path / "palette.png")
    assert read(tmp_path / "palette.png")[0].shape == (37, 53, 3)
    header = b"P6\n# by hand\n53 37\n65535\n"
    (tmp_path / "a.ppm").write_bytes(header + DEEP[..., :3].astype(">u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.ppm")[0], DEEP[..., :3])
    (tmp_path / "a.pgm").write_bytes(b"P5 53 37 65535\n" + DEEP[..., 0].astype(">u2").tobytes())
    np.testing.assert_array_equal(read(tmp_path / "a.pgm")[0], DEEP[..., :1])
    for kind, ten in (("P5", DEEP[..., :1] >> 6), ("P6", DEEP[..., :3] >> 6)):
        (tmp_path / "b.ppm").write_bytes(
            f"{kind} 53 37 1023\n".encode() + ten.astype(">u2").tobytes()
        )
        values, stored = read(tmp_path / "b.ppm")
        np.testing.assert_array_equal(values, ten)
        assert (stored.bits, stored.bounds) == (10, (0.0, 1023.0))
    Image.fromarray(EIGHT[..., :3]).convert("YCbCr").save(tmp_path / "a.tif")
    with open_image(str(tmp_path / "a.tif")) as opened:
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], np.asarray(decode(opened)))


def test_pictures_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(EIGHT[..., 0]).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0][..., 0], np.rot90(EIGHT[..., 0], -1))


@pytest.mark.parametrize("code", range(1, 9))
def test_tiff_is_upright(tmp_path: Path, code: int) -> None:
    """What the tag says: 2 and 4 mirror, 3 and 6 to 8 turn, 5 transposes."""
    stored = DEEP[..., 0]
    Image.fromarray(stored).save(tmp_path / "a.tif", tiffinfo={274: code})
    expected = [
        stored, stored[:, ::-1], np.rot90(stored, 2), stored[::-1], stored.T, np.rot90(stored, -1),
        np.rot90(stored, 2).T, np.rot90(stored),
    ][code - 1]  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0][..., 0], expected)
    with open_image(str(tmp_path / "a.tif")) as image:  # the reader of 8 bits
        np.testing.assert_array_equal(np.asarray(decode(image))[..., 0], expected >> 8)


TIFF: dict[str, tuple[Values, dict[str, Any]]] = {
    "gray": (DEEP[..., 0], {}),
    "big endian": (DEEP[..., 0], {"byteorder": ">"}),
    "color": (DEEP[..., :3], {"photometric": "rgb"}),
    "four channels": (DEEP, {"photometric": "minisblack", "planarconfig": "contig"}),
    "tiles": (DEEP, {"tile": (16, 16), "photometric": "minisblack", "planarconfig": "contig"}),
    "compressed tiles": (
        DEEP[..., :3],
        {"tile": (16, 16), "compression": "zlib", "photometric": "rgb", "predictor": True},
    ),
    "compressed strips": (DEEP[..., 0], {"rowsperstrip": 7, "compression": "zlib"}),
    "floats": (DEEP[..., 0].astype(np.float32) / 7, {"compression": "zlib"}),
    "signed": (DEEP[..., 0].astype(np.int16), {}),
}
PAGES: dict[str, dict[str, Any]] = {
    "planes": {"photometric": "minisblack", "planarconfig": "separate"},
    "pages": {"photometric": "minisblack"},
    "compressed pages": {"photometric": "minisblack", "compression": "zlib", "tile": (16, 16)},
    "imagej": {"imagej": True},
}


@pytest.mark.parametrize("name", TIFF)
def test_tiff(tmp_path: Path, name: str) -> None:
    written, options = TIFF[name]
    tifffile.imwrite(tmp_path / "a.tif", written, **options)
    values, stored = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(values, written.reshape(*written.shape[:2], -1))
    assert stored.dtype == str(written.dtype) and stored.size("N") == 1


@pytest.mark.parametrize("name", PAGES)
def test_pages_of_a_tiff_are_channels_or_images(tmp_path: Path, name: str) -> None:
    options = PAGES[name] | ({"metadata": {"axes": "CYX"}} if name == "imagej" else {})
    tifffile.imwrite(tmp_path / "a.tif", DEEP.transpose(2, 0, 1), **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], DEEP)
    values, stored = read(tmp_path / "a.tif", 2, axes="NHW")
    np.testing.assert_array_equal(values, DEEP[..., 2:3])
    assert stored.size("N") == 4


@pytest.mark.parametrize("how", ["", "tiles", "turned"])
def test_tiff_whose_0_is_white_and_palettes(tmp_path: Path, how: str) -> None:
    """Larger is brighter everywhere, as in a DICOM; indices of a palette mean its colors."""
    options: dict[str, Any] = {"tile": (16, 16), "compression": "zlib"} if how == "tiles" else {}
    options |= {"extratags": [(274, "H", 1, 2, True)]} if how == "turned" else {}
    turned = slice(None, None, -1 if how == "turned" else 1)
    for values in (DEEP[..., 0], EIGHT[..., 0], DEEP[..., 0].astype(np.int16), DEEP[..., 0] > 9000):
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", **options)
        np.testing.assert_array_equal(read(tmp_path / "a.tif")[0][..., 0], ~values[:, turned])
        assert read(tmp_path / "a.tif")[1].dtype == str(values.dtype)
        if values.dtype.kind == "u":  # the reader of 8 bits
            with open_image(str(tmp_path / "a.tif")) as image:
                eight = (~values[:, turned]) >> (8 * values.itemsize - 8)
                np.testing.assert_array_equal(np.asarray(decode(image))[..., 0], eight)
    colors = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    small = colors % 256
    for table, expected in ((colors, colors), (small * 257, small), (small * 256, small)):
        options["colormap"] = table
        tifffile.imwrite(tmp_path / "a.tif", EIGHT[..., 0], photometric="palette", **options)
        values, stored = read(tmp_path / "a.tif")
        np.testing.assert_array_equal(
            values, np.moveaxis(expected[:, EIGHT[..., 0]], 0, -1)[:, turned]
        )
        assert stored.bits == (16 if table is colors else 8)


STACK = np.stack([DEEP, DEEP[::-1], DEEP // 2])


@pytest.mark.parametrize(
    ("stored", "options", "axes"),
    [
        ("NHWC", {"photometric": "rgb", "extrasamples": [0]}, (None, "NHWC", "NCHW")),
        ("NCHW", {"photometric": "rgb", "planarconfig": "separate", "extrasamples": [0]},
         (None, "NHWC", "NCHW")),
        ("NCHW", {"imagej": True, "metadata": {"axes": "ZCYX"}}, ("NHWC", "NCHW")),
        ("CNHW", {"ome": True, "metadata": {"axes": "CTYX"}}, ("NHWC", "NCHW", "CNHW")),
        ("NCHW", {"photometric": "minisblack"}, ("NCHW",)),
        ("CNHW", {"photometric": "minisblack", "compression": "zlib"}, ("CNHW",)),
    ],
    ids=["samples", "planes", "imagej", "ome", "pages", "compressed"],
)  # fmt: skip
def test_images_of_several_channels_in_one_tiff(
    tmp_path: Path, stored: str, options: dict[str, Any], axes: tuple[str | None, ...]
) -> None:
    written = STACK.transpose(*("NHWC".index(axis) for axis in stored))
    tifffile.imwrite(tmp_path / "a.tif", np.ascontiguousarray(written), **options)
    for given in axes:
        for number in range(3):
            values, found = read(tmp_path / "a.tif", number, axes=given)
            np.testing.assert_array_equal(values, STACK[number], err_msg=str(given))
        assert (found.size("N"), found.size("C")) == (3, 4)


def test_pages_that_do_not_have_the_axes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "rgb.tif", DEEP[..., :3], photometric="rgb")
    for axes in ("HW", "NHW", "WHC"):
        assert refused(tmp_path / "rgb.tif", axes=axes) == (
            f"unsupported: 1 pages with 3 values a pixel do not have the axes {axes}"
        )
    np.testing.assert_array_equal(read(tmp_path / "rgb.tif", axes="CHW")[0], DEEP[..., :3])
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as file:
        for side in (30, 10):
            file.write(DEEP[:side, :, 0], photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "sizes.tif")[0], DEEP[:30, :, :1])
    assert "a TIFF of 2 series, such as pages of several sizes" in refused(
        tmp_path / "sizes.tif", axes="NHW"
    )


def test_many_pages_need_a_word(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 50, 60), np.uint8), photometric="minisblack")
    assert "40 pages are images or channels: set data.reader.axes" in refused(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif", axes="NHW")[1].size("N") == 40


def test_names_and_missing_data_of_a_tiff(tmp_path: Path) -> None:
    names = ["DAPI", "GFP", "Cy3", "Cy5"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", DEEP.transpose(2, 0, 1), photometric="minisblack", metadata=metadata
    )
    assert read(tmp_path / "a.ome.tif")[1].names == tuple(names)
    bands = '<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">B8</Item>'
    tags = [(42112, "s", 0, f"{bands}</GDALMetadata>", True), (42113, "s", 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "b.tif", DEEP[..., 0].astype(np.float32), extratags=tags)
    stored = read(tmp_path / "b.tif")[1]
    assert stored.names == ("B8",) and stored.nodata == -9999.0 and stored.bounds is None


def test_codecs_of_pillow_and_missing_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mezzotint.data.image import native_formats

    # As if imagecodecs was not installed, even where it is.
    monkeypatch.setattr(
        native_formats, "_missing_codec", lambda page: "LZW" if page.compression == 5 else None
    )
    for values in (DEEP[..., 0], EIGHT[..., :3], DEEP[..., 0].astype(np.float32)):
        Image.fromarray(np.ascontiguousarray(values)).save(
            tmp_path / "a.tif", compression="tiff_lzw"
        )
        np.testing.assert_array_equal(
            read(tmp_path / "a.tif")[0], values.reshape(*values.shape[:2], -1)
        )
    pages = [Image.fromarray(DEEP[..., channel]) for channel in (0, 1)]
    pages[0].save(
        tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression="tiff_lzw"
    )
    message = refused(tmp_path / "a.tif")
    assert message == (
        "unsupported: the compression LZW needs a codec, run `pip install imagecodecs`"
    )


def test_damaged_tiff(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP)
    tifffile.imwrite(tmp_path / "b.tif", DEEP, compression="zlib")
    for name in ("a.tif", "b.tif"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert refused(tmp_path / name).startswith("truncated")
    (tmp_path / "c.tif").write_bytes(b"no TIFF at all")
    assert refused(tmp_path / "c.tif") == "not an image: no TIFF header"
    tifffile.imwrite(tmp_path / "d.tif", np.zeros((2000, 2000), np.uint8))
    assert refused(tmp_path / "d.tif").startswith("too large")
    (tmp_path / "e.tif").write_bytes(b"II*\0\xff\xff\xff\x00 and no page there")
    assert refused(tmp_path / "e.tif") == "broken: a TIFF without pages"
    assert capfd.readouterr().err == ""  # tifffile logs the same, once more for each try


TWELVE = (DEEP[..., 0] >> 4).astype(np.uint16)


@pytest.mark.parametrize(
    ("options", "expected", "bounds"),
    [
        ({}, TWELVE, (0.0, 4095.0)),
        ({"compressed": "rle"}, TWELVE, (0.0, 4095.0)),
        ({"photometric": "MONOCHROME1"}, 4095 - TWELVE.astype(int), (0.0, 4095.0)),
        ({"rescale": (1, -1024)}, TWELVE.astype(int) - 1024, (-1024.0, 3071.0)),
        ({"rescale": (0.5, 3)}, TWELVE * 0.5 + 3, (3.0, 2050.5)),
        (
            {"rescale": (2, -1024), "photometric": "MONOCHROME1"},
            2 * (4095 - TWELVE.astype(int)) - 1024,
            (-1024.0, 7166.0),
        ),
    ],
)
def test_dicom(tmp_path: Path, options: dict[str, Any], expected: Values, bounds: Any) -> None:
    write_dicom(tmp_path / "a.dcm", TWELVE, **options)
    values, stored = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(values[..., 0], expected)
    assert (stored.dtype, stored.bits, stored.bounds) == ("uint16", 12, bounds)


def test_dicom_of_color_frames_signs_and_padding(tmp_path: Path) -> None:
    write_dicom(tmp_path / "rgb.dcm", EIGHT[..., :3], photometric="RGB", bits=8)
    np.testing.assert_array_equal(read(tmp_path / "rgb.dcm")[0], EIGHT[..., :3])
    frames = np.stack([TWELVE, TWELVE[::-1], TWELVE // 2])
    write_dicom(tmp_path / "frames.dcm", frames)
    np.testing.assert_array_equal(read(tmp_path / "frames.dcm")[0], frames.transpose(1, 2, 0))
    values, stored = read(tmp_path / "frames.dcm", 1, axes="NHW")
    np.testing.assert_array_equal(values[..., 0], frames[1])
    assert stored.size("N") == 3
    signed = TWELVE.astype(np.int16) - 2048
    write_dicom(tmp_path / "signed.dcm", signed)
    values, stored = read(tmp_path / "signed.dcm")
    np.testing.assert_array_equal(values[..., 0], signed)
    assert stored.bounds == (-2048.0, 2047.0)
    write_dicom(tmp_path / "padded.dcm", TWELVE, rescale=(1, -1000), padding=7)
    assert read(tmp_path / "padded.dcm")[1].nodata == -993.0
    tags = {"PixelPaddingRangeLimit": 100}
    write_dicom(tmp_path / "range.dcm", TWELVE, padding=7, tags=tags)
    values, stored = read(tmp_path / "range.dcm")
    missing = (TWELVE >= 7) & (TWELVE <= 100)
    assert missing.any() and stored.nodata == 7.0
    np.testing.assert_array_equal(values[..., 0], np.where(missing, 7, TWELVE))
    write_dicom(tmp_path / "big.dcm", TWELVE, big_endian=True)
    values, stored = read(tmp_path / "big.dcm")
    np.testing.assert_array_equal(values[..., 0], TWELVE)
    assert stored.dtype == "uint16"


def test_enhanced_dicom_has_slopes_of_all_frames_or_of_each(tmp_path: Path) -> None:
    def group(slope: float, intercept: float) -> Dataset:
        inner, outer = Dataset(), Dataset()
        inner.RescaleSlope, inner.RescaleIntercept = str(slope), str(intercept)
        outer.PixelValueTransformationSequence = [inner]
        return outer

    frames = np.stack([TWELVE, TWELVE[::-1]])
    shared = {"SharedFunctionalGroupsSequence": [group(1, -1024)]}
    write_dicom(tmp_path / "a.dcm", frames, tags=shared)
    values, stored = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(values, frames.transpose(1, 2, 0).astype(int) - 1024)
    assert stored.bounds == (-1024.0, 3071.0)
    each = {"PerFrameFunctionalGroupsSequence": [group(1, -1024), group(0.5, 3)]}
    write_dicom(tmp_path / "a.dcm", frames, padding=int(TWELVE[0, 0]), tags=each)
    values, stored = read(tmp_path / "a.dcm", 1, axes="NHW")
    expected = np.where(frames[1] == TWELVE[0, 0], np.nan, frames[1] * 0.5 + 3)
    np.testing.assert_array_equal(values[..., 0], expected)
    assert stored.bounds == (-1024.0, 3071.0) and stored.nodata is None


def test_dicom_that_cannot_be_read(tmp_path: Path) -> None:
    write_dicom(tmp_path / "report.dcm", None)
    assert refused(tmp_path / "report.dcm") == (
        "not an image: a DICOM file without pixels (modality SR)"
    )
    write_dicom(tmp_path / "packed.dcm", TWELVE, compressed=JPEGLosslessSV1)
    message = refused(tmp_path / "packed.dcm")
    assert message.startswith("unsupported: JPEG Lossless") and "pip install pylibjpeg" in message
    (tmp_path / "text.dcm").write_bytes(b"no scan" * 50)
    assert refused(tmp_path / "text.dcm") == "not an image: no DICOM header"
    write_dicom(tmp_path / "cut.dcm", TWELVE)
    content = (tmp_path / "cut.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: len(content) // 2])
    assert refused(tmp_path / "cut.dcm").startswith("truncated")
