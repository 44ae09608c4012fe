import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from mezzotint.data.image import decode as module
from mezzotint.data.image.decode import Undecodable, decode, decode_crops, open_image, upright_size
from mezzotint.types import Crop, Interpolation

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {
    "webp": {"lossless": True},
    "jpg": {"quality": 100, "subsampling": 0},
}
DEEP = RNG.integers(0, 65536, (6, 8)).astype(np.uint16)


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    with open_image(str(path)) as image:
        return np.asarray(decode(image))


def fault(path: Path, **options: Any) -> Undecodable:
    with pytest.raises(Undecodable) as caught, open_image(str(path), **options) as image:
        decode(image)
    return caught.value


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def on_white(color: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = alpha.astype(np.float64)[..., None] / 255
    return color * share + 255 * (1 - share)


def gray3(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tif", "webp"])
def test_rgb_is_left_as_it_is(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, **LOSSLESS.get(suffix, {}))
    np.testing.assert_array_equal(pixels(path), RGB)


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), gray3(GRAY))
    Image.fromarray(GRAY > 127).save(tmp_path / "b.png")  # one bit
    np.testing.assert_array_equal(pixels(tmp_path / "b.png"), gray3((GRAY > 127) * np.uint8(255)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_alpha_is_composited_on_white(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(pixels(tmp_path / f"a.{suffix}"), on_white(RGB, ALPHA), atol=1)
    Image.fromarray(np.dstack([GRAY, ALPHA])).save(tmp_path / f"b.{suffix}")
    np.testing.assert_allclose(
        pixels(tmp_path / f"b.{suffix}"), on_white(gray3(GRAY), ALPHA), atol=1
    )


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = RNG.integers(0, 256, (4, 3), dtype=np.uint8)
    index = RNG.integers(0, 4, (6, 8), dtype=np.uint8)
    image = Image.frombytes("P", (8, 6), index.tobytes())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), palette[index])
    image.save(tmp_path / "b.png", transparency=2)
    np.testing.assert_array_equal(
        pixels(tmp_path / "b.png"), np.where((index == 2)[..., None], 255, palette[index])
    )
    image.save(tmp_path / "c.png", transparency=bytes([0, 80, 255, 255]))
    alpha = np.array([0, 80, 255, 255])[index]
    np.testing.assert_allclose(pixels(tmp_path / "c.png"), on_white(palette[index], alpha), atol=1)


def test_a_transparent_color_without_alpha_is_composited(tmp_path: Path) -> None:
    key = tuple(int(v) for v in RGB[2, 3])
    Image.fromarray(RGB).save(tmp_path / "a.png", transparency=key)
    expected = RGB.copy()
    expected[2, 3] = 255
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), expected)


def test_cmyk(tmp_path: Path) -> None:
    cmyk = RNG.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    Image.frombytes("CMYK", (8, 6), cmyk.tobytes()).save(tmp_path / "a.tif")
    ink, black = cmyk[..., :3].astype(float), cmyk[..., 3:].astype(float)
    np.testing.assert_allclose(
        pixels(tmp_path / "a.tif"), (255 - ink) * (255 - black) / 255, atol=2
    )
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red, and JPEG stores it inverted
    flat.save(tmp_path / "a.jpg")
    np.testing.assert_allclose(
        pixels(tmp_path / "a.jpg").reshape(-1, 3).mean(axis=0), [255, 0, 0], atol=6
    )


