"""Read the frames of a video file at given times.

Frames are found by their time stamps, never by their number, so that a variable frame rate, as
phones record it, does no harm: the frame at a time is the last one that begins by then.

A frame may have `MAX_PIXELS` pixels, which is checked before it is decoded.

torchcodec decodes files if it can be imported (it needs FFmpeg's libraries), else PyAV, which
brings its own.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.image.decode import MAX_PIXELS, even_fractions

VIDEO_EXTENSIONS = frozenset(".mp4 .m4v .avi .mkv .webm .mov .mpg .mpeg .flv .wmv .3gp .ts".split())

_LATE = 0.75  # seconds that the last frame may end before the duration in the header
Times = Callable[[float], npt.NDArray[np.float64]]
"""Duration in seconds → times of the frames to read, in any order; none to learn the duration."""


class UndecodableVideo(ValueError):
    """A file without frames, or with missing frames."""


def read_frames(path: str, times: Times, size: int, crops: int = 1) -> Tensor:
    """Read frames and cut the middle square of each, or several squares along its longer side.

    Args:
        path: path of the file.
        times: times to read, as a function of the duration; later ones give the last frame.
        size: height and width of the result, in pixels.
        crops: number of squares, see `squares`.

    Returns:
        uint8 `[3 · crops, T, size, size]`.

    Raises:
        UndecodableVideo: when the file is missing, not a video, truncated, or has no frames.
        ImportError: when neither decoder can be imported.
    """
    if not os.path.isfile(path):
        raise UndecodableVideo("missing")
    if os.path.getsize(path) == 0:
        raise UndecodableVideo("empty: 0 bytes")
    return (_torchcodec if _codec() is not None else _pyav)(path, times, size, crops)


def read_length(path: str) -> float:
    """Return the duration of a video in seconds; no frame is decoded.

    Raises:
        UndecodableVideo: when the file is missing, or is no video.
        ImportError: when neither decoder can be imported.
    """
    found: list[float] = []

    def ask(length: float) -> npt.NDArray[np.float64]:
        found.append(length)
        return np.zeros(0)

    read_frames(path, ask, 1)
    return found[0]


def _codec() -> Any:
    """Return the decoder of torchcodec, or `None` if it cannot be imported."""
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found,unused-ignore]
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # without FFmpeg, its loader can raise nearly any exception
        return None
    return VideoDecoder


def _torchcodec(path: str, times: Times, size: int, crops: int) -> Tensor:
    try:
        decoder = _codec()(path)
        _refuse_large(decoder.metadata.width or 0, decoder.metadata.height or 0)
        begin, end = (
            float(decoder.metadata.begin_stream_seconds),
            float(decoder.metadata.end_stream_seconds),
        )
        wanted = np.clip(begin + times(end - begin), begin, np.nextafter(end, begin))
        if not len(wanted):
            return torch.zeros(3 * crops, 0, size, size, dtype=torch.uint8)
        frames: Tensor = decoder.get_frames_played_at(wanted.tolist()).data
    except UndecodableVideo:
        raise
    except Exception as error:  # a damaged file can raise nearly any exception
        raise UndecodableVideo(f"broken or truncated: {_one_line(error)}") from None
    return squares(frames, size, crops).transpose(0, 1).contiguous()


def _pyav(path: str, times: Times, size: int, crops: int) -> Tensor:
    try:
        import av
    except ImportError:
        raise ImportError(
            "Reading video needs PyAV or torchcodec, and neither is installed. Run `pip install "
            "'mezzotint[video]'`."
        ) from None
    try:
        # Tags need not be UTF-8, and none are used.
        with av.open(path, metadata_errors="replace") as container:
            if not container.streams.video:
                raise UndecodableVideo("no video: the file has no video stream")
            return _decoded(container, times, size, crops)
    except av.FFmpegError as error:
        kind = "truncated or no video" if isinstance(error, av.InvalidDataError) else "broken"
        raise UndecodableVideo(f"{kind}: {error.strerror}") from None
    except UndecodableVideo:
        raise
    except Exception as error:  # a damaged file can raise nearly any exception
        raise UndecodableVideo(f"broken: {_one_line(error)}") from None


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UndecodableVideo(
            f"too large: frames of {width} x {height} pixels, more than {MAX_PIXELS}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def _decoded(container: Any, times: Times, size: int, crops: int) -> Tensor:
    """Decode from the keyframe before the first time to the last time, and keep its frames."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    _refuse_large(stream.codec_context.width, stream.codec_context.height)
    # A stream can change its size later; the decoder checks each frame before it allocates it.
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    begin = float((stream.start_time or 0) * stream.time_base)
    length = _duration(container, stream)
    unsorted = begin + times(length)
    if not len(unsorted):
        return torch.zeros(3 * crops, 0, size, size, dtype=torch.uint8)
    order = np.argsort(unsorted, kind="stable")
    wanted = unsorted[order]
    if wanted[0] > begin + 1.0:
        container.seek(
            int(wanted[0] / stream.time_base), stream=stream
        )  # seeks to the keyframe before
    kept: list[Tensor] = []
    last: Any = None
    end = begin
    for frame in container.decode(stream):
        at = begin if frame.time is None else float(frame.time)
        while len(kept) < len(wanted) and at > wanted[len(kept)] + 1e-6:
            kept.append(_picture(last if last is not None else frame, size, crops))
        last, end = frame, at + float((frame.duration or 0) * stream.time_base)
        if len(kept) == len(wanted):
            break
    if last is None:
        raise UndecodableVideo("truncated: the file has a header, but no frames")
    if len(kept) < len(wanted) and end < min(begin + length, wanted[-1]) - _LATE:
        raise UndecodableVideo(f"truncated: frames end at {end - begin:.1f} of {length:.1f} s")
    tail = _picture(last, size, crops)
    found = torch.stack(kept + [tail] * (len(wanted) - len(kept)), dim=1)
    return found[:, torch.from_numpy(np.argsort(order))]


