"""Convert audio to 16 kHz mono, and videos to a short side in pixels, before training.

A file is written under a temporary name and renamed at the end, so that a killed run leaves no
partial files, and a second run makes only the missing ones.
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
    """One file to convert.

    Attributes:
        source: path of the original.
        target: path of the result; its suffix is the format.
        measure: sample rate of audio in Hz, or short side of a video in pixels.
    """

    source: str
    target: str
    measure: int


Convert = Callable[[ClipConversion], None]


def convert_all(
    convert: Convert, jobs: Sequence[ClipConversion], workers: int
) -> Iterator[tuple[ClipConversion, str]]:
    """Make the files that do not exist yet.

    Args:
        convert: makes one file.
        jobs: conversions to do.
        workers: number of processes; 0 or 1 uses this process.

    Yields:
        Each job, in order, with the reason of a failure; empty if the file exists.
    """
    if workers < 2:
        for job in jobs:
            yield job, attempt(convert, job)
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # forking a process with threads, such as torch's, may hang
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from zip(
            jobs, pool.map(attempt, [convert] * len(jobs), jobs, chunksize=8), strict=True
        )


def attempt(convert: Convert, job: ClipConversion) -> str:
    """Make a file unless it exists; return the reason of a failure, or an empty string."""
    if os.path.isfile(job.target):
        return ""
    try:
        convert(job)
    except (UndecodableAudio, UndecodableVideo) as error:
        return str(error)
    return ""


def audio(job: ClipConversion) -> None:
    """Convert audio of any rate and channels to 16-bit mono at `measure` Hz, wav or flac.

    Raises:
        UndecodableAudio: with the reason.
        ModuleNotFoundError: without soundfile.
    """
    soundfile = soundfile_module()
    try:
        header = soundfile.info(job.source)
        samples = max(1, ceil(header.frames * job.measure / header.samplerate))
    except Exception:  # a damaged file can raise nearly any exception
        samples = 1  # `read_waveform` raises the reason
    wave = read_waveform(job.source, job.measure, samples)
    with replacing(Path(job.target)) as temporary:
        soundfile.write(temporary, wave.clamp(-1.0, 1.0).numpy(), job.measure, subtype="PCM_16")


def video(job: ClipConversion) -> None:
    """Convert a video to H.264 with a short side of `measure` pixels; copy smaller ones.

    Audio is dropped, and frames keep their time stamps.

    Raises:
        UndecodableVideo: with the reason.
        ImportError: without PyAV.
    """
    try:
        import av
    except ImportError:
        raise ImportError(
            "Preparing video needs PyAV, which is not installed. Run `pip install "
            "'mezzotint[video]'`."
        ) from None
    try:
        with (
            av.open(job.source, metadata_errors="replace") as found,
            replacing(Path(job.target)) as temporary,
        ):
            if not found.streams.video:
                raise UndecodableVideo("no video: the file has no video stream")
            stream = found.streams.video[0]
            if min(stream.width, stream.height) <= job.measure:
                for _ in found.decode(stream):
                    pass  # decode everything: the copy must not hide damage of the source
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
        raise UndecodableVideo("truncated: the file has a header, but no frames")
    made.mux(out.encode())
