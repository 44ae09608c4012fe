"""Samples of other modalities as pictures."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image_text import input_with_text, pack
from mezzotint.report.depict import depict
from mezzotint.report.pictures import portrait
from mezzotint.types import Input

AUDIO = Input((1, 16, 40), (0.0,), (1.0,), "audio")
POINTS = Input((3, 200), (0.0,) * 3, (1.0,) * 3, "points")
SERIES = Input((2, 50), (0.0,) * 2, (1.0,) * 2, "series")


def ink(x: torch.Tensor) -> torch.Tensor:
    return 255.0 - x.float().mean(dim=0)


def test_images_are_themselves() -> None:
    x = torch.randint(0, 255, (3, 8, 8), dtype=torch.uint8)
    assert depict(x, Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3)) is x


def test_spectrogram_has_low_tones_below_and_loud_ones_bright() -> None:
    x = torch.zeros(1, 16, 40)
    x[0, 2, 10:20] = 5.0
    shown = depict(x, AUDIO)
    assert shown.shape == (3, 16, 40) and shown.dtype == torch.uint8
    bright = shown.float().mean(dim=0)
    assert bright[16 - 1 - 2, 15] > 150 and bright[2, 15] < 10 and bright[16 - 1 - 2, 30] < 10


def test_cloud_is_seen_upright_whatever_its_place_and_size() -> None:
    upright = torch.stack([torch.zeros(200), torch.linspace(0, 1, 200), torch.zeros(200)])
    shown = ink(depict(upright, POINTS))
    rows, columns = (shown > 0).nonzero(as_tuple=True)
    assert rows.min() < 8 and rows.max() > 87 and int(columns.min()) == int(columns.max())
    torch.testing.assert_close(ink(depict(upright * 7 + 3, POINTS)), shown)


def test_series_has_a_strip_for_each_channel() -> None:
    t = torch.linspace(0, 1, 50)
    shown = ink(depict(torch.stack([t, 1 - t]), SERIES))
    assert shown.shape == (96, 192)
    left, right = shown[:, 2:8].sum(dim=1), shown[:, -8:-2].sum(dim=1)
    assert left[:48].argmax() > 30 and right[:48].argmax() < 15  # rises in the upper strip
    assert left[48:].argmax() < 15 and right[48:].argmax() > 30  # falls in the lower one


@pytest.mark.parametrize("input", [AUDIO, POINTS, SERIES], ids=lambda i: i.modality)
def test_constant_and_not_finite_samples_have_a_picture(input: Input) -> None:
    assert depict(torch.zeros(input.shape), input).dtype == torch.uint8
    x = torch.full(input.shape, torch.nan)
    x[..., 0] = torch.inf
    assert depict(x, input).shape[0] == 3


def test_video_shows_four_frames_side_by_side_stored_or_as_a_view() -> None:
    x = torch.arange(10, dtype=torch.uint8).view(1, 10, 1, 1).expand(1, 10, 6, 5).contiguous() * 20
    input = Input((1, 10, 6, 5), (0.0,), (1.0,), "video")
    shown = depict(x, input)
    assert shown.shape == (3, 6, 23) and shown[0, 0, [0, 6, 12, 18]].tolist() == [0, 60, 120, 180]
    assert int(shown[1, 0, 5]) == 255 and torch.equal(depict(x / 255, input), shown)


def test_bytes_are_printed_and_other_tokens_are_squares() -> None:
    letters = Input((64,), (), (), "tokens", 258)
    text = torch.zeros(64, dtype=torch.int64)
    text[:40] = torch.tensor([ord("W") + 2] * 31 + [ord(" ") + 2] * 9)
    shown = ink(depict(text, letters))
    assert shown.shape == (96, 192) and shown[:14].sum() > 1000 and shown[14:].sum() == 0
    assert not torch.equal(ink(depict(text.clamp(max=50), letters)), shown)
    others = Input((4,), (), (), "tokens", 30)
    squares = depict(torch.tensor([5, 5, 1, 0]), others)
    assert squares.shape == (3, 96, 96) and torch.equal(squares[:, :48, :48], squares[:, :48, 48:])
    assert int(squares[:, 48:, :48].max()) == 0 and int(squares[:, 48:, 48:].min()) == 255


def test_a_picture_stands_beside_its_text() -> None:
    drawing = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    drawing[:, 0] = 255
    tokens = torch.tensor([[ord("W") + 2, ord("W") + 2, 0]])
    stated = input_with_text(Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3), 3, 256)
    shown = depict(pack(drawing, tokens)[0], stated)
    assert (
        shown.shape == (3, 96, 96 + 192)
        and (shown[0, :, :96] == 255).all()
        and (shown[1:, :, :96] == 0).all()
    )
    letters = depict(tokens[0], Input((3,), (), (), "tokens", 258))
    assert torch.equal(shown[:, :, 96:], letters)
    others = input_with_text(Input((3, 8, 8), (0.0,) * 3, (1.0,) * 3), 3, 30_000)
    assert torch.equal(depict(pack(drawing, tokens)[0], others), drawing[0])


def test_other_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed: image, audio, points, series"):
        depict(torch.zeros(4), Input((4,), (0.0,) * 4, (1.0,) * 4, "table"))


def test_a_clip_moves_in_a_portrait() -> None:
    class Clips:
        input = Input((1, 5, 32, 48), (0.0,), (1.0,), "video")

    x = (torch.arange(5, dtype=torch.uint8) * 50).view(1, 5, 1, 1).expand(1, 5, 32, 48)
    shown = portrait(x, "a clip", Clips())  # type: ignore[arg-type]
    assert (shown.width, shown.height, shown.alt) == (48, 32, "a clip")
    with Image.open(
        io.BytesIO(base64.b64decode(shown.src.removeprefix("data:image/webp;base64,")))
    ) as image:
        assert getattr(image, "n_frames", 1) == 5 and image.info["loop"] == 0
        for number in range(5):
            image.seek(number)
            assert abs(np.asarray(image.convert("L")).astype(int) - 50 * number).max() <= 6
            assert image.info.get("duration", 125) in (0, 125)
    assert portrait(x / 255, "a clip", Clips()).src == shown.src  # type: ignore[arg-type]
