"""Audio: a colored spectrogram, and a sound that a page can play."""

import base64
import io
import wave

import numpy as np
import pytest
import torch

from mezzotint.data.audio.log_mel import Mel
from mezzotint.modality.audio import playable
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.types import Input

INPUT = Input((1, 16, 40), (0.0,), (1.0,), "audio")
PHONE = Mel(8000, 512, 512, 160, 64, 60.0, 3900.0)


class Calls:
    """A source of spectrograms."""

    mel = PHONE


def samples_of(uri: str) -> bytes:
    kind, _, text = uri.partition(",")
    assert kind == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(text))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 1, 8000)
        sound: bytes = file.readframes(file.getnframes())
        return sound


def test_low_tones_are_at_the_bottom_and_loud_ones_bright() -> None:
    x = torch.zeros(1, 16, 40)
    x[0, 2, 10:20] = 5.0
    picture = modality_of(INPUT).picture(x, INPUT)
    assert picture.shape == (3, 16, 40) and picture.dtype == torch.uint8
    bright = picture.float().mean(dim=0)
    assert bright[16 - 1 - 2, 15] > 150 and bright[2, 15] < 10 and bright[16 - 1 - 2, 30] < 10


def test_the_first_two_seconds_can_be_played() -> None:
    sound = samples_of(playable(torch.randn(1, 64, 600), PHONE))
    assert 1.9 < len(sound) / 8000 <= 2.0


def test_only_a_source_that_says_how_it_makes_spectrograms_can_be_heard() -> None:
    modality, x = modality_of(INPUT), torch.randn(1, 64, 50)
    assert modality.sound(x, Calls()) == playable(x, PHONE)
    assert modality.sound(x, object()) == ""


def test_patches_are_played_in_their_own_band() -> None:
    modality, input = modality_of(INPUT), Input((1, 64, 32), (0.0,), (1.0,), "audio")
    patches = modality.patches(input, 12, PatchSize(16))
    loud = torch.full((16 * 16,), 3.0)
    assert modality.sound_of_patches([loud], [0], patches, object()) == ""
    for position, band in ((0, 0), (7, 3)):  # the grid has four bands of two patches
        sound = samples_of(modality.sound_of_patches([loud], [position], patches, Calls()))
        signal = torch.tensor(list(sound)).float() - 128.0
        spectrum = torch.fft.rfft(signal).abs()
        center = float((spectrum * torch.arange(len(spectrum))).sum() / spectrum.sum())
        frequency = center * 8000 / len(signal)
        assert (frequency < 1000) == (band == 0), frequency


def test_encoders_take_any_number_of_frames() -> None:
    longer = Input((1, 16, 400), (0.0,), (1.0,), "audio")
    taller = Input((1, 32, 40), (0.0,), (1.0,), "audio")
    modality = modality_of(INPUT)
    assert modality.fits(longer, INPUT) and not modality.fits(taller, INPUT)


@pytest.mark.parametrize(("mels", "frames", "values"), [(64, 64, 4096), (64, 96, 32 * 32)])
def test_raw_features_of_long_spectrograms_are_averaged(
    mels: int, frames: int, values: int
) -> None:
    x = torch.randn(2, 1, mels, frames)
    assert modality_of(INPUT).raw_features(x, INPUT).shape == (2, values)


def test_handmade_features_are_statistics_of_each_band() -> None:
    x = torch.randn(2, 1, 16, 40)
    found = modality_of(INPUT).handmade_features(x, INPUT)
    assert found is not None and found.shape == (2, 16 * 5)
    for row, mels in zip(found.view(2, 16, 5).numpy(), x[:, 0].numpy(), strict=True):
        for band, values in zip(row, mels, strict=True):
            spreads = [np.diff(values, n).std() for n in (0, 1, 2)]
            expected = np.array([values.mean(), values.max(), *spreads]) / 4  # 16 bands
            np.testing.assert_allclose(band, expected, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 500])
def test_sounds_of_any_length_have_features_of_one_number(frames: int) -> None:
    for x in (torch.randn(2, 1, 16, frames), torch.zeros(2, 1, 16, frames)):
        found = modality_of(INPUT).handmade_features(x, INPUT)
        assert found is not None and found.shape == (2, 80) and found.isfinite().all()
