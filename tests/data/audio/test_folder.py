import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.audio.log_mel import AUDIOSET, BYOL_A, log_mel
from mezzotint.data.listing.file_list import FileList
from mezzotint.types import Unreadable

soundfile = pytest.importorskip("soundfile")

FORMATS: dict[str, dict[str, str]] = {
    "wav": {},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
    "aiff": {},
}


def tone(
    seconds: float = 1.5, rate: int = 16000, hertz: float = 700.0, channels: int = 1
) -> npt.NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    wave = (0.3 * np.sin(2 * math.pi * hertz * time)).astype(np.float32)
    return np.repeat(wave[:, None], channels, axis=1)


def write(path: Path, wave: npt.NDArray[np.float32], rate: int = 16000, **keywords: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **(FORMATS.get(path.suffix[1:], {}) | keywords))
    return path


def listed(root: Path, name: str, **settings: Any) -> FileList:
    return FileList(path=str(root / name), **settings)


def folder(root: Path, **keywords: Any) -> AudioFolder:
    return AudioFolder(root=str(root), **{"mean": -7.0, "std": 3.0, **keywords})


@pytest.mark.parametrize("suffix", FORMATS)
def test_reads_every_format_at_any_rate_and_number_of_channels(tmp_path: Path, suffix: str) -> None:
    for rate, channels in ((16000, 1), (48000, 2), (24000 if suffix == "opus" else 44100, 1)):
        write(tmp_path / f"a.{suffix}", tone(2.0, rate, channels=channels), rate)
        x = folder(tmp_path).read(0)["x"]
        expected = log_mel(torch.from_numpy(tone(0.95)[:, 0]), BYOL_A)
        assert x.shape == (1, 64, 96) and x.dtype == torch.float32 and x.is_contiguous()
        loud = expected[:, 20:70] > -2.0  # the tone; a codec's noise is elsewhere
        assert (x[0, :, 20:70] - expected[:, 20:70])[loud].abs().max() < (
            1.5 if suffix in ("opus", "mp3", "ogg") else 0.02
        )


def test_takes_the_middle_and_puts_short_clips_into_silence(tmp_path: Path) -> None:
    ramp = np.concatenate([np.zeros((16000, 1)), tone(0.95), np.zeros((16000, 1))]).astype(
        np.float32
    )
    write(tmp_path / "long.wav", ramp, subtype="FLOAT")
    write(tmp_path / "short.wav", tone(0.01), subtype="FLOAT")
    write(tmp_path / "silent.wav", np.zeros((16000, 1), np.float32))
    source = folder(tmp_path)
    torch.testing.assert_close(
        source.read(0)["x"][0], log_mel(torch.from_numpy(tone(0.95)[:, 0]), BYOL_A)
    )
    padded = torch.zeros(15200)
    padded[7520:7680] = torch.from_numpy(tone(0.01)[:, 0])
    torch.testing.assert_close(source.read(1)["x"][0], log_mel(padded, BYOL_A))
    assert torch.unique(source.read(2)["x"]).tolist() == pytest.approx([BYOL_A.silence])


def test_eight_channels_are_averaged(tmp_path: Path) -> None:
    channels = np.stack([tone(1.0)[:, 0] * gain for gain in (1, 2, 0, 1, 0, 3, 1, 0)], axis=1) / 3
    write(tmp_path / "a.wav", channels.astype(np.float32), subtype="FLOAT")
    expected = log_mel(torch.from_numpy(channels.mean(axis=1))[400:15600], BYOL_A)
    torch.testing.assert_close(folder(tmp_path).read(0)["x"][0], expected, atol=1e-4, rtol=1e-4)


def test_resampling_leaves_no_seam_at_the_middle(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone(3.0, 44100, 500.0), 44100, subtype="FLOAT")
    x = folder(tmp_path, seconds=1.0).read(0)["x"][0]
    inner = x[:, 5:95]
    assert (inner - inner.mean(dim=1, keepdim=True))[inner.mean(dim=1) > -2.0].abs().max() < 0.02


