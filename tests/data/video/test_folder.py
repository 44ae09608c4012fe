import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mezzotint.data.labeled import Labeled
from mezzotint.data.listing.lists import read_video_list
from mezzotint.data.video.decode import UndecodableVideo, read_length
from mezzotint.data.video.folder import VideoFolder
from mezzotint.types import Unreadable

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


def test_a_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for name in ("run", "walk"):
            for i in range(count):
                make(tmp_path / split / name / f"{i}.mp4", STEADY[:30], size=(48, 32))
    (tmp_path / "train" / "run" / "cut.mp4").write_bytes(b"\0" * 100)
    source = VideoFolder(root=str(tmp_path), frames=4, size=16, context=8)
    assert (
        source.input.shape == (3, 4, 16, 16)
        and source.input.modality == "video"
        and len(source) == 5
    )
    assert source.read(0)["x"].shape == (3, 8, 16, 16) and source.id_of(0) == "train/run/0.mp4"
    with pytest.raises(Unreadable, match="cut.mp4: truncated"):
        source.read(2)
    everything, (task,) = source.evaluation()
    assert (
        task.name == "label/val"
        and task.test.tolist() == [5, 6]
        and everything.read(5)["x"].shape[1] == 4
    )
    assert source.fingerprint() != everything.fingerprint()
    # Fine-tuning cuts its clips out of the context as pretraining does, and is scored on clips.
    learned = Labeled(source=source)
    assert learned.read(0)["x"].shape[1] == 8 and learned.evaluation()[0].read(0)["x"].shape[1] == 4


def test_lists_of_kinetics_and_something_something(tmp_path: Path) -> None:
    rows = "abseiling,ab-C_1,10,20,train\nzumba,xyz,0,10,train\n"
    for name, head in (
        ("plain.csv", ""),
        ("head.csv", "label,youtube_id,time_start,time_end,split\n"),
    ):
        (tmp_path / name).write_text(head + rows)
        found = read_video_list(str(tmp_path / name))
        assert [(e.path, e.labels) for e in found] == [
            ("ab-C_1_000010_000020.mp4", ("abseiling",)),
            ("xyz_000000_000010.mp4", ("zumba",)),
        ]
    items = [
        {"id": "7", "template": "Pushing [something] left"},
        {"id": 8, "template": "Holding [something]"},
    ]
    (tmp_path / "ssv2.json").write_text(json.dumps(items))
    found = read_video_list(str(tmp_path / "ssv2.json"))
    assert [(e.path, e.labels) for e in found][0] == ("7.webm", ("Pushing something left",))
    (tmp_path / "own.csv").write_text("path,label\nx.avi,a\ny.avi,b\n")
    source = VideoFolder(
        root=str(tmp_path), files=str(tmp_path / "own.csv"), test_files=str(tmp_path / "plain.csv")
    )
    assert len(source) == 2 and source.classes == ["a", "abseiling", "b", "zumba"]
    assert source.evaluation()[1][0].test.tolist() == [2, 3]
    with pytest.raises(Unreadable, match="x.avi: missing"):
        source.read(0)
    (tmp_path / "bad.csv").write_text("label,youtube_id,time_start,time_end\na,b,c,d\n")
    with pytest.raises(ValueError, match="line 2, must be label, .*, got 'a,b,c,d'"):
        read_video_list(str(tmp_path / "bad.csv"))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"frames": 0}, "got frames=0"),
        ({"frames": 8, "context": 4}, "context=4"),
        ({"sampling": "dense"}, "sampling='dense'"),
        ({"holdout": 1.0}, "got holdout=1.0"),
        ({"test_files": "a.csv"}, "`test_files` needs `files`"),
        ({}, "has no video files"),
    ],
)
def test_refuses(tmp_path: Path, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoFolder(root=str(tmp_path), **keywords)


def test_a_few_long_videos_give_many_clips_that_stay_together(tmp_path: Path) -> None:
    """Three videos of two classes: no clip is on the other side of one of its own video."""
    for number, name in enumerate(("a/0", "a/1", "b/2")):
        make(tmp_path / f"{name}.mp4", [i / 25 for i in range(105 + 25 * number)], size=(32, 32))
    options: dict[str, Any] = {"frames": 2, "fps": 5.0, "size": 16, "context": 5}
    source = VideoFolder(root=str(tmp_path), sampling="clips", **options)
    assert len(source) == 4 + 5 + 6 and "15 clips of 3 videos" in source.outcome()
    assert source.id_of(3) == "a/0.mp4#t=3"
    # The gray of a frame is 40 times its second: the third clip shows seconds 2 to 3.
    x = source.read(2)["x"]
    assert x.shape == (3, 5, 16, 16)
    assert np.allclose(x.float().mean((0, 2, 3)) / 40, [2.0, 2.2, 2.4, 2.6, 2.8], atol=0.1)
    whole, tasks = source.evaluation()
    seconds = whole.read(2)["x"].float().mean((0, 2, 3)) / 40
    assert np.allclose(seconds, [2.3, 2.5], atol=0.15)
    (task,) = tasks
    files = [{whole.id_of(i).split("#")[0] for i in part} for part in (task.train, task.test)]
    assert len(files[1]) == 1 and not files[0] & files[1] and "b/2.mp4" in files[0]
    clips = whole.multi_crop(2, 1).read(2)["x"]
    assert clips.shape == (2, 3, 2, 16, 16)
    assert np.allclose(clips[1].float().mean((0, 2, 3)) / 40, [2.6, 2.8], atol=0.15)


def test_the_length_is_known_without_decoding(tmp_path: Path) -> None:
    assert read_length(str(make(tmp_path / "a.mp4", STEADY))) == pytest.approx(5.0, abs=0.1)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    with pytest.raises(UndecodableVideo):
        read_length(str(tmp_path / "b.mp4"))
