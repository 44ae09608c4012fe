"""Decode any audio file to a mono waveform of a given rate and length.

- All channels are averaged. Any sample rate is resampled.
- Only the middle of a longer file is decoded; a shorter one is padded with silence on both sides.
- Integers become floats in [-1, 1]; floats are kept, and must be finite.
- A truncated file is an error, if the format shows it: by the sizes in a wave header, the end mark
  of an Ogg stream, the number of samples in an MP3 header, FLAC's checksums. Damage outside of the
  middle is not detected.

- What a header says is checked before anything is allocated for it: `MIN_RATE`, `MAX_RATE`,
  `MAX_VALUES` and `MAX_WEIGHTS` are the limits.

Files are read with soundfile (wav, flac, ogg, opus, mp3, aiff and more): `pip install
mezzotint[audio]`.

Resampling is band-limited interpolation by a windowed sinc (Smith 2002), in torch.

A sample of the result is a weighted sum of the input around it. The weights repeat after `rate_out
/ gcd` samples, so neighboring results use one small matrix that multiplies overlapping views of the
waveform: a few matrix products without copies.

The Kaiser window has 32 zero crossings on either side and a stop band about 85 dB down; it passes
frequencies below 0.84 of half the lower rate.
"""

import functools
import io
import math
import os
import re
from math import ceil, floor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

_CROSSINGS = 32
_CUTOFF = 0.92  # of half the lower rate: the middle of the transition band
_BETA = 8.6
_GROUP = 32  # results per matrix


