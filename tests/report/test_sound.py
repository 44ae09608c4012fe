"""Spectrograms made audible: the sound has the spectrogram that it was made from."""

import base64
import io
import math
import wave

import pytest
import torch

from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, Mel, log_mel
from mezzotint.report.pictures import playable, waveform

PHONE = Mel(8000, 512, 512, 160, 64, 60.0, 3900.0)


@pytest.mark.parametrize("settings", [BYOL_A, PHONE, AUDIOSET], ids=["byol_a", "phone", "audioset"])
def test_a_tone_comes_back_at_its_frequency(settings: Mel) -> None:
    rate, tone = settings.sample_rate, 880.0
    time = torch.arange(rate) / rate
    made = waveform(log_mel(torch.sin(2 * math.pi * tone * time), settings), settings)
    spectrum = torch.fft.rfft(made * torch.hann_window(len(made))).abs()
    found = float(spectrum.argmax()) * rate / len(made)
    assert found == pytest.approx(tone, rel=0.04)
    assert float(made.abs().max()) == pytest.approx(1.0)


def test_its_spectrogram_is_the_one_it_was_made_from() -> None:
    time = torch.arange(8000) / 8000
    sweep = torch.sin(2 * math.pi * (200 + 700 * time) * time) * (
        1 + torch.sin(2 * math.pi * 4 * time)
    )
    wanted = log_mel(sweep, PHONE)
    found = log_mel(waveform(wanted, PHONE), PHONE)
    frames = min(wanted.shape[-1], found.shape[-1])
    loud = wanted[:, :frames] > wanted.max() - 7
    pair = torch.stack([wanted[:, :frames][loud], found[:, :frames][loud]])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9


def test_silence_and_holes_are_silent_and_finite() -> None:
    silence = torch.full((1, 64, 20), PHONE.silence)
    assert not waveform(silence, PHONE).any()
    silence[0, 3, 4] = torch.nan
    assert waveform(silence, PHONE).isfinite().all()


def test_a_page_can_play_it() -> None:
    uri = playable(torch.randn(1, 64, 600), PHONE)
    kind, _, text = uri.partition(",")
    assert kind == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(text))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 1, 8000)
        assert 1.9 < file.getnframes() / 8000 <= 2.0