def damaged(tmp_path: Path, suffix: str, keep: float) -> Path:
    wave = np.random.default_rng(0).standard_normal((48000, 2)).astype(np.float32) * 0.1
    path = write(tmp_path / f"a.{suffix}", wave, 48000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


@pytest.mark.parametrize("keep", [0.97, 0.6])
@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files_are_unreadable(tmp_path: Path, suffix: str, keep: float) -> None:
    damaged(tmp_path, suffix, keep)
    with pytest.raises(Unreadable, match=r"a\.\w+: (truncated|broken): "):
        folder(tmp_path, seconds=2.0).read(0)


def test_other_bad_files_say_what_they_are(tmp_path: Path) -> None:
    wave = tone(1.0)
    wave[300] = np.nan
    write(tmp_path / "1.wav", wave, subtype="FLOAT")
    (tmp_path / "2.mp3").write_bytes(b"")
    (tmp_path / "3.flac").write_bytes(b"<html>not found</html>" * 30)
    write(tmp_path / "4.wav", np.zeros((0, 1), np.float32))
    write(tmp_path / "5.wav", tone())
    source = folder(tmp_path)
    (tmp_path / "5.wav").unlink()
    messages = [
        "1.wav: broken: NaN or infinity in 1 values",
        "2.mp3: empty: 0 bytes",
        "3.flac: not audio: ",
        "4.wav: empty: no samples",
        "5.wav: missing: No such file",
    ]
    for index, message in enumerate(messages):
        with pytest.raises(Unreadable, match=message):
            source.read(index)


def test_audioset_front_end(tmp_path: Path) -> None:
    wave = tone(12.0) + 0.1  # with an offset, which is removed
    write(tmp_path / "a.wav", wave, subtype="FLOAT")
    source = folder(tmp_path, front_end="audioset", seconds=10.255)
    assert source.input.shape == (1, 128, 1024) and source.input.modality == "audio"
    part = torch.from_numpy(wave[:, 0])[13960 : 13960 + 164080]
    torch.testing.assert_close(
        source.read(0)["x"][0], log_mel(part - part.mean(), AUDIOSET), atol=1e-3, rtol=1e-3
    )


def test_statistics_are_those_of_the_readable_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(5):
        write(
            tmp_path / f"{number}.wav",
            rng.standard_normal((16000, 1)).astype(np.float32) * 0.1 * (number + 1),
        )
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    source = AudioFolder(root=str(tmp_path))
    x = torch.stack([source.read(index)["x"] for index in range(5)])
    assert source.input.mean == pytest.approx((float(x.mean()),), abs=1e-4)
    assert source.input.std == pytest.approx((float(x.std(correction=0)),), abs=1e-4)
    assert AudioFolder(root=str(tmp_path)).input == source.input
    for number in range(5):
        (tmp_path / f"{number}.wav").unlink()
    with pytest.raises(
        ValueError, match="None of the sampled files can be read; the last is bad.wav: "
    ):
        AudioFolder(root=str(tmp_path))


def test_class_folders_and_splits(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for name in ("dog", "rain"):
            for number in range(count):
                hertz = 100.0 * number + len(name) + len(split)
                write(tmp_path / split / name / f"{number}.wav", tone(hertz=hertz))
    source = folder(tmp_path)
    assert (
        len(source) == 8
        and source.classes == ["dog", "rain"]
        and source.labels.tolist() == [0] * 4 + [1] * 4
    )
    everything, (task,) = source.evaluation()
    assert (
        task.name == "label/val"
        and len(task.train) == 8
        and len(task.test) == 4
        and len(everything) == 12
    )
    assert everything.read(int(task.test[-1]))["id"] == "val/rain/1.wav"
    (holdout,) = folder(tmp_path / "train").evaluation()[1]
    assert holdout.name == "label/holdout" and not set(holdout.train.tolist()) & set(
        holdout.test.tolist()
    )


def lists(root: Path) -> None:
    for number in range(6):
        write(root / f"{number}.wav", tone(hertz=100.0 * (number + 1)))
    items = [
        {"wav": f"{n}.wav", "labels": ("/m/0dog", "/m/0rain", "/m/0dog,/m/0rain")[n % 3]}
        for n in range(6)
    ]
    (root / "ast.json").write_text(json.dumps({"data": items}))
    (root / "bridle.json").write_text(json.dumps(items))
    (root / "labels.csv").write_text(
        'index,mid,display_name\n0,/m/0rain,"Rain, heavy"\n1,/m/0dog,Dog\n'
    )
    rows = "".join(f"{n}.wav,{n % 2 + 1},{'dog' if n % 2 else 'rain'}\n" for n in range(6))
    (root / "esc.csv").write_text("filename,fold,category\n" + rows)


def test_lists_in_both_shapes_with_several_labels(tmp_path: Path) -> None:
    lists(tmp_path)
    for name in ("ast.json", "bridle.json"):
        source = folder(tmp_path, files=listed(tmp_path, name, labels=str(tmp_path / "labels.csv")))
        assert source.classes == ["Rain, heavy", "Dog"] and source.labels.tolist() == [
            1,
            0,
            -1,
            1,
            0,
            -1,
        ]
        label = source.read(2)["label"]
        assert isinstance(label, torch.Tensor) and label.tolist() == [True, True]
        assert source.read(0)["label"] == 1 and source.multi_hot(0).tolist() == [False, True]
    plain = folder(tmp_path, files=str(tmp_path / "ast.json"))
    assert plain.classes == ["/m/0dog", "/m/0rain"]
    with pytest.raises(ValueError, match="The label 'rain' is not in .*labels.csv. Labels must be"):
        folder(tmp_path, files=listed(tmp_path, "esc.csv", labels=str(tmp_path / "labels.csv")))


def test_folds_and_test_lists_are_never_pretrained_on(tmp_path: Path) -> None:
    lists(tmp_path)
    source = folder(tmp_path, files=listed(tmp_path, "esc.csv", test_fold=2))
    assert [source.read(i)["id"] for i in range(len(source))] == ["0.wav", "2.wav", "4.wav"]
    everything, (task,) = source.evaluation()
    assert task.name == "label/test" and [everything.read(int(i))["id"] for i in task.test] == [
        "1.wav",
        "3.wav",
        "5.wav",
    ]
    two = folder(
        tmp_path, files=str(tmp_path / "bridle.json"), test_files=str(tmp_path / "ast.json")
    )
    everything, (task,) = two.evaluation()
    assert (
        len(two) == 6
        and len(everything) == 12
        and task.kind == "tag"
        and task.test.tolist() == list(range(6, 12))
    )
    assert task.labels[[0, 2, 6, 8]].tolist() == [[True, False], [True, True]] * 2
    one = folder(tmp_path, files=str(tmp_path / "bridle.json"), holdout=0.34)
    assert [len(part) for t in one.evaluation()[1] for part in (t.train, t.test)] == [4, 2]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"front_end": "mfcc"},
            "`front_end` must be one of byol_a, byol_a_htk, audioset, got 'mfcc'",
        ),
        ({"seconds": 0.01}, "`seconds` must be 0.1 or more, got 0.01"),
        ({"holdout": 1.0}, "`holdout` must be more than 0 and less than 1, got 1.0"),
        ({"test_files": "a.csv"}, "`test_files` needs `files`"),
        ({"sampling": "every"}, "`sampling` must be middle or clips, got 'every'"),
        ({"group": "("}, "`group` must be a regular expression"),
        (
            {"files": {"test_fold": 9}},
            r"must be one of the folds of .*esc.csv, \[1, 2\], .*, got 9",
        ),
    ],
)
def test_refuses(tmp_path: Path, keywords: dict[str, Any], message: str) -> None:
    lists(tmp_path)
    if "files" in keywords:
        keywords = {**keywords, "files": listed(tmp_path, "esc.csv", **keywords["files"])}
    with pytest.raises(ValueError, match=message):
        folder(tmp_path, **keywords)


