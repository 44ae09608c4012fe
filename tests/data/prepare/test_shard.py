"""Shards of a folder: what is kept, that they appear whole, and what is refused."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.cli.app import run
from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.formats.webdataset import scan_tars
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image_tags import ImageTags
from mezzotint.data.listing.folder import EXTENSIONS
from mezzotint.data.prepare.shard import shard
from tests.data.formats.test_shards import known
from tests.test_contract_sources import build, image_parquet, image_tags, noise, sound


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for split, count in (("train", 7), ("val", 3), ("test", 2)):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = "jpg" if number % 2 else "png"
                pixels = noise(20 + number, 24 + len(name) + count + (name == "cat"), 3)
                Image.fromarray(pixels).save(folder / f"{number} é.{suffix}")
    return root


def test_files_labels_splits_and_names_are_kept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "shards"
    done = shard(ImageFolder(root=str(photos)), out, samples=5)
    assert done.splits == [("train", 14), ("val", 6), ("test", 4)] and done.classes == [
        "cat",
        "dog",
    ]
    assert done.shards == [*((f"{i:05d}.tar", 5) for i in range(4)), ("00004.tar", 4)]
    assert done.bytes == sum(p.stat().st_size for p in out.glob("*.tar")) and not done.missing
    index = known(str(out))
    ids = list(index.ids())
    assert sorted(ids) == sorted(str(p.relative_to(photos)) for p in photos.rglob("*.*g"))
    assert ids != sorted(ids) and all(name.startswith("train/") for name in ids[:14])
    for i, name in enumerate(ids):
        assert index.read(i) == (photos / name).read_bytes()
        assert index.classes[int(index.columns["label"][i])] == name.split("/")[1]


def test_members_are_named_as_webdatasets_and_carry_nothing_else(
    photos: Path, tmp_path: Path
) -> None:
    shard(ImageFolder(root=str(photos)), tmp_path / "one", samples=5)
    shard(ImageFolder(root=str(photos)), tmp_path / "two", samples=5)
    for path in (tmp_path / "one").rglob("*.*"):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )
    with tarfile.open(tmp_path / "one" / "00001.tar") as tar:
        members = tar.getmembers()
        assert {m.name.partition(".")[0] for m in members} == {f"{i:08d}" for i in range(5, 10)}
        assert {m.name.partition(".")[2] for m in members} <= {"jpg", "png", "cls"}
        assert {(m.mtime, m.uid, m.uname, m.isreg()) for m in members} == {(0, 0, "", True)}
    (tmp_path / "one" / "index.json").unlink()
    plain = scan_tars(str(tmp_path / "one"), EXTENSIONS, "image")
    whole = known(str(tmp_path / "two"))
    assert plain.columns["offset"].tolist() == whole.columns["offset"].tolist()
    assert plain.columns["label"].tolist() == whole.columns["label"].tolist()


def test_held_out_samples_and_groups_are_kept(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            pixels = noise(20, 20 + number // 2 + 7 * (name == "dog"), 3)  # two of each
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    folder = ImageFolder(root=str(tmp_path / "photos"))
    shard(folder, tmp_path / "shards")
    index = known(str(tmp_path / "shards"))
    scored = {name for name, held in zip(index.ids(), index.columns["scored"], strict=True) if held}
    task = folder.evaluation()[1][0]
    assert scored == {folder.id_of(i) for i in task.test.tolist()} and len(scored) == 4
    pairs = [int(name.partition("/")[2].partition(".")[0]) // 2 for name in index.ids()]
    names = [name.partition("/")[0] for name in index.ids()]
    for i, first in enumerate(index.columns["group"].tolist()):
        assert (pairs[i], names[i]) == (pairs[first], names[first]) and first <= i
    assert len(set(index.columns["group"].tolist())) == 10


def test_a_file_that_cannot_be_read_is_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    source = ImageFolder(root=str(photos))
    (photos / "train" / "cat" / "0 é.png").unlink()
    done = shard(source, tmp_path / "shards")
    assert done.splits[0] == ("train", 13)
    assert "1 left out; the first is train/cat/0 é.png (No such file" in done.lines()[1]
    assert len(known(str(tmp_path / "shards"))) == 23


def test_shards_of_others_are_written_again_as_ours(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows: Any = build("image_shards", image_parquet(tmp_path / "rows", 6))
    done = shard(rows, tmp_path / "shards", samples=5)
    index = known(str(tmp_path / "shards"))
    assert done.splits == [("train", 12)] and done.classes == ["a", "b"] == list(index.classes)
    content = {rows.id_of(i): rows._file(i) for i in range(len(rows))}
    labels = {rows.id_of(i): int(rows.labels[i]) for i in range(len(rows))}
    for i, name in enumerate(index.ids()):
        assert (index.read(i), int(index.columns["label"][i])) == (content[name], labels[name])
    with tarfile.open(tmp_path / "shards" / "00000.tar") as tar:
        assert {name.partition(".")[2] for name in tar.getnames()} == {"png", "cls"}


def test_shards_appear_whole_or_not_at_all(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mezzotint.data.prepare import shard as module

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_index", fail)
    with pytest.raises(OSError, match="No space left"):
        shard(ImageFolder(root=str(photos)), tmp_path / "shards")
    assert {p.name for p in tmp_path.iterdir()} == {"photos"}


KILLED = """
import os, signal, sys
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.prepare import shard as module
module.write_index = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
module.shard(ImageFolder(root=sys.argv[1]), sys.argv[2])
"""


def test_what_a_killed_process_left_is_removed_by_the_next(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    done = subprocess.run([sys.executable, "-c", KILLED, str(photos), str(out)], check=False)
    assert done.returncode == -9 and not out.exists()
    assert [p.name for p in tmp_path.glob(".tmp-*")] != []
    shard(ImageFolder(root=str(photos)), out)
    assert [p.name for p in tmp_path.glob(".tmp-*")] == [] and (out / "index.json").is_file()


def test_other_data_and_used_folders_are_refused(photos: Path, tmp_path: Path) -> None:
    source = ImageFolder(root=str(photos))
    with pytest.raises(ValueError, match="whole image or audio files .*embedded_images"):
        shard(EmbeddedImages(name="digits"), tmp_path / "out")
    (tmp_path / "tags").mkdir()
    with pytest.raises(ValueError, match="not files with several labels"):
        shard(ImageTags(**image_tags(tmp_path / "tags", 3)), tmp_path / "out")
    for i in range(3):
        sound(tmp_path / "audio" / f"{i}.wav", i)
    (tmp_path / "list.csv").write_text(
        "path,label,start\n" + "".join(f"{i}.wav,a,0.1\n" for i in range(3))
    )
    clips = AudioFolder(root=str(tmp_path / "audio"), files=str(tmp_path / "list.csv"), seconds=0.1)
    if not np.isnan(clips._starts).all():
        with pytest.raises(ValueError, match="not clips of files"):
            shard(clips, tmp_path / "out")
    with pytest.raises(ValueError, match="must be a new or empty folder"):
        shard(source, photos)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        shard(source, tmp_path / "out", samples=0)
    assert not (tmp_path / "out").exists()


def test_the_verb(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.chdir(tmp_path)
    assert run(["shard", "photos", "shards", "--samples", "10"]) == 0
    assert "24 samples (train 14, val 6, test 4), 2 classes, in 3 shards" in capsys.readouterr().out
    assert run(["shard", "photos", "shards"]) == 2
