import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image.arrays import Arrays
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.report.pictures import (
    SPRITE_SIZE,
    Picture,
    credit,
    drawable,
    picture,
    plate,
    portrait,
    sprite,
)
from mezzotint.types import Input


def decoded(made: Picture) -> Image.Image:
    header, _, content = made.src.partition(",")
    assert header.startswith("data:image/") and header.endswith(";base64")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.size == (made.width, made.height)
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pictures_keep_every_pixel(channels: int) -> None:
    x = torch.randint(0, 256, (channels, 20, 30), dtype=torch.uint8)
    pixels = np.asarray(decoded(picture(x, "")))
    assert np.array_equal(pixels.reshape(20, 30, channels), x.permute(1, 2, 0).numpy())


def test_floats_are_rounded_and_clipped_and_nan_is_black() -> None:
    x = torch.tensor([[[0.0, 0.5, 1.0, 2.0, -1.0, float("nan")]]])
    assert np.asarray(decoded(picture(x, ""))).tolist() == [[0, 128, 255, 255, 0, 0]]


def test_other_numbers_of_channels_are_shown_as_their_mean() -> None:
    x = torch.stack([torch.full((4, 4), v, dtype=torch.uint8) for v in (10, 20, 30, 40)])
    assert np.asarray(decoded(picture(x, ""))).tolist() == [[25] * 4] * 4


def test_large_pictures_are_scaled_down_with_their_shape() -> None:
    made = picture(torch.zeros(3, 400, 200, dtype=torch.uint8), "a", most=128)
    assert (made.width, made.height, made.alt) == (64, 128, "a")


def test_sprite_puts_each_sample_in_its_place() -> None:
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (120, 120, 120)]
    samples = [torch.tensor(c, dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32) for c in colors]
    made, columns = sprite([samples[0], None, *samples[1:]], "")
    pixels = np.asarray(decoded(made).convert("RGB")).astype(int)
    assert columns == 3
    for index, color in [
        (0, colors[0]),
        (1, (255, 255, 255)),
        (2, colors[1]),
        (3, colors[2]),
        (4, colors[3]),
    ]:
        y, x = index // 3 * SPRITE_SIZE + 16, index % 3 * SPRITE_SIZE + 16
        assert np.abs(pixels[y, x] - color).max() < 24


def test_sprite_of_nothing_is_still_a_picture() -> None:
    assert sprite([], "")[0].width == SPRITE_SIZE


def test_plate_prints_dark_on_the_left_and_the_tones_on_the_right() -> None:
    gray = torch.full((1, 16, 16), 200, dtype=torch.uint8)
    white = np.asarray(decoded(plate([gray] * 12, 6)).convert("L")) > 0
    left, right = white[:, :92].mean(), white[:, -88:-4].mean()
    assert left < 0.35
    # A tone of 200/255, burnished to between 0.9 and 1, within the tile; its frame is white.
    assert 0.65 < right < 0.9
    assert plate([gray] * 12, 6) == plate([gray] * 12, 6)


def test_whose_work_the_samples_are_is_said_where_it_is_known(tmp_path: Path) -> None:
    assert "Twemoji by Twitter, Inc and other contributors (CC-BY 4.0" in credit(
        EmbeddedImages(name="emoji")
    )
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), np.uint8))
    assert credit(Arrays(path=str(tmp_path / "x.npy"))) == ""


def test_what_has_no_picture_is_not_drawable(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 8, 8), np.uint8))
    source = Arrays(path=str(tmp_path / "x.npy"))
    assert drawable(source)
    source.input = Input((6, 100), (0.0,) * 6, (1.0,) * 6, "series")
    assert drawable(source)
    source.input = Input((6,), (0.0,) * 6, (1.0,) * 6, "table")
    assert not drawable(source)


def test_a_clip_moves_in_a_portrait() -> None:
    class Clips:
        input = Input((1, 5, 32, 48), (0.0,), (1.0,), "video")

    x = (torch.arange(5, dtype=torch.uint8) * 50).view(1, 5, 1, 1).expand(1, 5, 32, 48)
    shown = portrait(x, "a clip", Clips())  # type: ignore[arg-type]
    assert (shown.width, shown.height, shown.alt) == (48, 32, "a clip")
    data = base64.b64decode(shown.src.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 5 and image.info["loop"] == 0
        for number in range(5):
            image.seek(number)
            assert abs(np.asarray(image.convert("L")).astype(int) - 50 * number).max() <= 6
            assert image.info.get("duration", 125) in (0, 125)
    assert portrait(x / 255, "a clip", Clips()).src == shown.src  # type: ignore[arg-type]
