"""From a log-mel spectrogram back to a waveform: what a sample, or a view of it, sounds like.

The mel filters are inverted by least squares with non-negative power. The phases, which a
spectrogram does not keep, are found as Griffin and Lim did (1984), with the momentum of Perraudin
et al. (2013). Tones between the filters and above their upper edge stay lost.
"""

import functools
import math

import torch
from torch import Tensor

from mezzotint.data.audio.log_mel import Mel, mel_filters

_ITERATIONS = 32
_MOMENTUM = 0.99


@torch.no_grad()
def waveform(log_mel: Tensor, settings: Mel) -> Tensor:
    """Find a waveform whose log-mel spectrogram is close to a given one.

    Args:
        log_mel: `[1, mels, frames]` or `[mels, frames]`, natural logarithms of power.
        settings: of the front-end that made it.

    Returns:
        float32 `[T]` at `settings.sample_rate` with a peak of 1; zeros for silence.
    """
    mels = log_mel.detach().float().cpu().reshape(-1, log_mel.shape[-1])
    above = mels.nan_to_num(settings.silence).clamp(max=30.0).exp() - math.exp(settings.silence)
    magnitude = (_inverse(settings) @ above).clamp_min(0.0).sqrt()
    window = torch.hann_window(settings.window)
    fft = functools.partial(
        torch.stft, n_fft=settings.n_fft, hop_length=settings.hop,
        win_length=settings.window, window=window,
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


@functools.cache
def _inverse(settings: Mel) -> Tensor:
    """Pseudo-inverse of the mel filters, from mel power to power: `[bins, mels]`."""
    inverse: Tensor = torch.linalg.pinv(mel_filters(settings))
    return inverse.T.float()


def _phases(shape: torch.Size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(shape, generator=generator) * (2 * math.pi)
