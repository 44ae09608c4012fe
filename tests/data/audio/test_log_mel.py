"""`log_mel_reference.npz` holds a sweep with noise and a silent part, and what others make of it.

librosa 0.11.0, `feature.melspectrogram(power=2)` in float64, plus the epsilon of float32,
logarithm; torchaudio 2.11.0, `compliance.kaldi.fbank` as AST calls it (128 mels);
kaldi-native-fbank 1.23.0 (80 mels, which it allows). The last two compute in float32.
torchaudio 2.11.0, `transforms.MelSpectrogram` of BYOL-A's sizes, whose filters are float32."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.audio.log_mel import (
    AUDIOSET,
    BYOL_A,
    BYOL_A_HTK,
    Mel,
    log_mel,
    mel_filters,
    waveform,
)

REFERENCE = np.load(Path(__file__).parent / "log_mel_reference.npz")
SHORT = Mel(16000, 512, 400, 160, 40, 0.0, 8000.0)  # a frame that is shorter than the transform
CASES = {
    "librosa_reflect": (BYOL_A, 2e-6),
    "librosa_zeros": (dataclasses.replace(BYOL_A, padding="zeros"), 2e-6),
    "librosa_short": (SHORT, 2e-6),
    "torchaudio_htk": (BYOL_A_HTK, 1e-4),
    "kaldi_128": (AUDIOSET, 1e-3),
    "kaldi_80": (dataclasses.replace(AUDIOSET, mels=80), 1e-3),
}


def wave(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(REFERENCE["wave"]).to(dtype)


@pytest.mark.parametrize("name", CASES)
def test_equals_librosa_torchaudio_and_kaldi(name: str) -> None:
    settings, tolerance = CASES[name]
    found = log_mel(wave(), settings)
    assert found.shape == REFERENCE[name].shape == (settings.mels, settings.frames(8000))
    np.testing.assert_allclose(found.numpy(), REFERENCE[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("settings", [BYOL_A, AUDIOSET, SHORT], ids=["byol_a", "audioset", "short"])
def test_float32_is_close_to_float64(settings: Mel) -> None:
    exact = log_mel(wave(), settings)
    assert (log_mel(wave(torch.float32), settings) - exact).abs().max() < 1e-3


def test_a_batch_is_the_same_as_one_by_one() -> None:
    waves = torch.stack([wave(), wave().flip(0), torch.zeros(8000)]).view(3, 1, 8000)
    for settings in (BYOL_A, AUDIOSET):
        found = log_mel(waves, settings)
        assert found.shape == (3, 1, settings.mels, settings.frames(8000))
        for row in range(3):
            torch.testing.assert_close(found[row, 0], log_mel(waves[row, 0], settings))


@pytest.mark.parametrize("part", [100, 501, 10_000])
def test_long_waveforms_are_cut_into_parts_without_a_seam(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mezzotint.data.audio.log_mel._CHUNK", part)
    monkeypatch.setattr("mezzotint.data.audio.log_mel._SHARED_CHUNK", part)
    long = torch.randn(16000 * 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = log_mel(long, BYOL_A)  # 501 frames
    middle = log_mel(long[160 * 200 : 160 * 320], BYOL_A)
    torch.testing.assert_close(
        found[:, 205:315], middle[:, 5:115]
    )  # five frames from the ends nothing is reflected


def test_silence_is_the_epsilon() -> None:
    for settings in (BYOL_A, AUDIOSET):
        found = log_mel(torch.zeros(16000), settings)
        assert (
            torch.unique(found).tolist() == pytest.approx([settings.silence])
            and settings.silence < -15.9
        )


def test_a_tone_is_loudest_in_the_filter_that_covers_it() -> None:
    time = torch.arange(16000, dtype=torch.float64) / 16000
    for settings in (BYOL_A, AUDIOSET):
        bins = torch.linspace(0, 8000, settings.n_fft // 2 + 1)
        for hertz in (440.0, 1000.0, 5000.0):
            position = log_mel(torch.sin(2 * math.pi * hertz * time), settings)[:, 40].argmax()
            covered = bins[mel_filters(settings)[:, position] > 0]
            step = settings.sample_rate / settings.n_fft
            assert covered.min() - step < hertz < covered.max() + step


def test_doubling_the_wave_adds_log_four() -> None:
    loud, soft = log_mel(wave() * 2, BYOL_A)[:, :15], log_mel(wave(), BYOL_A)[:, :15]
    torch.testing.assert_close(loud - soft, torch.full_like(loud, math.log(4.0)), atol=1e-2, rtol=0)


def test_filters_have_the_area_or_the_height_that_they_should() -> None:
    slaney = mel_filters(dataclasses.replace(BYOL_A, n_fft=16384))
    torch.testing.assert_close(
        slaney.sum(0) * (16000 / 16384), torch.ones(64, dtype=torch.float64), atol=2e-3, rtol=0
    )
    kaldi = mel_filters(dataclasses.replace(AUDIOSET, n_fft=16384))
    assert kaldi.max(dim=0).values.min() > 0.95 and kaldi.max() <= 1.0


def test_htk_filters_follow_their_formula() -> None:
    """Triangles of height 1 over Hz, with edges equally far apart on 2595 log₁₀(1 + f / 700)."""
    low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (60.0, 7800.0))
    edges = [700.0 * (10.0 ** ((low + (high - low) * i / 65) / 2595.0) - 1.0) for i in range(66)]
    expected = np.zeros((513, 64))
    for mel in range(64):
        left, center, right = edges[mel : mel + 3]
        for position in range(513):
            hertz = position * 16000 / 1024
            if left < hertz <= center:
                expected[position, mel] = (hertz - left) / (center - left)
            elif center < hertz < right:
                expected[position, mel] = (right - hertz) / (right - center)
    np.testing.assert_allclose(mel_filters(BYOL_A_HTK).numpy(), expected, atol=1e-12, rtol=0)
    assert (mel_filters(BYOL_A) - mel_filters(BYOL_A_HTK)).abs().max() > 0.1


def test_samples_is_the_inverse_of_frames() -> None:
    for settings in (BYOL_A, AUDIOSET, SHORT):
        for frames in (4, 96, 1024):
            samples = settings.samples(frames)
            assert settings.frames(samples) == frames and settings.frames(samples - 1) == frames - 1


def test_refuses_what_gives_no_frame() -> None:
    with pytest.raises(
        ValueError,
        match="must be floating point and have 400 samples or more .*, got 300 samples",
    ):
        log_mel(torch.zeros(300), AUDIOSET)
    with pytest.raises(ValueError, match="have 513 samples or more .*, got 512 samples .* Pad"):
        log_mel(torch.zeros(512), BYOL_A)
    with pytest.raises(
        ValueError, match="must be floating point .*, got 8000 samples of torch.int16"
    ):
        log_mel(torch.zeros(8000, dtype=torch.int16), BYOL_A)
    with pytest.raises(
        ValueError,
        match="must lie within 0 to 4000.0 Hz, .*, got 60.0 to 7800.0 Hz",
    ):
        mel_filters(dataclasses.replace(BYOL_A, sample_rate=8000))


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
