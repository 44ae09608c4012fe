"""Indexes of shards: what they find, and what they refuse."""

import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from mezzotint.data.formats.shards import (
    DamagedShards,
    Ids,
    ShardIndex,
    digest_of,
    read_index,
    write_index,
)
from mezzotint.data.formats.webdataset import scan_tars

SUFFIXES = frozenset({".jpg", ".png"})
SAMPLES = [(f"photo {i}.jpg", bytes([i]) * (100 + i), i % 3 - 1) for i in range(10)]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write(root: Path, per_shard: int = 4) -> None:
    """Shards without an index, as WebDataset's writer makes them."""
    root.mkdir(exist_ok=True)
    for first in range(0, len(SAMPLES), per_shard):
        with tarfile.open(root / f"{first // per_shard:02d}.tar", "w") as tar:
            for i, (_, content, label) in enumerate(SAMPLES[first : first + per_shard], first):
                add(tar, f"{i:04d}.jpg", content)
                add(tar, f"{i:04d}.json", b'{"ignored": true}')
                if label >= 0:
                    add(tar, f"{i:04d}.cls", str(label).encode())


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """The same shards with an index."""
    root = tmp_path / "shards"
    write(root)
    found = scan_tars(str(root), SUFFIXES, "image")
    columns = {name: found.columns[name] for name in ("offset", "size", "label", "group", "scored")}
    columns["digest"] = np.array([digest_of(content) for _, content, _ in SAMPLES], np.uint64)
    facts = {
        "modality": "image", "classes": ["cat", "dog"], "splits": [["train", 8], ["val", 2]],
        "shards": [["00.tar", 4], ["01.tar", 4], ["02.tar", 2]],
    }  # fmt: skip
    write_index(root, facts, columns, [name for name, _, _ in SAMPLES])
    return root


def known(root: str) -> ShardIndex:
    index = read_index(root, "image")
    assert index is not None
    return index


@pytest.mark.parametrize("scheme", ["path", "file", "memory"])
def test_an_index_is_read_from_a_disk_and_a_url(indexed: Path, scheme: str) -> None:
    root = {"path": str(indexed), "file": f"file://{indexed}", "memory": "memory://shards"}[scheme]
    if scheme == "memory":
        system = fsspec.filesystem("memory")
        for path in indexed.rglob("*.*"):
            with system.open(f"shards/{path.relative_to(indexed)}", "wb") as file:
                file.write(path.read_bytes())
    index = known(root)
    assert list(index.ids()) == [name for name, _, _ in SAMPLES]
    assert [index.read(i) for i in range(10)] == [content for _, content, _ in SAMPLES]
    assert index.classes == ("cat", "dog") and index.splits == (("train", 8), ("val", 2))
    again = pickle.loads(pickle.dumps(index))
    assert again.read(9) == SAMPLES[9][1] and again.fingerprint == index.fingerprint


def test_a_changed_sample_is_found_when_it_is_read(indexed: Path) -> None:
    index = known(str(indexed))
    shard = bytearray((indexed / "01.tar").read_bytes())
    shard[int(index.columns["offset"][5]) + 7] ^= 1
    (indexed / "01.tar").write_bytes(shard)
    with pytest.raises(DamagedShards, match="its bytes in 01.tar changed after it was written"):
        index.read(5)
    assert index.read(4) == SAMPLES[4][1]
    (indexed / "02.tar").write_bytes((indexed / "02.tar").read_bytes()[:600])
    with pytest.raises(DamagedShards, match="02.tar ends within the sample"):
        index.read(8)


@pytest.mark.parametrize(
    "name", ["offset", "size", "label", "group", "digest", "scored", "end", "ids"]
)
def test_a_changed_column_is_refused(indexed: Path, name: str) -> None:
    path = indexed / "index" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedShards, match=f"{name}.npy` changed after it was written"):
        known(str(indexed))


def changed(root: Path, **facts: Any) -> None:
    path = root / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version": 2}, "version 2"),
        ({"shards": [["../../etc/passwd", 10]]}, "must be a file of the same folder"),
        ({"shards": [["00.tar", 10**18]]}, "samples in shards"),
        ({"splits": [["train", 3]]}, "3 in splits"),
        ({"classes": ["cat"]}, "label.npy has values outside of -1 to 0"),
        ({"columns": {}}, "KeyError"),
        ({"shards": 3}, "TypeError"),
    ],
)  # fmt: skip
def test_a_false_index_is_refused(indexed: Path, facts: dict[str, Any], reason: str) -> None:
    changed(indexed, **facts)
    with pytest.raises(DamagedShards, match=f"cannot be used .*{reason}"):
        known(str(indexed))


def test_an_index_with_pickled_objects_is_refused(indexed: Path) -> None:
    path = indexed / "index" / "ids.npy"
    np.save(path, np.array([{"a": 1}] * 10, object), allow_pickle=True)
    facts = json.loads((indexed / "index.json").read_text())
    facts["columns"]["ids"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (indexed / "index.json").write_text(json.dumps(facts))
    with pytest.raises(DamagedShards, match="ids.npy has the type object"):
        known(str(indexed))


@pytest.mark.parametrize("count", [10**15, 3, -1])
def test_a_header_that_does_not_fit_its_file_is_refused(indexed: Path, count: int) -> None:
    path = indexed / "index" / "size.npy"
    content = path.read_bytes().replace(b"(10,)", f"({count},)".encode(), 1)
    path.write_bytes(content)
    facts = json.loads((indexed / "index.json").read_text())
    facts["columns"]["size"] = hashlib.sha256(content).hexdigest()
    (indexed / "index.json").write_text(json.dumps(facts))
    with pytest.raises(DamagedShards, match="size.npy (has the type|is no array)"):
        known(str(indexed))


def test_other_folders_are_refused(indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert read_index(str(tmp_path / "none"), "image") is None
    with pytest.raises(ValueError, match="has no shards: 0 tar files and no index.json"):
        scan_tars(str(tmp_path / "none"), SUFFIXES, "image")
    with pytest.raises(ValueError, match="Use data.kind=image_shards"):
        read_index(str(indexed), "audio")
    (tmp_path / "none" / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match="is compressed by gzip"):
        scan_tars(str(tmp_path / "none"), SUFFIXES, "image")


def test_ids_of_any_length() -> None:
    names = ["a", "", "é" * 9, "folder/b.jpg"]
    ids = Ids.of(names)
    assert list(ids) == names and ids[-1] == "folder/b.jpg"
    with pytest.raises(IndexError):
        ids[4]


def test_the_index_reads_only_what_it_needs(indexed: Path) -> None:
    index = known(str(indexed))
    assert (
        isinstance(index, ShardIndex)
        and index.ids(3)[2] == "photo 2.jpg"
        and len(index.ids(3)) == 3
    )
    before = {name: column.tolist() for name, column in index.columns.items()}
    index.give_back()
    assert {name: column.tolist() for name, column in index.columns.items()} == before
