"""Turn waveforms into log-mel spectrograms in torch, with the usual front-ends.

`BYOL_A` is the front-end of BYOL for Audio (Niizumi et al. 2021, arXiv 2103.06695, section IV-A):
`librosa.feature.melspectrogram` with Slaney's scale and area normalization, and the logarithm of
the power plus an epsilon. The published weights were trained so; the published training script
takes torchaudio's default instead, `BYOL_A_HTK`. `AUDIOSET` is Kaldi's filter bank as AST,
AudioMAE, BEATs and BRIDLE call it: 25 ms Hann frames each 10 ms, with the mean removed,
pre-emphasis, 128 triangles on Kaldi's scale, and the logarithm clamped at an epsilon.
`tests/data/audio/test_log_mel.py` compares with values of librosa, torchaudio and Kaldi.

Differs from both libraries in speed only: frames are views of the waveform, processed in chunks
that stay in a processor's cache, and the filters cover only the bins that they use.

`Mel.invert` goes back to a waveform: what a sample, or a view of it, sounds like. The mel filters
are inverted by least squares with non-negative power. The phases, which a spectrogram does not
keep, are found as Griffin and Lim did (1984), with the momentum of Perraudin et al. (2013). Tones
between the filters and above their upper edge stay lost.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Scale = Literal["slaney", "htk", "kaldi"]
Padding = Literal["reflect", "zeros", "none"]

_CHUNK = 256  # frames at a time on one thread: 1 MB of float32 at 1,024 samples a frame
_SHARED_CHUNK = 8192  # on several threads, which synchronize after each operation


@dataclass(frozen=True)
class Mel:
    """Settings of a log-mel spectrogram.

    Attributes:
        sample_rate: sample rate of the waveform, in Hz.
        n_fft: points of the Fourier transform; frames are zero-padded to it.
        window: samples in a frame.
        hop: samples from one frame to the next.
        mels: number of triangular filters.
        low: lower edge of the first filter, in Hz.
        high: upper edge of the last filter, in Hz.
        scale: `slaney` spaces the filters as librosa does and gives each the same area; `htk`
            spaces them by 2595 log₁₀(1 + f / 700) and gives each the height 1, as torchaudio does
            by default; `kaldi` spaces them by 1127 ln(1 + f / 700), gives each the height 1, and
            makes them triangles over mel instead of over Hz.
        padding: `reflect` and `zeros` center frame `t` on sample `t · hop`; `none` begins with the
            first sample and takes whole frames only.
        pre_emphasis: factor of Kaldi's pre-emphasis, 0 for none. It removes the mean of a frame
            first, and repeats the first sample as its own predecessor.
    """

    sample_rate: int
    n_fft: int
    window: int
    hop: int
    mels: int
    low: float
    high: float
    scale: Scale = "slaney"
    padding: Padding = "reflect"
    pre_emphasis: float = 0.0

    def frames(self, samples: int) -> int:
        """Return the number of frames of a waveform."""
        if self.padding != "none":
            return 1 + samples // self.hop
        return 0 if samples < self.window else 1 + (samples - self.window) // self.hop

    def samples(self, frames: int) -> int:
        """Return the length of the shortest waveform with this number of frames."""
        return (frames - 1) * self.hop + (self.window if self.padding == "none" else 0)

    @property
    def silence(self) -> float:
        """The value of a silent frame: the logarithm of the epsilon."""
        return math.log(torch.finfo(torch.float32).eps)

    def invert(self, log_mel: Tensor) -> Tensor:
        """Find a waveform `[T]` whose spectrogram is close to `[1, mels, frames]`."""
        return waveform(log_mel, self)


def described(settings: Mel) -> dict[str, Any]:
    """Describe a front-end as plain data, for whoever serves an encoder.

    `edges` has the corners of all filters: filter `i` rises from `edges[i]` to `edges[i + 1]` and
    falls to `edges[i + 2]`.
    """
    kaldi, centered = settings.scale == "kaldi", settings.padding != "none"
    area = "area" if settings.scale == "slaney" else "height"
    return {
        **dataclasses.asdict(settings),
        "window_function": f"Hann, {'periodic' if centered else 'symmetric'}",
        "edges": mel_edges(settings).tolist(),
        "filters": f"triangles of {area} 1 over {'mel, 1127 ln(1 + Hz / 700)' if kaldi else 'Hz'}",
        "epsilon": torch.finfo(torch.float32).eps,
        "values": f"ln({'max(mel power, epsilon)' if kaldi else 'mel power + epsilon'})",
    }


BYOL_A = Mel(16000, 1024, 1024, 160, 64, 60.0, 7800.0)
"""16 kHz, 64 ms frames each 10 ms, 64 mels of 60 to 7,800 Hz."""

BYOL_A_HTK = dataclasses.replace(BYOL_A, scale="htk")
"""The same with torchaudio's filters, as the published training script of BYOL-A has them."""

