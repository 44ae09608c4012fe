"""Parquet files and Arrow data sets: columns, names of classes, splits, and what is refused.

`save_to_disk` writes what `datasets.Dataset.save_to_disk` does (datasets 5.2.0: a stream of Arrow,
with the features in the schema's metadata); one slow test compares with the library itself.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mezzotint.data.doctor import kind_of, opened
from mezzotint.data.formats.parquet import (
    choose_columns,
    files_below,
    modality_of_content,
    partitions_of,
    read_rows,
    split_name,
    suffix_of_content,
)
from mezzotint.data.formats.shards import DamagedShards
from mezzotint.data.series.series import Series
from mezzotint.data.table.files import read_table
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.tokens import Tokens

PETS = {"names": ["cat", "dog"], "_type": "ClassLabel"}


def with_features(table: pa.Table, features: dict[str, Any]) -> pa.Table:
    """The table with `datasets`' metadata."""
    facts = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": facts})


def save_to_disk(table: pa.Table, folder: Path, rows: int = 3) -> None:
    """Write a split as `datasets` does: one Arrow stream and two files of facts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": path.name}]}))
    (folder / "dataset_info.json").write_text("{}")


def animals(count: int, **columns: Any) -> pa.Table:
    labels = [i % 3 - 1 for i in range(count)]  # -1 is no label
    table = pa.table({"weight": np.arange(count) * 1.5, "label": labels, **columns})
    return with_features(table, {"weight": {"_type": "Value"}, "label": PETS})


def test_classes_have_their_names_and_files_their_splits(tmp_path: Path) -> None:
    for split, count in (("train", 7), ("validation", 5), ("unsupervised", 2)):
        parquet.write_table(animals(count), tmp_path / f"{split}-00000-of-00001.parquet")
    rows = read_rows(str(tmp_path))
    assert rows.column("label").to_pylist()[:4] == [None, "cat", "dog", None]
    assert rows.column("split").to_pylist() == ["train"] * 7 + ["val"] * 5
    columns = read_table(tmp_path, "label")
    assert columns["weight"].tolist() == [i * 1.5 for i in (*range(7), *range(5))]
    source = opened(str(tmp_path))
    assert source.kind == "table" and source.classes == ["cat", "dog"]
    (task,) = source.evaluation()[1]
    assert (task.name, len(task.train), len(task.test)) == ("label/val", 4, 3)


@pytest.mark.parametrize("form", ["parquet", "stream", "feather"])
def test_all_forms_read_the_same(form: str, tmp_path: Path) -> None:
    table = animals(8, text=[f"word {i}" for i in range(8)])
    if form == "parquet":
        parquet.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    elif form == "stream":
        save_to_disk(table, tmp_path)
    else:
        feather.write_feather(table, tmp_path / "x.arrow", compression="lz4")
    rows = read_rows(str(tmp_path))
    assert rows.column("text").to_pylist() == [f"word {i}" for i in range(8)]
    assert rows.column("weight").to_pylist() == [i * 1.5 for i in range(8)]
    assert rows.column("label").to_pylist()[1:3] == ["cat", "dog"]
    tokens = opened(str(tmp_path))
    assert tokens.kind == "tokens" and len(tokens.evaluation()[0]) == 8


def test_sentences_and_lists_of_integers_are_tokens(tmp_path: Path) -> None:
    ids = [[5, 6, 7], [8], [9, 1]]
    table = pa.table({"sentence": ["one", "two", "three"], "ids": ids})
    parquet.write_table(table, tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    assert opened(path, ["length=4"]).read(1)["x"][:3].tolist() == [2 + ord(c) for c in "two"]
    numbers = opened(path, ["length=4", "text=ids"])
    assert numbers.read(0)["x"].tolist() == [7, 8, 9, 0] and numbers.input.vocabulary == 12
    with pytest.raises(ValueError, match="must be texts or lists of integers, got float"):
        parquet.write_table(pa.table({"text": [1.5]}), tmp_path / "y.parquet")
        opened(str(tmp_path / "y.parquet"))


def test_an_extension_type_is_what_it_is_stored_as(tmp_path: Path) -> None:
    """Some are unpickled by their package: here they stay plain values."""
    values = pa.array([1, 2, 3], pa.int64())
    facts = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    }
    field = pa.field("x", pa.int64(), metadata=facts)
    schema = pa.schema([field, pa.field("label", pa.string())])
    table = pa.Table.from_arrays([values, pa.array(["a", "b", "a"])], schema=schema)
    save_to_disk(table, tmp_path)
    assert read_rows(str(tmp_path)).column("x").to_pylist() == [1, 2, 3]


def test_folders_of_partitions_are_columns(tmp_path: Path) -> None:
    """Hive's layout, as pyarrow writes it."""
    labels, years = ["cat", "a/b c", None] * 4, [2023, 2024] * 6
    table = pa.table({"a": [i / 2 for i in range(12)], "label": labels, "year": years})
    parquet.write_to_dataset(table, str(tmp_path), partition_cols=["label", "year"])
    rows = read_rows(str(tmp_path))
    found = sorted(zip(*(rows.column(n).to_pylist() for n in ("a", "label", "year")), strict=True))
    assert found == list(zip([i / 2 for i in range(12)], labels, years, strict=True))
    assert read_table(tmp_path, "label")["year"].dtype == np.float64
    assert partitions_of(["k=01/x", "k=2/x"]) == [{"k": "01"}, {"k": "2"}]
    names = ["split=test/label=train/x.parquet", "label=b/000.parquet", "data/x.parquet"]
    assert list(map(split_name, names)) == ["test/x.parquet", "000.parquet", "data/x.parquet"]