def test_refuses_a_folder_without_sound(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no sound")
    with pytest.raises(
        ValueError, match=r"has no audio files \(not read: 1 .txt\). Supported: wav, flac"
    ):
        folder(tmp_path)
    with pytest.raises(ValueError, match="does not exist. It must be a folder of audio files"):
        folder(tmp_path / "nowhere")


def test_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    before = folder(tmp_path).fingerprint()
    assert folder(tmp_path).fingerprint() == before
    write(tmp_path / "a.wav", tone(2.0))
    assert folder(tmp_path).fingerprint() != before


def test_copies_and_speakers_are_held_out_together(tmp_path: Path) -> None:
    for number in range(12):
        wave = tone(hertz=100.0 * (number // 2 + 1))  # each sound twice
        write(tmp_path / ("dog", "rain")[number % 4 // 2] / f"{number:02}.wav", wave)
    source = folder(tmp_path)
    both, (task,) = source.evaluation()
    sounds = [both.read(i)["x"].numpy().tobytes() for i in range(12)]
    assert len(task.test) and not {sounds[i] for i in task.test} & {sounds[i] for i in task.train}
    assert "6 more of the same content or source are kept together" in source.outcome()
    for name in ("yes", "no"):
        for speaker in range(4):
            for take in range(2):
                file = f"0000000{speaker}_nohash_{take}.wav"
                write(
                    tmp_path / "words" / name / file,
                    tone(hertz=90.0 * (2 * speaker + take + (9 if name == "no" else 1))),
                )
    both, (task,) = folder(tmp_path / "words").evaluation()
    speaker_of = [both.id_of(i).rpartition("/")[2][:8] for i in range(16)]
    assert not {speaker_of[i] for i in task.test} & {speaker_of[i] for i in task.train}


def test_a_list_names_speakers_and_splits(tmp_path: Path) -> None:
    lists(tmp_path)
    rows = "".join(
        f"{n}.wav,{'ab'[n % 2]},{n // 2},{'val' if n > 3 else 'Train'}\n" for n in range(6)
    )
    (tmp_path / "who.csv").write_text(
        "path,label,Speaker ID\n" + rows.replace(",Train", "").replace(",val", "")
    )
    both, (task,) = folder(tmp_path, files=str(tmp_path / "who.csv")).evaluation()
    assert sorted(i // 2 for i in task.test.tolist()) in ([0, 0], [1, 1], [2, 2])
    (tmp_path / "split.csv").write_text("path,label,speaker,split\n" + rows)
    source = folder(tmp_path, files=str(tmp_path / "split.csv"))
    both, (task,) = source.evaluation()
    assert len(source) == 4 and task.name == "label/val" and task.test.tolist() == [4, 5]
    (tmp_path / "hidden.csv").write_text(
        "path,label,split\n" + "".join(f"{n}.wav,{'ab'[n % 2]},train\n" for n in range(4))
        + "4.wav,,test\n5.wav,,test\n"
    )  # fmt: skip
    source = folder(tmp_path, files=str(tmp_path / "hidden.csv"), holdout=0.5)
    both, (task,) = source.evaluation()
    assert len(both) == 4 and task.name == "label/holdout"
    assert "2 files of unlabeled splits are left out" in source.outcome()


def test_urban_sound_folders_are_folds(tmp_path: Path) -> None:
    for number in range(8):
        file = f"{1000 + number // 2}-{(1, 3)[number % 2]}-0-{number}.wav"
        wave = tone(hertz=100.0 * (number + 1))
        write(tmp_path / "audio" / f"fold{number // 2 % 2 + 1}" / file, wave)
    source = folder(tmp_path)
    assert source.classes == ["car_horn", "dog_bark"] and len(source) == 8
    _, tasks = source.evaluation()
    assert [task.name for task in tasks] == ["label/fold-1", "label/fold-2"]
    assert all(source.id_of(int(i)).startswith("audio/fold1/") for i in tasks[0].test)
    assert "the folders are folds, not classes" in source.outcome()


def test_a_few_long_recordings_give_many_clips_that_stay_together(tmp_path: Path) -> None:
    """A clip is a part of its file; clips of one file are on one side of the split."""
    for number in range(6):
        steps = [tone(0.5, hertz=300.0 * (k + 1) + 20 * number) for k in range(5)]
        write(tmp_path / "ab"[number % 2] / f"{number}.wav", np.concatenate(steps))
    write(tmp_path / "a" / "short.wav", tone(0.7))
    source = folder(tmp_path, seconds=0.5, sampling="clips")
    assert len(source) == 6 * 5 + 1
    assert source.id_of(2) == "a/0.wav#t=1"
    assert source.id_of(15) == "a/short.wav" and "31 clips of 7 files" in source.outcome()
    expected = log_mel(torch.from_numpy(tone(0.5, hertz=900.0)[:, 0]), BYOL_A)
    x = source.read(2)["x"][0]
    loud = expected[:, 10:40] > -2.0
    assert (x[:, 10:40] - expected[:, 10:40])[loud].abs().max() < 0.02
    both, (task,) = source.evaluation()
    files = {side: {both.id_of(i).split("#")[0] for i in part} for side, part in
             (("train", task.train), ("test", task.test))}  # fmt: skip
    assert files["test"] and not files["train"] & files["test"]


def test_a_pattern_names_the_person_of_a_file(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "ab"[number % 2] / f"{number}-{'xyzw'[number // 3]}.wav",
              tone(hertz=200.0 + 30 * number))  # fmt: skip
    source = folder(tmp_path, group="-([a-z])")
    both, (task,) = source.evaluation()
    people = [{both.id_of(i)[-5] for i in part} for part in (task.train, task.test)]
    assert people[1] and not people[0] & people[1]
    assert source.groups is not None and len(np.unique(source.groups)) == 4