AUDIOSET = Mel(
    16000, 512, 400, 160, 128, 20.0, 8000.0, scale="kaldi", padding="none", pre_emphasis=0.97
)
"""16 kHz, 25 ms frames each 10 ms, 128 mels of 20 to 8,000 Hz: Kaldi's filter bank."""


@torch.no_grad()
def log_mel(waves: Tensor, settings: Mel = BYOL_A) -> Tensor:
    """Compute the log-mel spectrogram of waveforms.

    Args:
        waves: float `[…, T]`, in [−1, 1]; no gradient flows back.
        settings: settings of the front-end.

    Returns:
        Natural logarithms of mel power, in the dtype of `waves`, `[…, mels, frames]`.

    Raises:
        ValueError: when the waveform is too short for a single frame.
    """
    samples = waves.shape[-1]
    least = 1 if settings.padding == "zeros" else settings.window
    if settings.padding == "reflect":
        least = settings.n_fft // 2 + 1
    if samples < least or not waves.is_floating_point():
        raise ValueError(
            f"A waveform must be floating point and have {least} samples or more with padding "
            f"{settings.padding!r}, got {samples} samples of {waves.dtype}. Pad a short clip with "
            "zeros."
        )
    flat = waves.reshape(-1, samples)
    if settings.padding != "none":
        half = settings.n_fft // 2
        mode = "reflect" if settings.padding == "reflect" else "constant"
        flat = torch.nn.functional.pad(flat.unsqueeze(1), (half, half), mode=mode).squeeze(1)
    window = _window(settings, waves.dtype, waves.device)
    first, bank = _bank(settings, waves.dtype, waves.device)
    width = len(window)
    frames = flat.unfold(1, width, settings.hop).reshape(-1, width) if len(flat) > 1 else None
    frames = flat[0].unfold(0, width, settings.hop) if frames is None else frames
    chunk = _CHUNK if torch.get_num_threads() == 1 else _SHARED_CHUNK
    chunk = chunk if waves.device.type == "cpu" else len(frames)
    out = waves.new_empty(len(frames), settings.mels)
    for start in range(0, len(frames), chunk):
        part = _emphasized(frames[start : start + chunk], settings.pre_emphasis) * window
        bins = torch.fft.rfft(part, settings.n_fft)[:, first : first + len(bank)]
        power = bins.real.square().addcmul_(bins.imag, bins.imag)
        torch.matmul(power, bank, out=out[start : start + chunk])
    eps = torch.finfo(torch.float32).eps
    out = out.clamp_(min=eps) if settings.scale == "kaldi" else out.add_(eps)
    return out.log_().view(*waves.shape[:-1], -1, settings.mels).transpose(-1, -2)