def _duration(container: Any, stream: Any) -> float:
    """Return the duration in seconds, from the header or else from all packets."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return float(container.duration) / 1e6
    ends = [
        float(packet.pts * stream.time_base)
        for packet in container.demux(stream)
        if packet.pts is not None
    ]
    container.seek(0)
    return max(ends, default=0.0)


def _picture(frame: Any, size: int, crops: int) -> Tensor:
    """Convert a frame to uint8 `[3 · crops, size, size]`, as the file says that it is shown."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame.to_ndarray(format="rgb24"))).permute(
        2, 0, 1
    )
    turns = round((getattr(frame, "rotation", 0) or 0) / 90.0)
    if _is_mirrored(frame):  # FFmpeg's angle is then that of the mirrored axis
        pixels, turns = pixels.flip(2), turns + 2
    return squares(torch.rot90(pixels, turns, (1, 2)).unsqueeze(0), size, crops)[0]


def _is_mirrored(frame: Any) -> bool:
    """Return whether the display matrix of a frame mirrors it, as some front cameras write."""
    matrices = [data for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    a, b, _, c, d = (
        np.frombuffer(matrices[0], np.int32)[:5].tolist() if matrices else (1, 0, 0, 0, 1)
    )
    return bool(a * d - b * c < 0)


def squares(frames: Tensor, size: int, crops: int = 1) -> Tensor:
    """Cut the largest middle square of each image, or several along the longer side, and resize.

    Args:
        frames: uint8 `[T, 3, H, W]`.
        size: height and width of the result.
        crops: number of squares.

    Returns:
        uint8 `[T, 3 · crops, size, size]`, crop after crop.
    """
    height, width = frames.shape[-2:]
    side = min(height, width)
    cuts = []
    for fraction in even_fractions(crops):
        top, left = int((height - side) * fraction), int((width - side) * fraction)
        cuts.append(frames[..., top : top + side, left : left + side])
    cut = torch.cat(cuts, dim=1)
    if side == size:
        return cut.contiguous()
    return torch.nn.functional.interpolate(cut, (size, size), mode="bilinear", antialias=True)


def middle(frames: int, fps: float) -> Times:
    """Take frames at `fps` from the middle of a video, or from the start of a short one."""

    def times(length: float) -> npt.NDArray[np.float64]:
        start = max(0.0, (length - frames / fps) / 2)
        return start + np.arange(frames) / fps

    return times


def evenly(frames: int) -> Times:
    """Take the middle of each of `frames` equal parts of a video (TSN, Wang et al. 2016)."""
    return lambda length: (np.arange(frames) + 0.5) * length / frames


def within(times: Times, start: float, seconds: float) -> Times:
    """Take the frames of a part of a video, from `start` on, as `times` takes those of a whole."""
    return lambda length: start + times(min(seconds, max(0.0, length - start)))


def times_of(sampling: str, frames: int, fps: float, clips: int = 1) -> Times:
    """Return the times of one clip or several.

    Args:
        sampling: `middle` and `clips` spread clips from the beginning to the end of the video;
            `even` takes other frames of the same equal parts for each clip.
        frames: frames per clip.
        fps: frame rate of all but `even` sampling.
        clips: number of clips, one after the other.
    """
    if clips == 1:
        return middle(frames, fps) if sampling != "even" else evenly(frames)

    def times(length: float) -> npt.NDArray[np.float64]:
        if sampling != "even":
            starts = np.array(even_fractions(clips)) * max(0.0, length - frames / fps)
            return (starts[:, None] + np.arange(frames) / fps).ravel()
        within = (np.arange(clips) + 0.5) / clips
        return ((np.arange(frames) + within[:, None]) * length / frames).ravel()

    return times
