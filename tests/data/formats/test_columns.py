"""Columns by their exact names, in tables, series and text; row numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.formats.columns import (
    ColumnUse,
    MissingName,
    chosen_name,
    is_row_number,
    use_lines,
)
from mezzotint.data.image.arrays import Arrays
from mezzotint.data.points.clouds import point_clouds
from mezzotint.data.series.series import Series
from mezzotint.data.source import Source
from mezzotint.data.table.table import Table
from mezzotint.data.tokens.tokens import Tokens


def test_only_the_default_name_may_be_missing() -> None:
    def choose(name: str | None, names: list[str]) -> str | None:
        return chosen_name(name, names, default="label", key="data.y", path="a.csv", noun="column")

    assert choose(None, ["label"]) is None and choose("label", ["a"]) is None
    assert choose("label", ["a", "label"]) == "label" and choose("kind", ["kind"]) == "kind"
    for name, names, hint in (
        ("label", ["a", "Label"], "'Label'"),
        ("species", ["a", "Species"], "'Species'"),
        ("label", [" label "], "' label '"),
    ):
        with pytest.raises(MissingName, match=f"has no column .*Did you mean {hint}") as caught:
            choose(name, names)
        assert caught.value.key == "y"


def test_row_numbers() -> None:
    for name in ("", "__index_level_0__"):
        assert is_row_number(name, ["7", "3"])
    for name in ("Unnamed: 0", "id", "Index"):
        assert is_row_number(name, ["0", "1", "2"]) and is_row_number(name, np.array([1.0, 2.0]))
        assert not is_row_number(name, ["0", "2"]) and not is_row_number(name, ["a", "b"])
    assert not is_row_number("age", ["0", "1", "2"])


def test_many_columns_are_cut() -> None:
    lines = use_lines([ColumnUse(f"c{i}", "number", f"{i}") for i in range(50)])
    assert len(lines) == 31 and lines[-1] == "… and 20 more columns"
    assert lines[9] == "'c9'   number  9" and use_lines([]) == []


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


ROWS = "\n".join(f"{i},{i % 5}.5,word {i},{'ab'[i % 2]},p{i % 4}" for i in range(40))
SOURCES: dict[str, Callable[[str, str | None], Source]] = {
    "table": lambda path, y: Table(path=path, y=y),
    "series": lambda path, y: Series(path=path, y=y, channels=["v"], window=2),
    "tokens": lambda path, y: Tokens(path=path, label=y, length=8),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_misspelt_label_is_refused_in_every_table(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "a.csv", f",v,text,Kind,who\n{ROWS}\n")
    assert SOURCES[name](path, "Kind").evaluation()[1][0].classes == ["a", "b"]
    assert SOURCES[name](path, None).evaluation()[1] == []
    assert SOURCES[name](path, "label").evaluation()[1] == []
    for wrong in ("kind", "Kind ", "species"):
        with pytest.raises(ValueError, match="has no column .*'Kind', 'who'"):
            SOURCES[name](path, wrong)
    other = _write(tmp_path / "b.csv", f",v,text,Label,who\n{ROWS}\n")
    with pytest.raises(ValueError, match="has no column 'label'.* Did you mean 'Label'"):
        SOURCES[name](other, "label")


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_decided_for_each_column_is_kept(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "a.csv", f",v,text,Kind,who\n{ROWS}\n")
    uses = {use.name: use.use for use in SOURCES[name](path, "Kind").columns}
    wanted = {
        "table": {"": "left out", "v": "number", "text": "categories", "who": "categories"},
        "series": {"v": "channel"},
        "tokens": {"": "left out", "v": "left out", "text": "text", "who": "left out"},
    }[name]
    assert uses == {**wanted, "Kind": "label"}


ARRAYS: dict[str, tuple[tuple[int, ...], Callable[[str, str | None], Source]]] = {
    "images": ((6, 4, 4), lambda path, y: Arrays(path=path, y=y)),
    "series": ((6, 1, 8), lambda path, y: Series(path=path, y=y)),
    "points": ((6, 9, 3), lambda path, y: point_clouds(path=path, y=y, points=8)),
    "tokens": ((6, 8), lambda path, y: Tokens(path=path, label=y, length=8)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_by_name_in_every_modality(tmp_path: Path, name: str) -> None:
    shape, read = ARRAYS[name]
    rng = np.random.default_rng(0)
    x: np.ndarray = rng.integers(0, 99, shape)
    x = x.astype(np.float32) / 100 if name == "images" else x
    y = np.array([1, -1] * 3)[:, None]  # two classes in a column
    path = str(tmp_path / "a.npz")
    np.savez(path, x=x, y=y)
    task = read(path, "y").evaluation()[1][0]
    assert sorted(task.classes) == ["-1", "1"] and len(task.train) + len(task.test) == 6
    with pytest.raises(ValueError, match="has no array 'species'"):
        read(path, "species")
    np.savez(path, x)  # a single array needs no name
    assert len(read(path, None)) == 6
    np.savez(path, a=x, b=x)
    with pytest.raises(ValueError, match="has no array 'x', only a, b"):
        read(path, None)