@torch.no_grad()
def resample(waves: Tensor, rate: int, wanted: int) -> Tensor:
    """Change the sample rate.

    Args:
        waves: float `[…, T]`; silence is assumed before and after.
        rate: sample rate of the waveforms, in Hz.
        wanted: sample rate of the result, in Hz.

    Returns:
        `[…, ceil(T · wanted / rate)]`; sample `j` is at the time of sample `j · rate / wanted`.
    """
    if rate < 1 or wanted < 1:
        raise ValueError(
            f"Sample rates must be 1 Hz or more, got {rate} and {wanted}. Check the file."
        )
    if rate == wanted:
        return waves
    samples = waves.shape[-1]
    count = -(-samples * wanted // rate)
    half, step, produced, groups = _plan(rate, wanted)
    rows = -(-count // produced)
    flat = waves.reshape(-1, samples)
    # Each row of the views takes `reach` samples from `row · step` on; the last one is padded with
    # silence.
    reach = max(start + len(matrix) for start, matrix in groups)
    padded = torch.nn.functional.pad(
        flat, (half, max(0, (rows - 1) * step + reach - half - samples))
    )
    out = waves.new_empty(len(flat), rows, produced)
    position = 0
    for start, matrix in groups:
        width, size = matrix.shape
        for wave, result in zip(padded, out, strict=True):
            views = wave.as_strided((rows, width), (step, 1), wave.storage_offset() + start)
            torch.matmul(views, matrix.to(waves), out=result[:, position : position + size])
        position += size
    return out.view(len(flat), -1)[:, :count].reshape(*waves.shape[:-1], count)


@functools.lru_cache(maxsize=8)
def _plan(rate: int, wanted: int) -> tuple[int, int, int, list[tuple[int, Tensor]]]:
    """Return padding, input samples and results per row, and start and weights of each group."""
    divisor = math.gcd(rate, wanted)
    down, up = rate // divisor, wanted // divisor
    # The sinc's zeros are 1 / (2 · cutoff) apart, in samples of the input.
    cutoff = 0.5 * _CUTOFF * min(1.0, wanted / rate)
    half = math.ceil(_CROSSINGS / (2.0 * cutoff))
    width = 2 * half + 1 + math.ceil(_GROUP * down / up)
    # Rows must not overlap themselves in memory: torch would copy the views before multiplying.
    periods = max(1, math.ceil(width / down), math.ceil(_GROUP / up))
    groups = []
    for first in range(0, up * periods, _GROUP):
        size = min(_GROUP, up * periods - first)
        center = torch.arange(first, first + size, dtype=torch.float64) * down / up
        start = math.floor(first * down / up)
        taps = 2 * half + 2 + math.ceil((size - 1) * down / up)
        distance = (
            torch.arange(start - half, start - half + taps, dtype=torch.float64).unsqueeze(1)
            - center
        )
        groups.append((start, _kernel(distance, cutoff, half).float()))
    return half, down * periods, up * periods, groups


def _weights(rate: int, wanted: int) -> int:
    """Count the weights of a plan, up to rounding, without computing it."""
    divisor = math.gcd(rate, wanted)
    down, up = rate // divisor, wanted // divisor
    half = _CROSSINGS / (_CUTOFF * min(1.0, wanted / rate))
    width = 2 * half + 1 + _GROUP * down / up
    return ceil(width * up * max(1.0, width / down, _GROUP / up))


def _kernel(distance: Tensor, cutoff: float, half: int) -> Tensor:
    """Return the Kaiser-windowed sinc at distances in input samples; float64."""
    inside = (1.0 - (distance / half).square()).clamp(min=0.0)
    window: Tensor = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(
        torch.tensor(_BETA, dtype=torch.float64)
    )
    window = window.masked_fill(distance.abs() > half, 0.0)
    return torch.sinc(2.0 * cutoff * distance).mul_(window).mul_(2.0 * cutoff)


AUDIO_EXTENSIONS = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .w64 .caf".split()
)

Fault = Literal["missing", "empty", "not audio", "too large", "truncated", "broken"]

MIN_RATE, MAX_RATE = 1_000, 1_000_000
"""Sample rates that are read, in Hz; recorders for bats reach 500 kHz, studios 768 kHz."""
MAX_VALUES = 1 << 29
"""Values of all channels that one part of a file may need: 2 GiB, or 93 minutes
in stereo at 48 kHz."""
MAX_WEIGHTS = 1 << 25
"""Weights that resampling may need: 128 MiB. Rates with large common divisors need few."""

_MARGIN = 16_384
"""Samples decoded on either side of the middle: resampling needs neighbors, and after a seek an MP3
decoder gives wrong values for up to four frames (measured: 4,650 samples)."""

_SLACK = 1152  # samples: the last frame of an MP3 may be partly filled
_SIZES = re.compile(r"\b(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)")
_OGG_PAGE = 65_307  # bytes of the longest page
_UNKNOWN_SIZE = 0x7FFFFF00  # streaming programs write at least this when the length is unknown


class UndecodableAudio(Exception):
    """A file that cannot be decoded to a waveform.

    Attributes:
        fault: kind of the failure.
        detail: the exact finding.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(fault, detail)
        self.fault, self.detail = fault, detail

    def __str__(self) -> str:
        return f"{self.fault}: {self.detail}"


def read_waveform(path: str | bytes, rate: int, samples: int, start: float | None = None) -> Tensor:
    """Read a part of an audio file.

    Args:
        path: path of the file, or its content.
        rate: sample rate of the result, in Hz.
        samples: length of the result.
        start: start of the part in seconds; by default the part is the middle.

    Returns:
        float32 `[samples]`.

    Raises:
        UndecodableAudio: with kind and detail.
        ModuleNotFoundError: without soundfile.
    """
    soundfile = soundfile_module()
    try:
        size = len(path) if isinstance(path, bytes) else os.stat(path).st_size
    except OSError as error:
        raise UndecodableAudio("missing", error.strerror or "cannot be opened") from None
    if size == 0:
        raise UndecodableAudio("empty", "0 bytes")
    try:
        with soundfile.SoundFile(io.BytesIO(path) if isinstance(path, bytes) else path) as file:
            _refuse_extremes(file, samples / rate, rate)
            _refuse_truncated(file, path)
            values, first = _part(file, samples / rate, start)
            found = file.samplerate
    except soundfile.LibsndfileError as error:
        reason = " ".join(str(error.error_string).split())
        unknown = any(
            words in reason for words in ("not recognised", "not a regular file", "not implemented")
        )
        raise UndecodableAudio("not audio" if unknown else "broken", reason) from None
    except UndecodableAudio:
        raise
    except Exception as error:  # a damaged file can raise nearly any exception
        raise UndecodableAudio("broken", _one_line(error)) from None
    if len(values) == 0:
        raise UndecodableAudio("empty", "no samples")
    if not np.isfinite(values).all():
        raise UndecodableAudio(
            "broken", f"NaN or infinity in {int((~np.isfinite(values)).sum()):,} values"
        )
    wave = resample(torch.from_numpy(values).mean(dim=1), found, rate)
    return _centered(wave, samples, None if first is None else round(first * rate / found))


def _part(file: Any, seconds: float, at: float | None) -> tuple[Any, int | None]:
    """Read samples `[T, channels]` of a part with a margin, and the start of the part in them.

    The start is `None` for a shorter file, which is read whole.
    """
    rate, total = file.samplerate, file.frames
    wanted = ceil(seconds * rate)
    if total <= wanted:
        values = file.read(dtype="float32", always_2d=True)
        _expect(len(values), total)
        return values, None
    start = (total - wanted) // 2 if at is None else min(round(at * rate), total - wanted)
    begin = max(0, start - _MARGIN)
    end = min(total, start + wanted + _MARGIN)
    file.seek(begin)
    values = file.read(end - begin, dtype="float32", always_2d=True)
    _expect(len(values), end - begin)
    return values, start - begin


def read_seconds(path: str) -> float:
    """Return the duration of a file in seconds, from its header.

    Raises:
        ValueError: when it cannot be read.
    """
    soundfile = soundfile_module()
    try:
        return float(soundfile.info(path).duration)
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = getattr(error, "error_string", None) or _one_line(error)
        raise ValueError(
            f"`{path}` cannot be read ({detail}). It must be an audio file. Fetch it again."
        ) from None


def _refuse_extremes(file: Any, seconds: float, wanted: int) -> None:
    """Raise if the rate, or the values of a part, are beyond the limits of this module."""
    rate, channels = file.samplerate, file.channels
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UndecodableAudio(
            "too large" if rate > MAX_RATE else "broken",
            f"a sample rate of {rate:,} Hz, not {MIN_RATE:,} to {MAX_RATE:,}",
        )
    values = min(file.frames, ceil(seconds * rate) + 2 * _MARGIN) * channels
    if values > MAX_VALUES:
        raise UndecodableAudio(
            "too large", f"{values:,} values in {channels} channels, more than {MAX_VALUES:,}"
        )
    weights = _weights(rate, wanted)
    if rate != wanted and weights > MAX_WEIGHTS:
        raise UndecodableAudio(
            "too large", f"{rate:,} Hz need {weights:,} weights to resample, not {MAX_WEIGHTS:,}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _expect(found: int, announced: int) -> None:
    if found + _SLACK < announced:
        raise UndecodableAudio("truncated", f"{found:,} of {announced:,} samples could be read")


def _centered(wave: Tensor, samples: int, start: int | None) -> Tensor:
    """Cut `samples` from `start` on, or center a shorter waveform in silence."""
    if start is not None:
        wave = wave[start : start + samples]
    missing = samples - len(wave)
    if missing <= 0:
        return wave[:samples].contiguous()
    left = floor(missing / 2) if start is None else 0
    return torch.nn.functional.pad(wave, (left, missing - left))


def _refuse_truncated(file: Any, path: str | bytes) -> None:
    """Raise if the file is shorter than its format announces."""
    sizes = _SIZES.search(file.extra_info)
    if sizes is not None and int(sizes[2]) < int(sizes[1]) < _UNKNOWN_SIZE:
        raise UndecodableAudio(
            "truncated", f"{int(sizes[2]):,} of {int(sizes[1]):,} bytes of samples"
        )
    if file.format == "OGG":
        if not _ends_an_ogg_stream(_end_of(path)):
            raise UndecodableAudio("truncated", "the last page of the Ogg stream is missing")


def _end_of(path: str | bytes) -> bytes:
    """Return the bytes in which the last page of an Ogg stream begins."""
    if isinstance(path, bytes):
        return path[-_OGG_PAGE:]
    with open(path, "rb") as raw:
        raw.seek(max(0, os.stat(path).st_size - _OGG_PAGE))
        return raw.read()


def _ends_an_ogg_stream(end: bytes) -> bool:
    """Return whether the last page in these bytes is complete and marked as the last."""
    page = end.rfind(b"OggS")
    if page < 0 or page + 27 > len(end) or not end[page + 5] & 4:
        return False
    body = page + 27 + end[page + 26]
    return body <= len(end) and body + sum(end[page + 27 : body]) <= len(end)


def soundfile_module() -> Any:
    """Import the package soundfile.

    Raises:
        ModuleNotFoundError: with the command that installs it.
    """
    try:
        import soundfile
    except (ModuleNotFoundError, OSError) as error:
        raise ModuleNotFoundError(
            f"Audio files are read with soundfile, which cannot be imported ({error}). Run `pip "
            "install 'mezzotint[audio]'`.",
            name="soundfile",
        ) from error
    return soundfile
