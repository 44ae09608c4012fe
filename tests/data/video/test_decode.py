"""Frames of videos at given times, and what damaged files raise."""

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.video import decode as video_files
from mezzotint.data.video.decode import UndecodableVideo, evenly, middle, read_frames

av = pytest.importorskip("av")


def make(
    path: Path, times: list[float], *, size: tuple[int, int] = (64, 48), codec: str = "mpeg4"
) -> Path:
    """A video whose frame at time t is gray of level 40 · t; `size` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        stream.codec_context.gop_size = 10
        for t in times:
            frame = av.VideoFrame.from_ndarray(
                np.full((size[1], size[0], 3), 40.0 * t, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = round(1000 * t), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


STEADY = [i / 25 for i in range(125)]


UNEVEN = [i / 30 for i in range(60)] + [2 + i / 5 for i in range(15)]  # 30 a second, then 5


def seconds(x: torch.Tensor) -> list[float]:
    return (x.float().mean(dim=(0, 2, 3)) / 40).tolist()


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_frames_stand_at_the_times_wanted(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"a{suffix}", STEADY)
    x = read_frames(str(path), lambda length: np.array([0.0, 1.0, 2.5, 4.0]), 32)
    assert x.shape == (3, 4, 32, 32) and x.dtype == torch.uint8
    assert seconds(x) == pytest.approx([0.0, 1.0, 2.5, 4.0], abs=0.2)
    assert seconds(read_frames(str(path), middle(4, 2.0), 32)) == pytest.approx(
        [1.5, 2.0, 2.5, 3.0], abs=0.2
    )
    assert seconds(read_frames(str(path), evenly(5), 32)) == pytest.approx(
        [0.5, 1.5, 2.5, 3.5, 4.5], abs=0.2
    )


def test_webm(tmp_path: Path) -> None:
    path = make(tmp_path / "a.webm", STEADY[:50], codec="libvpx")
    assert seconds(read_frames(str(path), evenly(2), 16)) == pytest.approx([0.5, 1.5], abs=0.2)


def test_a_variable_frame_rate_is_told_by_time_stamps(tmp_path: Path) -> None:
    path = make(tmp_path / "phone.mkv", UNEVEN)
    x = read_frames(str(path), lambda length: np.array([0.5, 1.5, 2.5, 3.5, 4.5]), 16)
    # By number, the middle of 75 frames would be at 1.25 s.
    assert seconds(x) == pytest.approx([0.5, 1.5, 2.4, 3.4, 4.4], abs=0.2)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), [[1, 2], [3, 4]]),
        ((0, 1, -1, 0), [[3, 1], [4, 2]]),  # a quarter turn to the right, as phones write
        ((-1, 0, 0, -1), [[4, 3], [2, 1]]),
        ((-1, 0, 0, 1), [[2, 1], [4, 3]]),  # mirrored, as front cameras write
        ((1, 0, 0, -1), [[3, 4], [1, 2]]),
        ((0, 1, 1, 0), [[1, 3], [2, 4]]),
    ],
)
def test_frames_are_turned_and_mirrored_as_they_are_shown(
    tmp_path: Path, matrix: tuple[int, ...], shown: list[list[int]]
) -> None:
    """The matrix maps a point of the stored frame to (a x + c y, b x + d y)."""
    path = tmp_path / "a.mp4"
    quarters = np.kron(np.array([[1, 2], [3, 4]], np.uint8) * 50, np.ones((32, 32), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.stack([quarters] * 3, axis=2), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # after version, times, number, length, layer and volume
    a, b, c, d = (value * 65536 for value in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    pixels = read_frames(str(path), evenly(1), 64)[0, 0].double()
    means = pixels.reshape(2, 32, 2, 32).mean(dim=(1, 3))
    assert (means / 50).round().tolist() == shown


def test_a_short_video_repeats_its_last_frame(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", STEADY[:25])
    assert seconds(read_frames(str(path), middle(4, 2.0), 16)) == pytest.approx(
        [0.0, 0.5, 0.96, 0.96], abs=0.2
    )


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv420p"
        pixels = np.zeros((32, 96, 3), np.uint8)
        pixels[:, 32:64] = 200
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    x = read_frames(str(tmp_path / "wide.mp4"), evenly(1), 32)
    assert float(x[..., 4:28].float().mean()) == pytest.approx(200, abs=6)


def test_damaged_files_say_what_is_wrong(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mp4", STEADY).read_bytes()
    matroska = make(tmp_path / "a.mkv", STEADY).read_bytes()
    for name, content, message in (
        ("half.mp4", whole[: len(whole) // 2], "truncated"),
        ("half.mkv", matroska[: len(matroska) // 2], "truncated: frames end at"),
        ("page.mp4", b"<html>not found</html>" * 50, "truncated or no video"),
        ("empty.mp4", b"", "empty: 0 bytes"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UndecodableVideo, match=message):
            read_frames(str(tmp_path / name), evenly(8), 16)
    with pytest.raises(UndecodableVideo, match="missing"):
        read_frames(str(tmp_path / "none.mp4"), evenly(8), 16)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UndecodableVideo, match="no video stream"):
        read_frames(str(tmp_path / "sound.mp4"), evenly(2), 16)


def test_torchcodec_is_used_where_it_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: list[float] = []

    class Decoder:
        metadata = SimpleNamespace(
            width=30, height=20, begin_stream_seconds=1.0, end_stream_seconds=5.0
        )

        def __init__(self, path: str) -> None:
            if path.endswith("bad.mp4"):
                raise RuntimeError("could not open")

        def get_frames_played_at(self, seconds: list[float]) -> Any:
            requested.extend(seconds)
            return SimpleNamespace(data=torch.full((len(seconds), 3, 20, 30), 7, dtype=torch.uint8))

    monkeypatch.setattr(video_files, "_codec", lambda: Decoder)
    for name in ("a.mp4", "bad.mp4"):
        (tmp_path / name).write_bytes(b"x")
    x = read_frames(str(tmp_path / "a.mp4"), lambda length: np.array([0.0, 2.0, 9.0]), 16)
    assert x.shape == (3, 3, 16, 16) and requested[:2] == [1.0, 3.0] and 4.99 < requested[2] < 5.0
    with pytest.raises(UndecodableVideo, match="could not open"):
        read_frames(str(tmp_path / "bad.mp4"), evenly(2), 16)


def test_tags_that_are_not_utf8_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "HOLIDAYS IN NICE"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert content.count(b"HOLIDAYS") == 1
    path.write_bytes(content.replace(b"HOLIDAYS", b"\xe9\xff\xfe\x80DAYS"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path)).close()
    assert read_frames(str(path), evenly(2), 16).shape == (3, 2, 16, 16)


def test_frames_are_limited_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.mp4", STEADY[:10])
    monkeypatch.setattr(video_files, "_codec", lambda: None)
    monkeypatch.setattr(video_files, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(UndecodableVideo, match="too large: frames of 64 x 48 pixels"):
        read_frames(str(path), evenly(2), 16)
    monkeypatch.setattr(video_files, "_refuse_large", lambda *_: None)  # a size that changes later
    with pytest.raises(UndecodableVideo):
        read_frames(str(path), evenly(2), 16)


def test_any_failure_of_the_library_is_one_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "a.mp4", STEADY[:10])
    monkeypatch.setattr(video_files, "_codec", lambda: None)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("Fraction(1, 0)")

    monkeypatch.setattr(video_files, "_duration", fail)
    with pytest.raises(UndecodableVideo, match="broken: ZeroDivisionError: Fraction"):
        read_frames(str(path), evenly(2), 16)
