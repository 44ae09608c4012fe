"""From an audio file to a mono waveform of a wanted rate and length: one documented conversion for whatever is found.

- All channels are averaged. Any sample rate is resampled (see `resampling.py`).
- The middle of a longer recording is taken, and only that is decoded; a shorter one gets silence on both sides.
- Integers of any width become floats in [-1, 1]; floats stay as they are, and must be finite.
- A truncated file is an error, where it shows: the sizes in a wave header, the end mark of an Ogg stream, the number of
  samples that an MP3 announces, FLAC's check sums. What lies outside of the middle is not looked at.

Reads with soundfile (wav, flac, ogg, opus, mp3, aiff and more): `pip install mezzotint[audio]`.
"""

import os
import re
from math import ceil, floor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.resampling import resample

AUDIO_EXTENSIONS = frozenset(".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .w64 .caf".split())

Fault = Literal["missing", "empty", "not audio", "truncated", "broken"]

_MARGIN = 16_384
"""Samples decoded on either side of the middle: resampling needs neighbours, and after a seek an MP3 decoder gives
wrong values for up to four frames (4,650 samples measured)."""

_SLACK = 1152  # samples: an MP3 may end with a frame that is not quite filled
_SIZES = re.compile(r"\b(?:data|SSND)\s*:\s*(\d+) \(should be (\d+)\)")
_OGG_PAGE = 65_307  # bytes of the longest
_UNKNOWN_SIZE = 0x7FFFFF00  # what programs write that do not know the length yet is no less than this


class UndecodableAudio(Exception):
    """A file that gives no waveform.

    Attributes:
        fault: which of the few kinds of failure it is.
        detail: what exactly was found.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(fault, detail)
        self.fault, self.detail = fault, detail

    def __str__(self) -> str:
        return f"{self.fault}: {self.detail}"


def read_waveform(path: str, rate: int, samples: int, start: float | None = None) -> Tensor:
    """A part of a recording.

    Args:
        path: of the file.
        rate: of the result, in Hz.
        samples: of the result.
        start: second at which it begins; by default it is the middle.

    Returns:
        float32 `[samples]`.

    Raises:
        UndecodableAudio: with the reason.
        ModuleNotFoundError: without soundfile, with what to install.
    """
    soundfile = soundfile_module()
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise UndecodableAudio("missing", error.strerror or "cannot be opened") from None
    if size == 0:
        raise UndecodableAudio("empty", "0 bytes")
    try:
        with soundfile.SoundFile(path) as file:
            _refuse_truncated(file, path)
            values, first = _part(file, samples / rate, start)
            found = file.samplerate
    except soundfile.LibsndfileError as error:
        reason = " ".join(str(error.error_string).split())
        unknown = any(words in reason for words in ("not recognised", "not a regular file", "not implemented"))
        raise UndecodableAudio("not audio" if unknown else "broken", reason) from None
    if len(values) == 0:
        raise UndecodableAudio("empty", "no samples")
    if not np.isfinite(values).all():
        raise UndecodableAudio("broken", f"NaN or infinity in {int((~np.isfinite(values)).sum()):,} values")
    wave = resample(torch.from_numpy(values).mean(dim=1), found, rate)
    return _centred(wave, samples, None if first is None else round(first * rate / found))


def _part(file: Any, seconds: float, at: float | None) -> tuple[Any, int | None]:
    """Samples `[T, channels]` of the wanted part and a margin, and the place of the part's start in them.

    That is None for a recording that is read whole, because it is shorter.
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
    """How long a recording is, by its header.

    Raises:
        ValueError: when it cannot be read.
    """
    soundfile = soundfile_module()
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{path} cannot be read ({error.error_string}); allowed is a recording: fetch it") from None


def _expect(found: int, announced: int) -> None:
    if found + _SLACK < announced:
        raise UndecodableAudio("truncated", f"{found:,} of {announced:,} samples could be read")


def _centred(wave: Tensor, samples: int, start: int | None) -> Tensor:
    """Cut `samples` out from `start` on; or put a shorter waveform into the middle of silence."""
    if start is not None:
        wave = wave[start : start + samples]
    missing = samples - len(wave)
    if missing <= 0:
        return wave[:samples].contiguous()
    left = floor(missing / 2) if start is None else 0
    return torch.nn.functional.pad(wave, (left, missing - left))


def _refuse_truncated(file: Any, path: str) -> None:
    """Where a format says how long it ought to be, believe it."""
    sizes = _SIZES.search(file.extra_info)
    if sizes is not None and int(sizes[2]) < int(sizes[1]) < _UNKNOWN_SIZE:
        raise UndecodableAudio("truncated", f"{int(sizes[2]):,} of {int(sizes[1]):,} bytes of samples")
    if file.format == "OGG":
        with open(path, "rb") as raw:
            raw.seek(max(0, os.stat(path).st_size - _OGG_PAGE))
            if not _ends_an_ogg_stream(raw.read()):
                raise UndecodableAudio("truncated", "the last page of the Ogg stream is missing")


def _ends_an_ogg_stream(end: bytes) -> bool:
    """Whether the last page among these bytes is whole, and says that it is the last."""
    page = end.rfind(b"OggS")
    if page < 0 or page + 27 > len(end) or not end[page + 5] & 4:
        return False
    body = page + 27 + end[page + 26]
    return body <= len(end) and body + sum(end[page + 27 : body]) <= len(end)


def soundfile_module() -> Any:
    """The package soundfile.

    Raises:
        ModuleNotFoundError: when it is not installed, with what to do.
    """
    try:
        import soundfile
    except (ModuleNotFoundError, OSError) as error:
        raise ModuleNotFoundError(
            f"audio files are read with soundfile ({error}); install it with pip install 'mezzotint[audio]'",
            name="soundfile",
        ) from error
    return soundfile
