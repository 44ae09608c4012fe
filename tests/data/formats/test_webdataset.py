"""Tar files of WebDataset's form that others wrote."""

import json
import tarfile
from pathlib import Path

import pytest

from mezzotint.data.doctor import kind_of
from mezzotint.data.formats.shards import arranged
from mezzotint.data.formats.webdataset import scan_tars
from mezzotint.data.image.shards import ImageShards
from tests.data.formats.test_shards import SAMPLES, SUFFIXES, add, write


def archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            add(tar, name, content)


def test_names_labels_and_bytes_are_read_without_an_index(tmp_path: Path) -> None:
    write(tmp_path)
    index = scan_tars(str(tmp_path), SUFFIXES, "image")
    assert (
        len(index) == 10 and index.classes == ("0", "1") and index.firsts.tolist() == [0, 4, 8, 10]
    )
    assert list(index.ids())[:5] == [f"00.tar/000{i}.jpg" for i in range(4)] + ["01.tar/0004.jpg"]
    assert index.columns["label"].tolist() == [label for _, _, label in SAMPLES]
    assert [index.read(i) for i in range(10)] == [content for _, content, _ in SAMPLES]


@pytest.mark.parametrize("order", [("cls", "json"), ("json", "cls")])
def test_cls_is_believed_before_json(order: tuple[str, str], tmp_path: Path) -> None:
    labels = {"cls": b"cat\n", "json": b'{"label": "dog"}'}
    members = {f"a.{suffix}": labels[suffix] for suffix in order} | {"a.jpg": b"1"}
    archive(tmp_path / "x.tar", members | {"b.jpg": b"2", "b.json": labels["json"]})
    index = scan_tars(str(tmp_path / "x.tar"), SUFFIXES, "image")
    assert index.classes == ("cat", "dog") and index.columns["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        ({"label": 1}, 1), ({"cls": "1"}, 1), ({"class_id": 1, "caption": "x"}, 1),
        ({"label": True}, None), ({"label": [1]}, None), ({"width": 3}, None), ([1], None),
        ({"label": None}, None),
    ],
)  # fmt: skip
def test_labels_in_json(facts: object, label: int | None, tmp_path: Path) -> None:
    archive(tmp_path / "x.tar", {"a.jpg": b"1", "a.json": json.dumps(facts).encode()})
    index = scan_tars(str(tmp_path), SUFFIXES, "image")
    assert index.columns["label"].tolist() == [-1 if label is None else label]


def test_splits_names_of_classes_and_other_files(tmp_path: Path) -> None:
    """The layout of CLIP benchmark: `train/0.tar`, `test/0.tar`, `classnames.txt`."""
    for split, numbers in (("train", range(6)), ("test", range(6, 8)), ("extra", range(8, 9))):
        members = {"./._0.jpg": b"left by macOS", "./0/": b""}
        for i in numbers:
            members |= {f"./s{i:07d}.JPG": bytes([i]), f"./s{i:07d}.cls": str(i % 2).encode()}
        members.pop("./0/")
        archive(tmp_path / split / "0.tar", members)
    (tmp_path / "classnames.txt").write_text("crane\ncrane\n")
    (tmp_path / "README.md").write_text("about")
    assert kind_of(str(tmp_path)) == "image_shards"
    index = scan_tars(str(tmp_path), SUFFIXES, "image")
    assert index.splits == (("train", 6), ("test", 2), ("extra", 1))
    assert index.classes == ("crane (0)", "crane (1)")
    assert [index.read(i) for i in range(8)] == [bytes([i]) for i in range(8)]
    assert index.ids()[0] == "train/0.tar/s0000000.JPG"
    assert "1 samples that are neither trained on nor scored" in index.notes[0]
    (tmp_path / "classnames.txt").write_text("crane\n")
    with pytest.raises(ValueError, match="must have 2 names, one a line, for the labels up to 1"):
        scan_tars(str(tmp_path), SUFFIXES, "image")


def test_an_index_of_webdatasets_own_is_not_ours(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps({"wids_version": 1, "shardlist": []}))
    source = ImageShards(root=str(tmp_path), size=8)
    assert len(source) == 10 and kind_of(str(tmp_path)) == "image_shards"


def test_a_broken_archive_among_others_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "01.tar").write_bytes((tmp_path / "01.tar").read_bytes()[:700])
    source = ImageShards(root=str(tmp_path), size=8)
    assert len(source) == 6 and source.unreadable[0][0] == "01.tar"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a.jpg": b"", "a.cls": b"\xff\xfe"}, "must have the number of a class"),
        ({"a.jpg": b"", "a.cls": b""}, "must have the number of a class"),
        ({"a.jpg": b"", "a.cls": b"12345678"}, "below a million"),
        ({"a.jpg": b"", "a.json": b"{"}, "'a.json' is not JSON"),
        ({"a.jpg": b"", "a.cls": b"1", "b.jpg": b"", "b.cls": b"cat"}, "numbers, such as 1, and"),
        ({"a.txt": b"hello"}, "has no shards: 1 tar files"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(
    members: dict[str, bytes], reason: str, tmp_path: Path
) -> None:
    archive(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=reason):
        scan_tars(str(tmp_path), SUFFIXES, "image")


def test_neither_images_nor_sounds_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "x.tar", {"a.pyd": b"1"})
    with pytest.raises(ValueError, match="tar files with no images and no sounds"):
        kind_of(str(tmp_path))
    archive(tmp_path / "x.tar", {"a.jpg": b"1", "a.wav": b"2"})
    with pytest.raises(ValueError, match="both images and sounds. Name files of one modality"):
        kind_of(str(tmp_path))
    with pytest.raises(ValueError, match="`data.column` names a column of parquet"):
        ImageShards(root=str(tmp_path), column="image")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["train"]),
        (["data/test.tar", "data/train.tar"], ["train", "test"]),
        (["imagenet-validation-01.tar", "imagenet-train-0001.tar"], ["train", "val"]),
        (["0.tar", "1.tar", "test.tar"], ["train", "test"]),
        (["validation/0.arrow", "test/0.arrow"], ["train", "test"]),
        (["latest.tar", "contest.tar"], ["train"]),
        (["train.tar", "unlabeled-00000-of-00001.tar"], ["train", "unlabeled"]),
        (["train-00000-of-00001-0123456789abcdef.parquet"], ["train"]),
    ],
)  # fmt: skip
def test_files_are_of_the_split_they_are_named_for(names: list[str], splits: list[str]) -> None:
    files = arranged(names, [10] * len(names), [True] * len(names))
    assert [name for name, _ in files.splits] == splits
    assert sum(size for _, size in files.splits) == 10 * len(names)
    assert sorted(files.order) == list(range(len(names)))


@pytest.mark.slow  # imports the library
def test_the_library_itself_writes_what_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "x-000000.tar")) as writer:
        for i in range(5):
            writer.write({"__key__": f"s{i}", "jpg": bytes([i]), "cls": i % 2})
    index = scan_tars(str(tmp_path), SUFFIXES, "image")
    assert [index.read(i) for i in range(5)] == [bytes([i]) for i in range(5)]
    assert index.columns["label"].tolist() == [0, 1, 0, 1, 0]
