"""A log-mel spectrogram made audible: what a sample, or a view of it, sounds like to the encoder.

The mel filters are inverted by least squares with non-negative power, and the phases that a spectrogram has lost are
found as Griffin and Lim did (1984), with the momentum of Perraudin et al. (2013). What is lost stays lost: tones
between the filters, and everything above their upper edge.
"""

import base64
import functools
import io
import math
import wave
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from mezzotint.data.log_mel import Mel, mel_filters

_ITERATIONS = 32
_MOMENTUM = 0.99
_SECONDS = 2.0
_LEVEL = 0.5


@runtime_checkable
class Audible(Protocol):
    """A source of log-mel spectrograms that says how they were made."""

    mel: Mel


@torch.no_grad()
def waveform(log_mel: Tensor, settings: Mel) -> Tensor:
    """A waveform whose log-mel spectrogram is near to one that is given.

    Args:
        log_mel: `[1, mels, frames]` or `[mels, frames]`, natural logarithms of power.
        settings: of the front-end that made it.

    Returns:
        float32 `[T]` at `settings.sample_rate`, its loudest sample 1; zeros for silence.
    """
    mels = log_mel.detach().float().cpu().reshape(-1, log_mel.shape[-1])
    above = mels.nan_to_num(settings.silence).clamp(max=30.0).exp() - math.exp(settings.silence)
    magnitude = (_inverse(settings) @ above).clamp_min(0.0).sqrt()
    window = torch.hann_window(settings.window)
    fft = functools.partial(
        torch.stft, n_fft=settings.n_fft, hop_length=settings.hop, win_length=settings.window, window=window,
        return_complex=True, pad_mode="constant",
    )  # fmt: skip
    length = (magnitude.shape[1] - 1) * settings.hop
    angles = torch.polar(torch.ones_like(magnitude), _phases(magnitude.shape))
    before = torch.zeros_like(angles)
    wave = torch.zeros(length)
    for _ in range(_ITERATIONS):
        wave = torch.istft(
            magnitude * angles, settings.n_fft, settings.hop, settings.window, window, length=length
        )  # fmt: skip
        now = fft(wave)
        angles = now - before * (_MOMENTUM / (1 + _MOMENTUM))
        angles = angles / angles.abs().clamp_min(1e-12)
        before = now
    loudest = wave.abs().max()
    return wave / loudest if loudest > 1e-6 else torch.zeros(length)


def playable(log_mel: Tensor, settings: Mel) -> str:
    """The first seconds of a spectrogram as a WAV file of 8 bits, in a data URI."""
    frames = math.ceil(_SECONDS * settings.sample_rate / settings.hop)
    samples = waveform(log_mel[..., :frames], settings)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(settings.sample_rate)
        out.writeframes((samples * (127 * _LEVEL) + 128.5).to(torch.uint8).numpy().tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode("ascii")


@functools.cache
def _inverse(settings: Mel) -> Tensor:
    """`[bins, mels]`: from mel power to power."""
    inverse: Tensor = torch.linalg.pinv(mel_filters(settings))
    return inverse.T.float()


def _phases(shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator) * (2 * math.pi)