def mel_filters(settings: Mel) -> Tensor:
    """Return the triangular filters over the power of each bin, float64 `[n_fft / 2 + 1, mels]`."""
    nyquist = settings.sample_rate / 2
    if not 0 <= settings.low < settings.high <= nyquist:
        raise ValueError(
            f"Filters must lie within 0 to {nyquist} Hz, half of the sample rate, got "
            f"{settings.low} to {settings.high} Hz. Lower the upper edge."
        )
    bins = torch.linspace(0.0, nyquist, settings.n_fft // 2 + 1, dtype=torch.float64)
    edges = mel_edges(settings)
    if settings.scale == "kaldi":
        weights = _triangles(_kaldi_mel(bins), edges)
        weights[-1] = 0.0  # Kaldi ignores the bin at half of the sample rate
        return weights
    weights = _triangles(bins, edges)
    return weights * (2.0 / (edges[2:] - edges[:-2])) if settings.scale == "slaney" else weights


def mel_edges(settings: Mel) -> Tensor:
    """Return the corners of the filters, float64 `[mels + 2]`: in Hz, or in mel with `kaldi`."""
    ends = torch.tensor([settings.low, settings.high], dtype=torch.float64)
    if settings.scale == "kaldi":
        low, high = _kaldi_mel(ends).tolist()
        steps = torch.arange(settings.mels + 2, dtype=torch.float64)
        corners: Tensor = low + steps * ((high - low) / (settings.mels + 1))
        return corners
    if settings.scale == "htk":
        low, high = _htk_mel(ends).tolist()
        mels = torch.linspace(low, high, settings.mels + 2, dtype=torch.float64)
        corners = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
        return corners
    low, high = _slaney_mel(ends).tolist()
    return _slaney_hz(torch.linspace(low, high, settings.mels + 2, dtype=torch.float64))


def _triangles(position: Tensor, edges: Tensor) -> Tensor:
    """Return triangles of height 1 over three neighboring edges each, `[positions, edges − 2]`."""
    rising = (position.unsqueeze(1) - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - position.unsqueeze(1)) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp_(min=0.0)


def _kaldi_mel(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hz / 700.0)


def _htk_mel(hz: Tensor) -> Tensor:
    return 2595.0 * torch.log10(1.0 + hz / 700.0)


def _slaney_mel(hz: Tensor) -> Tensor:
    """Linear up to 1 kHz (15 mel), then 27 mel for each factor of 6.4."""
    return torch.where(
        hz < 1000.0,
        hz * 0.015,
        15.0 + (hz.clamp(min=1000.0) / 1000.0).log() * (27.0 / math.log(6.4)),
    )


def _slaney_hz(mel: Tensor) -> Tensor:
    return torch.where(
        mel < 15.0, mel / 0.015, 1000.0 * ((mel - 15.0) * (math.log(6.4) / 27.0)).exp()
    )


def _emphasized(frames: Tensor, factor: float) -> Tensor:
    """Subtract the mean of each frame, then `factor` times the previous sample, as Kaldi does."""
    if factor == 0.0:
        return frames
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    return frames.sub_(before, alpha=factor)


@functools.lru_cache(maxsize=16)
def _window(settings: Mel, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a Hann window: periodic and centered in `n_fft` if frames are centered."""
    centered = settings.padding != "none"
    window = torch.hann_window(settings.window, periodic=centered, dtype=torch.float64)
    if centered:
        missing = settings.n_fft - settings.window
        window = torch.nn.functional.pad(window, (missing // 2, missing - missing // 2))
    return window.to(device, dtype)


@functools.lru_cache(maxsize=16)
def _bank(settings: Mel, dtype: torch.dtype, device: torch.device) -> tuple[int, Tensor]:
    """Return the first bin that any filter uses, and the filters over the used bins."""
    filters = mel_filters(settings)
    used = filters.any(dim=1).nonzero().squeeze(1)
    first, last = int(used[0]), int(used[-1])
    return first, filters[first : last + 1].to(device, dtype).contiguous()


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