def test_sixteen_bits_keep_the_upper_eight(tmp_path: Path) -> None:
    Image.frombytes("I;16", (8, 6), DEEP.astype("<u2").tobytes()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), gray3(DEEP >> 8))
    Image.frombytes("I;16", (8, 6), DEEP.astype("<u2").tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), gray3(DEEP >> 8))
    Image.fromarray(DEEP.astype(np.int32)).save(tmp_path / "b.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "b.tif"), gray3(DEEP >> 8))
    color = RNG.integers(0, 65536, (6, 8, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in color)
    (tmp_path / "c.png").write_bytes(png(8, 6, 16, 2, rows))
    np.testing.assert_array_equal(pixels(tmp_path / "c.png"), color >> 8)


def test_integers_beyond_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(DEEP.astype(np.int32) + 65536).save(tmp_path / "a.tif")
    assert str(fault(tmp_path / "a.tif")).startswith("unsupported: integer pixels from ")


def test_float_pixels_are_in_zero_to_one(tmp_path: Path) -> None:
    unit = RNG.random((6, 8)).astype(np.float32)
    Image.fromarray(unit).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(tmp_path / "a.tif"), gray3(np.rint(unit * 255)))
    for name, value in [("b", 1.5), ("c", -0.1), ("d", np.nan)]:
        bad = unit.copy()
        bad[0, 0] = value
        Image.fromarray(bad).save(tmp_path / f"{name}.tif")
        assert fault(tmp_path / f"{name}.tif").fault == "unsupported"


def upright(stored: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """EXIF 2.3, tag 274: where the stored row 0 and column 0 belong."""
    turns = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }
    return turns[orientation]


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif, **LOSSLESS.get(suffix, {}))
    expected = upright(RGB, orientation)
    with open_image(str(path)) as image:
        assert upright_size(image) == expected.shape[:2]
    np.testing.assert_allclose(pixels(path), expected, atol=4 if suffix == "jpg" else 0)
    crop = Crop((1, 2, 4, 4), 4)
    with open_image(str(path)) as image:
        np.testing.assert_array_equal(decode_crops(image, [crop])[0], pixels(path)[1:5, 2:6])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_counts_as_none(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert pixels(tmp_path / "a.jpg").shape == RGB.shape


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(gray3(np.full((6, 8), v, np.uint8))) for v in (10, 200)]
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **LOSSLESS.get(suffix, {}))
        np.testing.assert_array_equal(pixels(path), 10)


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(pixels(tmp_path / "a.jpg"), RGB)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "ppm", "webp"])
def test_truncated_files(suffix: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    photo = Image.fromarray(load_sample_images().images[0][:200, :200])
    photo.save(content, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    whole = content.getvalue()
    for share in (0.3, 0.6, 0.9):
        path = tmp_path / f"{share}.{suffix}"
        path.write_bytes(whole[: int(share * len(whole))])
        kinds = (
            ("truncated", "broken", "not an image") if suffix in ("tif", "webp") else ("truncated",)
        )
        assert fault(path).fault in kinds


def test_no_fault_is_hidden_by_looking_for_the_rotation(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.fromarray(load_sample_images().images[0]).save(content, "PNG")
    (tmp_path / "a.png").write_bytes(content.getvalue()[:50_000])
    with (
        open_image(str(tmp_path / "a.png")) as image,
        pytest.raises(Undecodable, match="truncated"),
    ):
        upright_size(image)


def test_what_is_no_image(tmp_path: Path) -> None:
    for name, content, expected in [
        ("empty.jpg", b"", "empty: 0 bytes"),
        ("text.png", b"hello world\n" * 9, "not an image: no known image format"),
        ("cut.jpg", b"\xff\xd8\xff\xe0", "not an image: no known image format"),
        ("pickle.gif", b"\x80\x04\x95\x0f\x00", "not an image: no known image format"),
        (
            "script.jpg",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            "not an image: no known image format",
        ),
    ]:
        (tmp_path / name).write_bytes(content)
        assert str(fault(tmp_path / name)) == expected
    assert str(fault(tmp_path / "gone.png")) == "missing: the file is gone"


SEEDS = {}
for _format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"):
    _content = io.BytesIO()
    Image.fromarray(RGB).save(_content, _format)
    SEEDS[_format] = _content.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.sampled_from(sorted(SEEDS)), st.data())
def test_damage_gives_an_image_or_a_fault_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = bytearray(SEEDS[name])
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("a") / "a"
    path.write_bytes(content)
    try:
        with open_image(str(path), max_pixels=100_000) as image:
            assert decode(image).mode == "RGB" and upright_size(image) > (0, 0)
    except Undecodable as error:
        assert "\n" not in str(error)


def bomb(side: int) -> bytes:
    return png(side, side, 1, 0, bytes((side // 8 + 1) * side))


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    for side in (
        20_000,
        11_000,
        8_000,
    ):  # Pillow refuses the first, warns of the second, and takes the third
        (tmp_path / "bomb.png").write_bytes(bomb(side))
        assert os.path.getsize(tmp_path / "bomb.png") < 50_000
        assert fault(tmp_path / "bomb.png").fault == "too large"
    assert "8000 x 8000 pixels, more than max_pixels=50000000" in str(fault(tmp_path / "bomb.png"))


def test_the_cap_is_inclusive(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with open_image(str(tmp_path / "a.png"), max_pixels=48) as image:
        decode(image)
    assert fault(tmp_path / "a.png", max_pixels=47).fault == "too large"


def test_running_out_of_memory_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")

    def exhausted(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(module, "_to_rgb", exhausted)
    with open_image(str(tmp_path / "a.png")) as image, pytest.raises(MemoryError):
        decode(image)


FILTERS: tuple[Interpolation, ...] = ("bilinear", "bicubic")


def crop_plainly(path: Path, crop: Crop) -> npt.NDArray[np.int64]:
    top, left, height, width = crop.box
    whole = Image.open(path).convert("RGB").crop((left, top, left + width, top + height))
    size, chosen = (crop.size, crop.size), Image.Resampling[crop.interpolation.upper()]
    return np.asarray(whole.resize(size, chosen)).astype(np.int64)


def test_crops_without_much_reduction_equal_the_plain_way(tmp_path: Path) -> None:
    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "a.jpg", quality=92)
    crops = [
        Crop(box, size, interpolation)
        for interpolation in FILTERS
        for box, size in [
            ((10, 20, 150, 190), 96),
            ((0, 0, 427, 640), 256),
            ((426, 639, 1, 1), 32),
            ((5, 7, 40, 60), 96),
        ]
    ]
    with open_image(str(tmp_path / "a.jpg")) as image:
        found = decode_crops(image, crops)
    for pixels_, crop in zip(found, crops, strict=True):
        np.testing.assert_array_equal(pixels_, crop_plainly(tmp_path / "a.jpg", crop))
    away = [np.abs(a.astype(int) - b).mean() for a, b in zip(found[:4], found[4:], strict=True)]
    assert away[2] == 0.0, "a single pixel"
    assert min(away[0], away[1]) > 0.5 and away[3] > 0.0


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(
    ("size", "margin", "scale"),
    [(128, 1, 2), (64, 1, 4), (32, 1, 8), (16, 1, 8), (64, 2, 2), (32, 2, 4), (16, 2, 8)],
)
def test_a_jpeg_is_decoded_smaller_within_tolerance(
    size: int, margin: float, scale: int, interpolation: Interpolation, tmp_path: Path
) -> None:
    for photo in load_sample_images().images:
        Image.fromarray(photo).save(tmp_path / "a.jpg", quality=92)
        boxes = [(0, 0, 427, 640), (30, 50, 300, 290), (101, 203, 260, 257)]
        crops = [Crop(box, size, interpolation) for box in boxes]
        with open_image(str(tmp_path / "a.jpg")) as image:
            found = decode_crops(image, crops, margin)
            assert image.size == (-(-640 // scale), -(-427 // scale))
        for pixels_, crop in zip(found, crops, strict=True):
            away = np.abs(pixels_ - crop_plainly(tmp_path / "a.jpg", crop))
            mean, high = (6.0, 32) if margin == 1 else (2.0, 16)
            assert away.mean() < mean and np.quantile(away, 0.99) < high


def test_one_large_crop_keeps_the_whole_image(tmp_path: Path) -> None:
    Image.fromarray(load_sample_images().images[0]).save(tmp_path / "a.jpg")
    with open_image(str(tmp_path / "a.jpg")) as image:
        decode_crops(image, [Crop((0, 0, 400, 400), 32), Crop((0, 0, 100, 100), 96)])
        assert image.size == (640, 427)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_decoded_smaller_in_the_right_place(
    orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for stored in (
        load_sample_images().images[0],
        load_sample_images().images[0][:424],
    ):  # 427 rows: a part block
        Image.fromarray(stored).save(tmp_path / "a.jpg", quality=92, exif=exif)
        expected = np.ascontiguousarray(
            upright(np.asarray(Image.open(tmp_path / "a.jpg")), orientation)
        )
        with open_image(str(tmp_path / "a.jpg")) as image:
            found = decode_crops(image, [Crop((40, 60, 320, 320), 64)])[0]
        plain = (
            Image.fromarray(expected)
            .crop((60, 40, 380, 360))
            .resize((64, 64), Image.Resampling.BILINEAR)
        )
        assert np.abs(found - np.asarray(plain).astype(int)).mean() < 2.5
