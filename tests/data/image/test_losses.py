"""What reading an image loses, on files whose bits, bands and pages are known."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.image.decode import decode, open_image
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image.losses import BANDS, DEEP, PAGES, Loss, lines_on, loss_of

RNG = np.random.default_rng(0)


def loss(path: Path) -> Loss:
    with open_image(str(path)) as image:
        return loss_of(image)


def bands(
    path: Path, count: int, alpha: int | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Write a TIFF of 3 or 4 bands; `alpha` is the value of the tag ExtraSamples."""
    pixels = RNG.integers(0, 256, (6, 7, count), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA" if count == 4 else "RGB").save(path)
    if count == 4 and alpha != 2:  # Pillow writes 2: put another value, or another tag
        entry = struct.pack("<HHIH", 338, 3, 1, 2)
        other = struct.pack("<HHIH", 341 if alpha is None else 338, 3, 1, alpha or 0)
        data = path.read_bytes()
        assert data.count(entry) == 1
        path.write_bytes(data.replace(entry, other))
    return pixels


@pytest.mark.parametrize("alpha", [None, 0, 2])
def test_a_fourth_band_is_alpha_only_if_the_file_says_so(alpha: int | None, tmp_path: Path) -> None:
    pixels = bands(tmp_path / "x.tif", 4, alpha)
    with open_image(str(tmp_path / "x.tif")) as image:
        rgb = np.asarray(decode(image))
    if alpha == 2:
        part = pixels[..., 3:] / 255.0
        white = pixels[..., :3] * part + 255.0 * (1.0 - part)
        assert np.abs(rgb - white).max() <= 1.0 and BANDS not in loss(tmp_path / "x.tif").kinds
    else:
        assert (rgb == pixels[..., :3]).all() and BANDS in loss(tmp_path / "x.tif").kinds


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_bits_of_deep_images(bits: int, tmp_path: Path) -> None:
    values = RNG.integers(0, 2**bits, (8, 8)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    Image.fromarray(values).save(tmp_path / "gray.png")
    Image.fromarray(values).save(tmp_path / "gray.tif")
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "wide.tif")  # read as 16 bits
    for name in ("gray.png", "gray.tif", "wide.tif"):
        assert loss(tmp_path / name) == Loss((DEEP,), bits)
    assert len(lines_on([loss(tmp_path / "gray.png")])) == (1 if bits > 14 else 2)


def test_ordinary_images_lose_nothing_and_animations_all_but_a_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(3)]
    for name in ("x.png", "x.jpg", "x.webp", "x.tif"):
        frames[0].save(tmp_path / name)
        assert loss(tmp_path / name) == Loss()
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert loss(tmp_path / "x.gif").kinds == (PAGES,)
    bands(tmp_path / "y.tif", 3, None)
    assert loss(tmp_path / "y.tif") == Loss()


def test_a_source_says_it_before_training(tmp_path: Path) -> None:
    for i in range(3):
        values = (RNG.integers(0, 4096, (9, 9)) | 2048).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"{i}.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    said = ImageFolder(root=str(tmp_path), size=8).outcome()
    assert "of 4 sampled images 3 have 16 bits a channel" in said and "use at most 12" in said
