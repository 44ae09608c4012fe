"""A waveform found by Griffin-Lim has the spectrogram that it was made from."""

import math

import pytest
import torch

from mezzotint.data.audio.griffin_lim import waveform
from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, Mel, log_mel

PHONE = Mel(8000, 512, 512, 160, 64, 60.0, 3900.0)


@pytest.mark.parametrize("settings", [BYOL_A, PHONE, AUDIOSET], ids=["byol_a", "phone", "audioset"])
def test_a_tone_keeps_its_frequency(settings: Mel) -> None:
    rate, tone = settings.sample_rate, 880.0
    time = torch.arange(rate) / rate
    made = waveform(log_mel(torch.sin(2 * math.pi * tone * time), settings), settings)
    spectrum = torch.fft.rfft(made * torch.hann_window(len(made))).abs()
    found = float(spectrum.argmax()) * rate / len(made)
    assert found == pytest.approx(tone, rel=0.04)
    assert float(made.abs().max()) == pytest.approx(1.0)


def test_the_spectrogram_of_the_waveform_is_the_given_one() -> None:
    time = torch.arange(8000) / 8000
    sweep = torch.sin(2 * math.pi * (200 + 700 * time) * time) * (
        1 + torch.sin(2 * math.pi * 4 * time)
    )
    target = log_mel(sweep, PHONE)
    result = log_mel(waveform(target, PHONE), PHONE)
    frames = min(target.shape[-1], result.shape[-1])
    loud = target[:, :frames] > target.max() - 7
    pair = torch.stack([target[:, :frames][loud], result[:, :frames][loud]])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.9


def test_silence_and_nan_give_finite_silence() -> None:
    silence = torch.full((1, 64, 20), PHONE.silence)
    assert not waveform(silence, PHONE).any()
    silence[0, 3, 4] = torch.nan
    assert waveform(silence, PHONE).isfinite().all()
