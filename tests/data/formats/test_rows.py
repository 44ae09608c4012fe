"""Rows of encoded files: each is read as it was written, alone or by row group."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from mezzotint.data.formats import rows as module
from mezzotint.data.formats.rows import RowIndex, kind_of_rows, open_rows
from mezzotint.data.formats.shards import DamagedShards
from mezzotint.data.image.shards import ImageShards
from tests.data.formats.test_parquet import PETS, save_to_disk, with_features


def content(number: int) -> bytes:
    return b"\x89PNG" + bytes([number % 256]) * (50 + number)


def table(numbers: range, *, labels: bool = True, **columns: Any) -> pa.Table:
    samples = [{"bytes": content(i), "path": f"{i}.png"} for i in numbers]
    made = pa.table({"image": samples, "label": [i % 2 for i in numbers], **columns})
    return with_features(made, {"image": {"_type": "Image"}, **({"label": PETS} if labels else {})})


@pytest.fixture(params=["parquet", "arrow"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    for split, numbers in (("test", range(20, 26)), ("train", range(20))):
        if request.param == "arrow":
            save_to_disk(table(numbers), tmp_path / split, rows=7)
        else:
            path = tmp_path / f"{split}-00000-of-00001.parquet"
            parquet.write_table(table(numbers), path, row_group_size=7)
    return str(tmp_path)


def test_every_row_is_what_was_written(root: str) -> None:
    index = open_rows(root, "image", None, "label")
    assert index.splits == (("train", 20), ("test", 6)) and index.classes == ("cat", "dog")
    assert [index.read(i) for i in (25, *range(26))] == [content(i) for i in (25, *range(26))]
    assert index.columns["label"].tolist() == [i % 2 for i in range(26)]
    assert len(set(index.ids())) == 26 and index.ids()[20].endswith("/000000")
    again = pickle.loads(pickle.dumps(index))
    assert again.read(13) == content(13) and again.fingerprint == index.fingerprint


def test_equal_rows_and_rows_of_one_person_are_one_group(tmp_path: Path) -> None:
    twice = pa.concat_tables([table(range(6)), table(range(6))])
    parquet.write_table(twice, tmp_path / "x.parquet")
    index = open_rows(str(tmp_path), "image", None, "label")
    assert index.columns["group"].tolist() == [*range(6), *range(6)]
    people = table(range(12), patient_id=[i // 2 for i in range(12)])
    parquet.write_table(people, tmp_path / "x.parquet")
    index = open_rows(str(tmp_path), "image", None, "label")
    assert index.columns["group"].tolist() == [i // 2 * 2 for i in range(12)]


def test_folders_of_partitions_are_labels(tmp_path: Path) -> None:
    """Labels 10 and 2 sort as numbers, and `split` is the split."""
    samples, labels = [content(i) for i in range(12)], [2, 10, 2] * 4
    made = pa.table({"b": samples, "label": labels, "split": ["train", "test"] * 6})
    parquet.write_to_dataset(made, str(tmp_path), partition_cols=["split", "label"])
    index = open_rows(str(tmp_path), "image", None, "label")
    assert index.classes == ("2", "10") and index.splits == (("train", 6), ("test", 6))
    found = {index.read(i): index.columns["label"][i] for i in range(12)}
    assert found == {content(i): int(labels[i] == 10) for i in range(12)}


def test_labels_of_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"

    def read(
        values: list[Any], kind: pa.DataType | None = None
    ) -> tuple[tuple[str, ...], list[int]]:
        made = pa.table({"b": [content(i) for i in range(len(values))]})
        parquet.write_table(made.append_column("label", pa.array(values, kind)), path)
        index = open_rows(str(path), "image", None, "label")
        return index.classes, index.columns["label"].tolist()

    assert read(["dog", "", None, "ant"]) == (("ant", "dog"), [1, -1, -1, 0])
    assert read([7, 30, None, 7]) == (("7", "30"), [0, 1, -1, 0])
    assert read([True, False, True]) == (("False", "True"), [1, 0, 1])
    assert read(["b", "a"], pa.dictionary(pa.int8(), pa.string())) == (("a", "b"), [1, 0])
    assert read([1.5, 2.5]) == ((), [-1, -1])  # by default: no labels, and a note
    with pytest.raises(ValueError, match="has 2, and there are 2 classes"):
        parquet.write_table(table(range(3)).set_column(1, "label", pa.array([0, 1, 2])), path)
        open_rows(str(path), "image", None, "label")


def test_a_process_keeps_no_more_row_groups_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(table(range(40)), tmp_path / "x.parquet", row_group_size=5)
    monkeypatch.setattr(module, "CACHE", 1200)
    monkeypatch.setattr(module, "_blocks", module._Blocks())
    index = open_rows(str(tmp_path), "image", None, "label")
    assert index.window is not None and 5 <= index.window < 20
    for i in (0, 39, 3, 21, 8, 0):
        assert index.read(i) == content(i)
        kept = module._blocks._known.values()
        assert sum(size for _, size in kept) <= 1200 or len(kept) == 1
    source = ImageShards(root=str(tmp_path), size=8)
    assert source.weighting is not None and f"within {index.window} samples" in source.outcome()
    assert ImageShards(root=str(tmp_path), size=8, window=40).weighting.window == 40  # type: ignore[union-attr]


def test_one_broken_file_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    for part in range(4):
        made = table(range(5 * part, 5 * part + 5))
        parquet.write_table(made, tmp_path / f"{part}.parquet")
    (tmp_path / "2.parquet").write_bytes((tmp_path / "2.parquet").read_bytes()[:300])
    parquet.write_table(table(range(5), labels=False), tmp_path / "3.parquet")
    source = ImageShards(root=str(tmp_path), size=8)
    assert len(source) == 10
    assert [name for name, _ in source.unreadable] == ["2.parquet", "3.parquet"]
    assert "cannot be read" in source.unreadable[0][1]
    assert "has other columns, or other names of classes" in source.unreadable[1][1]


def test_rows_without_bytes_and_large_groups_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": None, "path": "/etc/passwd"}, {"bytes": content(1), "path": None}]
    parquet.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "x.parquet")
    index = open_rows(str(tmp_path), "image", None, "label")
    with pytest.raises(DamagedShards, match="no bytes, only the path '/etc/passwd'"):
        index.read(0)
    assert index.read(1) == content(1)
    parquet.write_table(pa.table({"image": pa.array(rows[:1], kind)}), tmp_path / "x.parquet")
    with pytest.raises(DamagedShards, match="has no encoded files .the row has no bytes"):
        kind_of_rows(str(tmp_path))
    monkeypatch.setattr(module, "MAX_GROUP", 100)
    parquet.write_table(table(range(5)), tmp_path / "x.parquet")
    with pytest.raises(DamagedShards, match="a row group of .* Write it again with row_group_size"):
        open_rows(str(tmp_path), "image", None, "label")
    parquet.write_table(table(range(1)).slice(0, 0), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="has files without a row"):
        open_rows(str(tmp_path), "image", None, "label")


def test_bytes_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    kinds = {b"\xff\xd8\xff": "image_shards", b"RIFF....WAVE": "audio_shards"}
    for start, kind in kinds.items():
        parquet.write_table(pa.table({"a": [None, start]}), path)
        assert kind_of_rows(str(path)) == kind
    parquet.write_table(pa.table({"a": [b"hello"]}), path)
    with pytest.raises(ValueError, match="'a' has bytes that are no image and no sound"):
        kind_of_rows(str(path))


def test_a_file_that_changed_or_went_is_an_error_of_its_rows(root: str) -> None:
    index = open_rows(root, "image", None, "label")
    assert isinstance(index, RowIndex)
    module._blocks._known.clear()
    (Path(root) / index.shards[0]).unlink()
    with pytest.raises(FileNotFoundError):
        index.read(0)
    assert index.read(20) == content(20)
