"""Recordings and videos made smaller before training: 16 kHz mono, and a short side of so many pixels.

A file is written beside its place and renamed at the end, so that a run that was killed leaves
whole files or none, and one that is started again goes on with those that are missing.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

from mezzotint.data.audio.waveform import UndecodableAudio, read_waveform, soundfile_module
from mezzotint.data.video.decode import UndecodableVideo
from mezzotint.files import replacing


@dataclass(frozen=True)
class ClipConversion:
    """One file to be made.

    Attributes:
        source: what there is.
        target: what is wanted; its extension says the format.
        measure: sample rate in Hz of a recording, short side in pixels of a video.
    """

    source: str
    target: str
    measure: int


Convert = Callable[[ClipConversion], None]


def convert_all(
    convert: Convert, jobs: Sequence[ClipConversion], workers: int
) -> Iterator[tuple[ClipConversion, str]]:
    """Make those files that are not there yet.

    Args:
        convert: makes one.
        jobs: all of them.
        workers: processes; 0 or 1 for this one.

    Yields:
        Each job, in order, with the reason why its file could not be made, empty when it is there.
    """
    if workers < 2:
        for job in jobs:
            yield job, attempt(convert, job)
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork of a process with threads, such as torch's, may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from zip(
            jobs, pool.map(attempt, [convert] * len(jobs), jobs, chunksize=8), strict=True
        )


def attempt(convert: Convert, job: ClipConversion) -> str:
    """Make a file unless it is there; the reason when its source is bad, else nothing."""
    if os.path.isfile(job.target):
        return ""
    try:
        convert(job)
    except (UndecodableAudio, UndecodableVideo) as error:
        return str(error)
    return ""


def audio(job: ClipConversion) -> None:
    """A recording of any rate and number of channels → mono of 16 bits at `measure` Hz, wav or flac.

    Raises:
        UndecodableAudio: with the reason.
        ModuleNotFoundError: without soundfile.
    """
    soundfile = soundfile_module()
    try:
        header = soundfile.info(job.source)
        samples = max(1, ceil(header.frames * job.measure / header.samplerate))
    except soundfile.LibsndfileError:
        samples = 1  # the reader below finds out why
    wave = read_waveform(job.source, job.measure, samples)
    with replacing(Path(job.target)) as temporary:
        soundfile.write(temporary, wave.clamp(-1.0, 1.0).numpy(), job.measure, subtype="PCM_16")


def video(job: ClipConversion) -> None:
    """A video of any size → H.264 whose short side has `measure` pixels, without sound; smaller ones are copied.

    Frames keep their time stamps.

    Raises:
        UndecodableVideo: with the reason.
        ImportError: without PyAV.
    """
    try:
        import av
    except ImportError:
        raise ImportError("preparing video needs PyAV; pip install 'mezzotint[video]'") from None
    try:
        with av.open(job.source) as found, replacing(Path(job.target)) as temporary:
            if not found.streams.video:
                raise UndecodableVideo("no video: it has no picture track")
            stream = found.streams.video[0]
            if min(stream.width, stream.height) <= job.measure:
                for _ in found.decode(stream):
                    pass  # a copy is no better than its source: bad frames are to be found now
                shutil.copyfile(job.source, temporary)
                return
            with av.open(str(temporary), "w") as made:
                _transcode(found, stream, made, job.measure)
    except av.FFmpegError as error:
        raise UndecodableVideo(f"broken or truncated: {error.strerror}") from None


def _transcode(found: Any, stream: Any, made: Any, side: int) -> None:
    scale = side / min(stream.width, stream.height)
    width, height = (2 * round(n * scale / 2) for n in (stream.width, stream.height))
    out = made.add_stream(
        "libx264", rate=stream.average_rate or Fraction(25), options={"crf": "18"}
    )
    out.width, out.height, out.pix_fmt = width, height, "yuv420p"
    out.codec_context.time_base = stream.time_base
    frames = 0
    for frame in found.decode(stream):
        small = frame.reformat(width, height, "yuv420p")
        small.pts, small.time_base, small.pict_type = frame.pts, frame.time_base, 0
        made.mux(out.encode(small))
        frames += 1
    if not frames:
        raise UndecodableVideo("truncated: it has a header, but no frame")
    made.mux(out.encode())
