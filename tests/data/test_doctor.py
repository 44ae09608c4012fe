"""The doctor on every modality: what was planted is found, and clean data has no findings."""

import json
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.data.doctor import SourceReport, examine, kind_of


def sound(path: Path, number: int) -> None:
    values = 9000 * np.sin(np.arange(4000) * (0.05 + 0.01 * number))
    with wave.open(str(path.with_suffix(".wav")), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(values.astype(np.int16).tobytes())


def points(path: Path, number: int) -> None:
    np.save(path.with_suffix(".npy"), np.random.default_rng(number).normal(size=(8, 3)))


def text(path: Path, number: int) -> None:
    path.with_suffix(".txt").write_text(f"text number {number}")


Make = Callable[[Path, int], None]
FOLDERS: dict[str, tuple[Make, list[str]]] = {
    "audio_folder": (sound, ["seconds=0.2"]),
    "point_clouds": (points, ["points=8"]),
    "tokens": (text, ["length=16"]),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_was_planted_in_a_folder_is_found(kind: str, tmp_path: Path) -> None:
    make, keys = FOLDERS[kind]
    names = [f"{s}/{c}/{i}" for s in ("train", "val") for c in "ab" for i in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / name, number)
    clean = examine(tmp_path, overrides=keys)
    assert isinstance(clean, SourceReport) and kind_of(str(tmp_path)) == clean.kind == kind
    assert clean.ok and clean.samples == 12
    assert clean.classes == {"train/a": 3, "train/b": 3, "val/a": 3, "val/b": 3}
    make(tmp_path / "val/a/leaked", 0)
    make(tmp_path / "train/b/other", 1)
    make(tmp_path / "train/a/copy", 2)
    (tmp_path / "val/c").mkdir()
    make(tmp_path / "val/c/new", 50)
    (tmp_path / "__MACOSX").mkdir()
    make(tmp_path / "__MACOSX/x", 3)
    report = examine(tmp_path, overrides=keys)
    assert isinstance(report, SourceReport) and not report.ok
    stems = [[Path(name.partition(":")[0]).stem for name in group] for group in report.leaks]
    assert stems == [["0", "leaked"]]
    assert len(report.contradictions) == 1 and len(report.duplicates) == 2
    assert report.unknown_classes == ["val/c"]
    lines = "\n".join(report.lines())
    assert "left out: `__MACOSX`" in lines and "train/a 4" in lines and lines.endswith("not ok")
    assert json.loads(report.to_json())["ok"] is False


def test_tables_series_tokens_and_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{i},{'ab'[i % 2]}" for i in range(20)] + ["3,a"]
    (tmp_path / "t.csv").write_text("\n".join(["v,label", *rows]))
    report = examine(tmp_path / "t.csv")
    assert isinstance(report, SourceReport) and report.kind == "table"
    assert report.samples == 21 and len(report.contradictions) == 1 and not report.ok
    assert any("'label'" in line for line in report.columns)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 255, (8, 6, 6, 3), dtype=np.uint8), y=[0, 1] * 4)
    np.savez(tmp_path / "p.npz", x=rng.normal(size=(6, 9, 3)))
    np.savez(tmp_path / "s.npz", x=rng.normal(size=(6, 2, 16)))
    np.savez(tmp_path / "n.npz", x=rng.integers(0, 9, (6, 12)))
    for name, kind in (("x", "arrays"), ("p", "point_clouds"), ("s", "series"), ("n", "tokens")):
        report = examine(tmp_path / f"{name}.npz")
        assert isinstance(report, SourceReport) and report.kind == kind and report.ok, name
    named = examine(tmp_path / "t.csv", overrides=["y=null", "kind=table"])
    assert isinstance(named, SourceReport) and named.classes == {}


def test_images_go_to_their_own_doctor_and_others_are_refused(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(np.full((5, 5, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    assert not isinstance(examine(tmp_path, workers=0), SourceReport)
    read = examine(tmp_path, workers=0, overrides=["size=4"])
    assert isinstance(read, SourceReport) and read.shape == [3, 4, 4]
    with pytest.raises(ValueError, match="gone` does not exist. Give a folder or a file"):
        examine(tmp_path / "gone")
    (tmp_path / "x.docx").write_text("x")
    with pytest.raises(ValueError, match="has the suffix '.docx'. Supported: a folder, .csv"):
        examine(tmp_path / "x.docx")


def test_arrays_in_a_folder_are_images_by_their_shape(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).random((9, 9, 4), np.float32))
    report = examine(tmp_path, workers=0)
    assert isinstance(report, SourceReport) and report.kind == "image_folder" and report.ok
    assert report.shape[0] == 4 and len(report.channels) == 4
    with pytest.raises(ValueError, match="must be numbers \\[points, 3 or more\\], got float32"):
        examine(tmp_path, workers=0, overrides=["kind=point_clouds"])


def test_images_are_examined_without_torch() -> None:
    code = "import sys, mezzotint.data.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_samples_of_equal_values_are_named(tmp_path: Path) -> None:
    """Silence is no problem among sounds; alone there is nothing to learn from it."""
    soundfile = pytest.importorskip("soundfile")
    for number in range(3):
        noise = np.random.default_rng(number).normal(size=8000) * 0.1 * (number > 0)
        soundfile.write(tmp_path / f"{number}.wav", noise, 16000)
    report = examine(tmp_path, overrides=["seconds=0.2"])
    assert isinstance(report, SourceReport) and report.ok and report.constant == ["0.wav"]
    assert "sample of equal values: 1\n  0.wav" in "\n".join(report.lines())
    for number in (1, 2):
        soundfile.write(tmp_path / f"{number}.wav", np.zeros(8000), 16000)
    report = examine(tmp_path, overrides=["seconds=0.2"])
    assert not report.ok and "there is nothing to learn" in "\n".join(report.lines())


def test_one_file_with_two_labels_is_a_contradiction_without_a_task_too(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=8000), 16000)
    (tmp_path / "list.csv").write_text("path,label\na.wav,x\na.wav,y\n")
    listed = [f"files={tmp_path / 'list.csv'}", "kind=audio_folder", "seconds=0.2"]
    report = examine(tmp_path, overrides=listed)
    assert isinstance(report, SourceReport) and report.contradictions == [["a.wav", "a.wav"]]


def test_a_file_without_arrays_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="a.npz` has no array. Write it again with np.savez"):
        examine(tmp_path / "a.npz")
