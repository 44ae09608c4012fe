"""Prepared downloads: lists that sources read, copies, missing and unreadable files."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.listing.file_list import FileList
from mezzotint.data.prepare.prepare import prepare
from mezzotint.data.video.folder import VideoFolder

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")


def tone(path: Path, rate: int = 44_100, seconds: float = 0.5, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
    return path


def film(path: Path, size: tuple[int, int] = (64, 48), frames: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 20 * number + 40, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def esc50(tmp_path: Path) -> Path:
    folder = tmp_path / "ESC-50"
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for number in range(10):
        name = f"{number % 5 + 1}-{number}-A-{number % 2}.wav"
        rows.append(
            f"{name},{number % 5 + 1},{number % 2},{('dog', 'rain')[number % 2]},False,{number},A"
        )
        if number < 9:
            tone(folder / "audio" / name)
    (folder / "audio" / "3-7-A-1.wav").write_bytes(b"not sound at all")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_esc50_has_folds_and_names_what_is_bad(esc50: Path, tmp_path: Path) -> None:
    done = prepare("esc50", esc50, tmp_path / "out")
    assert (done.made, done.kept, done.missing) == (8, 0, ["5-9-A-1"])
    assert list(done.unreadable) == ["3-7-A-1"] and done.unreadable["3-7-A-1"].startswith(
        "not audio"
    )
    listed = FileList(path=str(tmp_path / "out" / "esc50.csv"), test_fold=2)
    source = AudioFolder(root=str(tmp_path / "out"), files=listed)
    assert len(source) == 6 and source.classes == ["dog", "rain"]
    header = soundfile.info(tmp_path / "out" / "audio" / "1-0-A-0.flac")
    assert (header.samplerate, header.channels, header.frames) == (16_000, 1, 8_000)
    wave, _ = soundfile.read(tmp_path / "out" / "audio" / "1-0-A-0.flac")
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8_000) / 16_000)
    assert np.abs(wave - wanted)[400:-400].max() < 1e-3
    said = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert said["unreadable"].keys() == {"3-7-A-1"} and said["lists"] == {"esc50.csv": 8}


def test_started_again_only_what_is_missing_is_made(esc50: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare("esc50", esc50, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    gone = sorted(before)[2]
    gone.unlink()
    tone(esc50 / "audio" / "3-7-A-1.wav")  # repaired
    done = prepare("esc50", esc50, out)
    assert (done.made, done.kept, done.unreadable) == (2, 7, {})
    after = {path: path.stat().st_mtime_ns for path in (out / "audio").iterdir()}
    assert (
        all(after[path] == time for path, time in before.items() if path != gone) and gone in after
    )


def test_audioset_by_whatever_name_its_clips_have(tmp_path: Path) -> None:
    folder = tmp_path / "audioset"
    names = ["--PJHxphWEs_30.000", "Y_abcdefghij", "Yabcdefghij_10"]
    for name in names:
        tone(folder / "clips" / f"{name}.wav", 8_000, 0.2, 1)
    (folder / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man"\n'
    )
    (folder / "balanced_train_segments.csv").write_text(
        "# Segments csv created Sun\n# num_ytids=3\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/05zppz"\n'
        '_abcdefghij, 0.000, 10.000, "/m/09x0r"\n'
        'gone_gone_g, 0.000, 10.000, "/m/09x0r"\n'
    )
    (folder / "eval_segments.csv").write_text('Yabcdefghij, 10.000, 20.000, "/m/05zppz"\n')
    out = tmp_path / "out"
    done = prepare("audioset", folder, out, format="wav")
    assert done.lists == {"balanced_train.json": 2, "eval.json": 1} and done.missing == [
        "gone_gone_g"
    ]
    source = AudioFolder(
        root=str(out),
        files=FileList(
            path=str(out / "balanced_train.json"), labels=str(out / "class_labels_indices.csv")
        ),
        test_files=str(out / "eval.json"),
        front_end="audioset",
        seconds=0.2,
    )
    assert len(source) == 2 and source.multi_hot(0).tolist() == [True, True]
    (folder / "eval_segments.csv").write_text('Yabcdefghij, 10.000, 20.000, "/m/none"\n')
    with pytest.raises(
        ValueError, match="eval_segments.csv`, line 1, must be id, start, end and .*, got 'Yabc"
    ):
        prepare("audioset", folder, out)


def test_kinetics_is_made_smaller(tmp_path: Path) -> None:
    folder = tmp_path / "k400"
    film(folder / "train" / "abc_000001_000011.mp4")
    film(folder / "train" / "small_000001_000011.mp4", (32, 24))
    (folder / "train" / "bad_000001_000011.mp4").write_bytes(b"nothing")
    names = ("abc", "small", "bad", "lost")
    rows = [f"{('jumping', 'running')[n % 2]},{name},1,11,train" for n, name in enumerate(names)]
    (folder / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n" + "\n".join(rows) + "\n"
    )
    out = tmp_path / "out"
    done = prepare("kinetics", folder, out, side=32)
    assert done.lists == {"train.csv": 2} and done.missing == ["lost_000001_000011"]
    assert (
        list(done.unreadable) == ["bad_000001_000011"]
        and "broken" in done.unreadable["bad_000001_000011"]
    )
    source = VideoFolder(root=str(out), files=str(out / "train.csv"), frames=2, fps=5.0, size=24)
    assert source.read(0)["x"].shape == (3, 2, 24, 24) and source.classes == ["jumping", "running"]
    with av.open(str(out / "videos" / "abc_000001_000011.mp4")) as made:
        stream = made.streams.video[0]
        times = [float(frame.time) for frame in made.decode(stream)]
    assert (stream.width, stream.height) == (42, 32)
    assert np.diff(times) == pytest.approx(0.1, abs=1e-3) and len(times) == 6
    small = "small_000001_000011.mp4"
    assert (out / "videos" / small).read_bytes() == (folder / "train" / small).read_bytes()


@pytest.mark.parametrize("dataset", ["audioset", "esc50", "kinetics"])
def test_a_folder_without_the_data_set_is_refused(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="in` has no .*. (Put them there|Check the path)"):
        prepare(dataset, tmp_path / "in", tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_verb_says_what_was_done(esc50: Path) -> None:
    from mezzotint.cli import app

    done = CliRunner().invoke(app, ["prepare", "esc50", str(esc50), "--workers", "0"])
    assert done.exit_code == 0 and "8 made, 0 existed already" in done.output
    assert "esc50.csv: 8 of 10 files (80.0 %)" in done.output
    assert "1 unreadable: 3-7-A-1 (not audio" in done.output and "1 missing: 5-9-A-1" in done.output
    wrong = CliRunner().invoke(app, ["prepare", "esc51", str(esc50)])
    assert "must be one of audioset, esc50, kinetics, got 'esc51'. Did you mean 'esc50'?" in str(
        wrong.exception
    )
