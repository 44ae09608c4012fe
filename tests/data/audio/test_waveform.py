import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mezzotint.data.audio import waveform
from mezzotint.data.audio.waveform import UndecodableAudio, read_seconds, read_waveform, resample

RATES = (8000, 11025, 22050, 32000, 44100, 48000, 96000)


def tone(hertz: float, rate: int, samples: int) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(samples, dtype=torch.float64) / rate)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_stays_a_tone(rate: int) -> None:
    for hertz in (100.0, 1000.0, 0.4 * min(rate, 16000)):
        found = resample(tone(hertz, rate, rate).float(), rate, 16000)
        assert len(found) == 16000
        error = (found - tone(hertz, 16000, 16000))[1000:-1000]
        assert 20 * math.log10(error.abs().max()) < -80


@pytest.mark.parametrize("hertz", [8100.0, 9000.0, 15000.0, 23000.0])
def test_what_does_not_fit_into_half_the_rate_is_removed(hertz: float) -> None:
    found = resample(tone(hertz, 48000, 48000).float(), 48000, 16000)
    assert 20 * math.log10(found[1000:-1000].abs().max()) < -80


def direct(wave: torch.Tensor, rate: int, wanted: int) -> torch.Tensor:
    """The defining sum: 32 zero crossings at 0.92 of half the lower rate, Kaiser 8.6."""
    cutoff = 0.46 * min(1.0, wanted / rate)
    half = math.ceil(32 / (2 * cutoff))
    out = []
    for j in range(math.ceil(len(wave) * wanted / rate)):
        distance = torch.arange(len(wave), dtype=torch.float64) - j * rate / wanted
        window = torch.special.i0(8.6 * (1 - (distance / half) ** 2).clamp(min=0).sqrt())
        window = (
            window
            / torch.special.i0(torch.tensor(8.6, dtype=torch.float64))
            * (distance.abs() <= half)
        )
        out.append((2 * cutoff * torch.sinc(2 * cutoff * distance) * window * wave).sum())
    return torch.stack(out)


@given(
    rate=st.integers(100, 1500),
    wanted=st.integers(100, 1500),
    samples=st.integers(1, 600),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_sum_that_defines_it(rate: int, wanted: int, samples: int, seed: int) -> None:
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = resample(wave.float(), rate, wanted).double()
    expected = wave if rate == wanted else direct(wave, rate, wanted)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_batches_and_silence() -> None:
    waves = torch.randn(2, 3, 4410, generator=torch.Generator().manual_seed(0))
    found = resample(waves, 44100, 16000)
    assert found.shape == (2, 3, 1600)
    torch.testing.assert_close(found[1, 2], resample(waves[1, 2], 44100, 16000))
    assert resample(torch.zeros(1000), 44100, 16000).eq(0).all()
    assert resample(waves, 16000, 16000) is waves


def test_refuses_rates_that_mean_nothing() -> None:
    with pytest.raises(ValueError, match="Sample rates must be 1 Hz or more, got 0 and 16000"):
        resample(torch.zeros(10), 0, 16000)


def wave_file(path: Path, rate: int, channels: int = 1, frames: int = 16_000) -> str:
    """A sound wave file of 16 bits whose header states this rate."""
    data = np.zeros((frames, channels), "<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * 2 * channels % 2**32, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return str(path)


@pytest.mark.parametrize(
    ("rate", "sentence"),
    [
        (2_147_483_647, "too large: a sample rate of 2,147,483,647 Hz, not 1,000 to 1,000,000"),
        (1_000_001, "too large: a sample rate of 1,000,001 Hz"),
        (1, "broken: a sample rate of 1 Hz"),
        (999_983, "too large: 999,983 Hz need .* weights to resample, not 33,554,432"),
    ],
)
def test_rates_of_a_header_are_checked_before_resampling(
    rate: int, sentence: str, tmp_path: Path
) -> None:
    pytest.importorskip("soundfile")
    with pytest.raises(UndecodableAudio, match=sentence):
        read_waveform(wave_file(tmp_path / "a.wav", rate), 16_000, 15_200)


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000, 384_000, 500_000, 768_000])
def test_rates_of_recorders_are_read(rate: int, tmp_path: Path) -> None:
    pytest.importorskip("soundfile")
    assert read_waveform(wave_file(tmp_path / "a.wav", rate), 16_000, 15_200).shape == (15_200,)


def test_values_of_all_channels_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("soundfile")
    path = wave_file(tmp_path / "a.wav", 16_000, channels=64, frames=200)
    assert len(read_waveform(path, 16_000, 100)) == 100
    monkeypatch.setattr(waveform, "MAX_VALUES", 200 * 64 - 1)
    with pytest.raises(UndecodableAudio, match="too large: 12,800 values in 64 channels"):
        read_waveform(path, 16_000, 100)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 44_101, 500_000])
def test_the_weights_of_a_plan_are_counted_before_it_is_made(rate: int) -> None:
    made = sum(matrix.numel() for _, matrix in waveform._plan(rate, 16_000)[3])
    assert 0.5 * made < waveform._weights(rate, 16_000) < 2.0 * made


def test_any_failure_of_the_library_is_one_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = wave_file(tmp_path / "a.wav", 16_000)

    def fail(*_: object, **__: object) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr(soundfile.SoundFile, "read", fail)
    with pytest.raises(UndecodableAudio, match="broken: UnicodeDecodeError: 'utf-8' codec"):
        read_waveform(path, 16_000, 100)
    monkeypatch.setattr(soundfile, "info", fail)
    with pytest.raises(ValueError, match="a.wav` cannot be read .UnicodeDecodeError"):
        read_seconds(path)