def test_lists_of_numbers_are_columns_or_series(tmp_path: Path) -> None:
    path, label = str(tmp_path / "x.parquet"), ["u", "v"] * 4

    def write(rows: list[Any], kind: pa.DataType | None = None, **more: Any) -> None:
        parquet.write_table(pa.table({"x": pa.array(rows, kind), "label": label, **more}), path)

    write([[i, i / 2] for i in range(7)] + [None], pa.list_(pa.float32(), 2))
    columns = read_table(Path(path), "label")
    assert columns["x0"].tolist()[:7] == [0, 1, 2, 3, 4, 5, 6] and np.isnan(columns["x1"][7])
    assert opened(path).kind == "table"
    split = ["train"] * 5 + ["test"] * 3
    write(
        [[float(i), None, i + 2.0] for i in range(8)], z=[[1, 1, i] for i in range(8)], split=split
    )
    series = opened(path, ["kind=series"])
    assert series.evaluation()[0].read(3)["x"].tolist() == [[3, 4, 5], [1, 1, 3]]
    assert series.classes == ["u", "v"] and len(series) == 5
    write([[[i, 2], [3, 4], [5, 6]] for i in range(8)])
    channels_last = opened(path, ["kind=series", "layout=NTC"]).evaluation()[0]
    found = sorted(channels_last.read(i)["x"].tolist() for i in range(8))
    assert found == [[[i, 3, 5], [2, 4, 6]] for i in range(8)]
    with pytest.raises(ValueError, match="one length in the column 'x', got lists of lists"):
        opened(path)
    with pytest.raises(ValueError, match=r"must have lists of numbers in w, got x. Set `data.chan"):
        opened(path, ["kind=series", "channels=[w]"])
    write([[1]] * 8, w=[[1, 2]] * 8)
    with pytest.raises(ValueError, match="row 0: channels have 1 to 2 values"):
        opened(path, ["kind=series"])
    write([[[1, 2], [3]]] * 8)
    with pytest.raises(ValueError, match="row 0: the lists in the column 'x' have several lengths"):
        opened(path, ["kind=series"])


