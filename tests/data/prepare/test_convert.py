"""Copies are made whole or not at all, by any number of workers."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.prepare import convert
from mezzotint.data.prepare.convert import ClipConversion
from mezzotint.data.prepare.prepare import prepare

soundfile = pytest.importorskip("soundfile")
av = pytest.importorskip("av")


def tone(path: Path, rate: int = 44_100, seconds: float = 0.5, channels: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), rate)
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


def test_a_copy_that_is_killed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    source = tone(tmp_path / "a.flac")
    monkeypatch.setattr(soundfile, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        convert.audio(ClipConversion(str(source), str(tmp_path / "out.flac"), 16_000))
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_workers_make_the_same(esc50: Path, tmp_path: Path) -> None:
    one, two = (prepare("esc50", esc50, tmp_path / f"out{n}", workers=n) for n in (1, 2))
    assert vars(one) == vars(two)
    for path in (tmp_path / "out1" / "audio").iterdir():
        assert path.read_bytes() == (tmp_path / "out2" / "audio" / path.name).read_bytes()
