"""Published audio tasks on small copies of their folders: files, labels, splits, folds, seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.data.audio.benchmarks import SECONDS, AudioBenchmark
from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.audio.log_mel import BYOL_A, log_mel
from mezzotint.data.audio.waveform import read_seconds
from mezzotint.data.source import Task
from mezzotint.encoders.audio_ntt import AudioNTT
from mezzotint.evaluation.evar import EVAR
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.suite import evaluate_encoder

soundfile = pytest.importorskip("soundfile")
RATE = 16000


def sound(path: Path, seconds: float = 0.2, hertz: float = 500.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)
    soundfile.write(path, wave.astype(np.float32), RATE, subtype="FLOAT")


def nsynth(root: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        notes = {
            f"n{split}{i}": {"instrument_family_str": ("bass", "brass")[i % 2]}
            for i in range(count)
        }
        for name in notes:
            sound(root / f"nsynth-{split}" / "audio" / f"{name}.wav")
        (root / f"nsynth-{split}" / "examples.json").write_text(json.dumps(notes))


def us8k(root: Path) -> None:
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for fold in (1, 2, 10):
        for number, name in enumerate(("siren", "drilling")):
            sound(root / f"audio/fold{fold}/{fold}-{number}.wav", hertz=500.0 + 1000.0 * number)
            lines.append(f"{fold}-{number}.wav,1,0.0,4.0,1,{fold},{number},{name}")
    (root / "metadata").mkdir()
    (root / "metadata/UrbanSound8K.csv").write_text("\n".join(lines))


def esc50(root: Path) -> None:
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for number, name in enumerate(("dog", "rain")):
            sound(root / f"audio/{fold}-{number}.wav")
            lines.append(f"{fold}-{number}.wav,{fold},{number},{name},False,1,A")
    (root / "meta").mkdir()
    (root / "meta/esc50.csv").write_text("\n".join(lines))


def voxceleb1(root: Path) -> None:
    lines = []
    for split, speaker, number in ((1, 1, 1), (1, 2, 1), (2, 1, 2), (3, 1, 3), (3, 2, 3)):
        path = f"id1000{speaker}/abc/0000{number}.wav"
        sound(root / "wav" / path)
        lines.append(f"{split} {path}")
    (root / "iden_split.txt").write_text("\n".join(lines) + "\n")


def voxforge(root: Path) -> None:
    lines = ["path,label,split"]
    for number, split in enumerate(("train", "train", "valid", "test", "test")):
        sound(root / f"{number}.wav")
        lines.append(f"{number}.wav,{('de', 'en')[number % 2]},{split}")
    (root / "voxforge.csv").write_text("\n".join(lines))


def spcv2(root: Path) -> None:
    for word in ("yes", "no", "bed"):
        for number in range(3):
            sound(root / word / f"{number}_nohash_0.wav")
    (root / "validation_list.txt").write_text("yes/1_nohash_0.wav\nbed/1_nohash_0.wav\n")
    (root / "testing_list.txt").write_text("yes/2_nohash_0.wav\nno/2_nohash_0.wav\n")
    sound(root / "_background_noise_" / "pink_noise.wav", 3.0)
    sound(root / "_background_noise_" / "running_tap.wav", 2.2, 3000.0)


def spcv2_12(root: Path) -> None:
    spcv2(root)
    for name in ("yes", "no", "_unknown_", "_silence_"):
        sound(root / "test" / name / "a.wav")


MADE = {f.__name__: f for f in (nsynth, us8k, esc50, voxceleb1, voxforge, spcv2, spcv2_12)}


def made(name: str, root: Path, **keywords: Any) -> AudioBenchmark:
    MADE[name](root)
    return AudioBenchmark(name=name, root=str(root), **{"mean": -7.0, "std": 3.0, **keywords})  # type: ignore[arg-type]


def requested(source: AudioFolder) -> tuple[list[str], dict[str, dict[str, str]], list[Task]]:
    """Ids; of each task, what is learned from, selected on and scored, with labels."""
    samples, tasks = source.evaluation()
    ids = [samples.read(i)["id"] for i in range(len(samples))]
    found = {}
    for task in tasks:
        for part, rows in (("train", task.train), ("valid", task.validation), ("test", task.test)):
            found[f"{task.name} {part}"] = {ids[i]: task.classes[int(task.labels[i])] for i in rows}
    return ids, found, list(tasks)


@pytest.mark.parametrize("name", MADE)
def test_every_clip_has_its_length_and_a_place(name: str, tmp_path: Path) -> None:
    source = made(name, tmp_path)
    assert set(MADE) == set(SECONDS)
    frames = BYOL_A.frames(round(SECONDS[name] * RATE))
    assert source.input.shape == (1, 64, frames) and source.read(0)["x"].shape == (1, 64, frames)
    samples, tasks = source.evaluation()
    for task in tasks:
        assert not set(task.train) & set(task.test) and set(task.validation) <= set(task.train)
        assert set(task.train) | set(task.test) == set(range(len(samples)))
        if name not in ("us8k", "esc50"):
            assert len(task.validation) and max(task.train) < len(source) <= min(
                task.test
            )  # not pretrained on


def test_folds_of_us8k_and_esc50(tmp_path: Path) -> None:
    _, found, tasks = requested(made("us8k", tmp_path / "a"))
    assert [t.name for t in tasks] == ["label/fold-1", "label/fold-2", "label/fold-10"]
    assert found["label/fold-10 test"] == {
        "audio/fold10/10-0.wav": "siren",
        "audio/fold10/10-1.wav": "drilling",
    }
    assert len(found["label/fold-10 train"]) == 4 and not found["label/fold-10 valid"]
    _, found, tasks = requested(made("esc50", tmp_path / "b"))
    assert [t.name for t in tasks] == [f"label/fold-{f}" for f in range(1, 6)]
    assert found["label/fold-3 test"] == {"audio/3-0.wav": "dog", "audio/3-1.wav": "rain"}


def test_fixed_splits(tmp_path: Path) -> None:
    found = requested(made("nsynth", tmp_path / "n"))[1]
    assert found["label/test test"] == {
        "nsynth-test/audio/ntest0.wav": "bass",
        "nsynth-test/audio/ntest1.wav": "brass",
    }
    assert len(found["label/test train"]) == 6 and len(found["label/test valid"]) == 2
    found = requested(made("voxceleb1", tmp_path / "v"))[1]
    assert found["label/test test"] == {
        "wav/id10001/abc/00003.wav": "id10001",
        "wav/id10002/abc/00003.wav": "id10002",
    }
    assert list(found["label/test valid"]) == ["wav/id10001/abc/00002.wav"]
    found = requested(made("voxforge", tmp_path / "f"))[1]
    assert found["label/test test"] == {"3.wav": "en", "4.wav": "de"} and list(
        found["label/test valid"]
    ) == ["2.wav"]


def test_speech_commands_have_lists_other_words_and_silence_cut_from_noise(tmp_path: Path) -> None:
    found = requested(made("spcv2", tmp_path / "a"))[1]
    assert found["label/test test"] == {"yes/2_nohash_0.wav": "yes", "no/2_nohash_0.wav": "no"}
    assert set(found["label/test valid"]) == {"yes/1_nohash_0.wav", "bed/1_nohash_0.wav"}
    assert len(found["label/test train"]) == 7  # and no noise
    source = made("spcv2_12", tmp_path / "b")
    _, _, (task,) = requested(source)
    labels = [source.classes[int(label)] for label in task.labels]
    assert sorted(set(labels)) == ["_silence_", "_unknown_", "no", "yes"]
    train, valid = ([labels[i] for i in rows] for rows in (task.train, task.validation))
    assert (
        train.count("_silence_") == 4 + 2
        and valid.count("_silence_") == 2
        and train.count("_unknown_") == 3
    )
    assert [labels[i] for i in task.test] == ["_silence_", "_unknown_", "no", "yes"]
    second = next(i for i in range(len(source)) if source._starts[i] == 0.5)
    noise, _ = soundfile.read(tmp_path / "b/_background_noise_/pink_noise.wav", dtype="float32")
    expected = log_mel(torch.from_numpy(noise[8000:24000]), BYOL_A)
    torch.testing.assert_close(source.read(second)["x"][0], expected)
    assert read_seconds(str(tmp_path / "b/_background_noise_/pink_noise.wav")) == 3.0


def test_the_mean_over_folds_is_a_figure(tmp_path: Path) -> None:
    source = made("us8k", tmp_path, seconds=0.2)
    torch.manual_seed(0)
    encoder = AudioNTT(source.input, width=4, dim=16)
    rows = evaluate_encoder(Measurement(encoder, source), probes=[EVAR(lr=1e-2)], seeds=1).rows
    value = {row.metric: row.value for row in rows}
    folds = [value[f"label/fold-{f}/top1"] for f in (1, 2, 10)]
    assert (
        value["label/folds/top1"] == pytest.approx(sum(folds) / 3)
        and value["label/folds/top1"] == 1.0
    )


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`name` must be one of nsynth, .*, got 'gtzan'. Choose"):
        AudioBenchmark(name="gtzan", root=str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iden_split.txt` is missing. .* Check `data.root`"):
        AudioBenchmark(name="voxceleb1", root=str(tmp_path))
    (tmp_path / "iden_split.txt").write_text("4 a/b.wav\n")
    with pytest.raises(ValueError, match="line 1, must be 1, 2 or 3 and a path, got '4 a/b.wav'"):
        AudioBenchmark(name="voxceleb1", root=str(tmp_path))
    (tmp_path / "iden_split.txt").write_text("1 a/b.wav\n")
    with pytest.raises(ValueError, match="must have training clips and test clips, got 1 and 0"):
        AudioBenchmark(name="voxceleb1", root=str(tmp_path))
    for text, message in (
        ("path,label\na.wav,x\n", "has clips without a split"),
        ("path,split\na.wav,left\n", "the split must be one of .*, got 'left'"),
    ):
        (tmp_path / "voxforge.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            AudioBenchmark(name="voxforge", root=str(tmp_path))