@pytest.mark.parametrize(
    ("start", "modality", "suffix"),
    [
        (b"\xff\xd8\xff\xe0", "image", ".jpg"), (b"\x89PNG\r\n", "image", ".png"),
        (b"RIFF....WEBPVP8 ", "image", ".webp"), (b"RIFF....WAVEfmt ", "audio", ".wav"),
        (b"....ftypavif", "image", ".avif"), (b"OggS", "audio", ".ogg"), (b"hello", "", ""),
        (b"", "", ""),
    ],
)  # fmt: skip
def test_files_are_told_by_their_first_bytes(start: bytes, modality: str, suffix: str) -> None:
    assert (modality_of_content(start), suffix_of_content(start)) == (modality, suffix)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere` does not exist. Check the path."):
        files_below(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has no parquet and no Arrow files"):
        files_below(str(tmp_path))
    for name, content in (("x.parquet", b"PAR1 no"), ("y.arrow", b""), ("z.arrow", b"\1" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedShards, match=f"{name}` (cannot be read|is empty).*again"):
            kind_of(str(tmp_path / name))
        (tmp_path / name).unlink()
    parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    parquet.write_table(pa.table({"b": [1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet` has other columns than `a.parquet`"):
        read_rows(str(tmp_path))
    parquet.write_table(pa.table({"a": ["one"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet` has other columns .*int64 vs string"):
        read_rows(str(tmp_path))


def test_files_whose_columns_differ_in_order_or_width_are_one_table(tmp_path: Path) -> None:
    """As pandas writes them: floats for integers with a missing one, categories in any order."""
    colors = [["red", "blue"], ["blue", "green"]]
    for number, (values, kind) in enumerate((([1, 2], pa.int64()), ([None, 4.5], pa.float64()))):
        color = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), colors[number])
        when = pa.array([0, 1], pa.timestamp("ms" if number else "us"))
        columns = {"n": pa.array(values, kind), "color": color, "when": when}
        columns["text"] = pa.array([None, None] if number else ["a", "b"])
        names = reversed(columns) if number else columns
        parquet.write_table(
            pa.table({name: columns[name] for name in names}), tmp_path / f"{number}.parquet"
        )
    rows = read_rows(str(tmp_path))
    assert rows.column("n").to_pylist() == [1.0, 2.0, None, 4.5]
    assert rows.column("color").to_pylist() == ["red", "blue", "blue", "green"]
    assert rows.column("text").to_pylist() == ["a", "b", None, None]
    assert [str(when) for when in rows.column("when").to_pylist()][
        3
    ] == "1970-01-01 00:00:00.001000"


def test_pyarrow_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"not installed. Run `pip install 'mezzotint\[parquet\]'"):
        files_below(str(tmp_path))


@pytest.mark.parametrize(
    ("columns", "options", "reason"),
    [
        ({"a": pa.int64()}, {}, "no column of encoded files, only 'a'"),
        ({"a": pa.binary(), "b": pa.binary()}, {}, "several columns of encoded files: 'a', 'b'"),
        ({"a": pa.binary()}, {"column": "c"}, "no column 'c', only 'a'"),
        ({"a": pa.int64()}, {"column": "a"}, "the column 'a' has int64. Samples must be bytes"),
        ({"a": pa.binary(), "b": pa.list_(pa.int64())}, {"label": "b"}, "'b' has list<"),
        ({"a": pa.binary(), "Label": pa.int64()}, {}, "Did you mean 'Label'?"),
        ({"a": pa.binary()}, {"label": "kind"}, "has no column 'kind', only none"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_used_are_refused(
    columns: dict[str, Any], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError) as error:
        choose_columns(
            pa.schema(columns), "x.parquet", **{"column": None, "label": "label"} | options
        )
    message = str(error.value)
    assert reason in message and "x.parquet" in message and "Set `data." in message


def test_the_only_class_label_is_the_label_and_two_are_named() -> None:
    table = pa.table({"img": [b""], "fine": [0], "coarse": [0]})
    both = with_features(table, {"fine": PETS, "coarse": PETS}).schema
    chosen = choose_columns(both, "x", None, "label")
    assert (
        chosen.label is None and "set data.label to one of the columns fine, coarse" in chosen.note
    )
    assert choose_columns(both, "x", None, "fine").classes == ("cat", "dog")
    one = choose_columns(with_features(table, {"fine": PETS}).schema, "x", None, "label")
    assert (one.samples, one.label, one.classes, one.note) == ("img", "fine", ("cat", "dog"), "")


def test_other_columns_that_may_be_the_label_are_named() -> None:
    columns = {"img": pa.binary(), "species": pa.string(), "patient_id": pa.int64()}
    chosen = choose_columns(pa.schema({**columns, "size": pa.float64()}), "x", None, "label")
    assert chosen.note == "no column `label`: data.label may name species"
    assert choose_columns(pa.schema(columns), "x", None, None).note == ""


@pytest.mark.slow  # `datasets` takes seconds to import
def test_the_library_itself_writes_what_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"x": datasets.Value("float32"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    whole = datasets.Dataset.from_dict(
        {"x": [float(i) for i in range(30)], "label": [i % 2 for i in range(30)]}, features=features
    )
    parts = datasets.DatasetDict(train=whole.select(range(20)), test=whole.select(range(20, 30)))
    parts.save_to_disk(str(tmp_path / "disk"))
    for name, part in parts.items():
        part.to_parquet(tmp_path / "parquet" / "data" / f"{name}-00000-of-00001.parquet")
    for form in ("disk", "parquet"):
        rows = read_rows(str(tmp_path / form))
        assert rows.column("x").to_pylist() == [float(i) for i in range(30)]
        assert rows.column("label").to_pylist() == ["no", "yes"] * 15
        assert rows.column("split").to_pylist() == ["train"] * 20 + ["test"] * 10


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (pa.array([0.0, 1.0, None, float("nan")] * 3), ["0", "1"]),
        (pa.array([0, 1, -1, None] * 3), ["0", "1"]),
        (pa.array([-1, 1, -1, 1] * 3), ["-1", "1"]),
        (pa.array(["", "a", None, "b"] * 3), ["a", "b"]),
        (pa.array([True, False, None, True] * 3), ["False", "True"]),
    ],
)
def test_labels_have_the_same_names_in_every_kind_of_data(
    labels: Any, classes: list[str], tmp_path: Path
) -> None:
    """Null and NaN are no class, and a label is called alike as a float and an integer."""
    count, path = len(labels), tmp_path / "a.parquet"
    columns: dict[str, Any] = {"a": [float(i) for i in range(count)]}
    lists = {"a": [[float(i), 1.0, 2.0 * i, 0.0] for i in range(count)]}
    for source, content in (
        (Table, columns), (Tokens, {"text": [f"text {i}" for i in range(count)]}), (Series, lists),
    ):  # fmt: skip
        parquet.write_table(pa.table({**content, "label": labels}), path)
        assert list(source(path=str(path)).classes) == classes
