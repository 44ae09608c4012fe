"""How columns become features, fitted to one table and applied to another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint import save_encoder
from mezzotint.data.table.encoding import Encoding, fit
from mezzotint.data.table.table import Table
from mezzotint.encoders.rows import TableMLP

COLUMNS = {
    "n": np.array([1.0, np.nan, 3.0, 5.0]),
    "c": np.array(["x", "y", "", "x"]),
}
EVERY = np.ones(4, np.bool_)


def fitted() -> Encoding:
    return fit(COLUMNS, EVERY, categorical=set(), max_categories=9)


def test_an_encoding_is_plain_data_and_comes_back() -> None:
    encoding = fitted()
    again = Encoding.from_json(json.loads(json.dumps(encoding.as_json())))
    assert again == encoding and again.features == ["n", "c=x", "c=y"]
    np.testing.assert_array_equal(again(COLUMNS), encoding(COLUMNS))


def test_a_row_gives_the_same_features_in_any_table() -> None:
    encoding = fitted()
    whole = encoding(COLUMNS)
    for row in range(4):
        alone = {name: column[row : row + 1] for name, column in reversed(COLUMNS.items())}
        np.testing.assert_array_equal(encoding(alone), whole[row : row + 1])
    # A missing number is the mean of the training rows, whatever table it stands in.
    assert encoding({"n": np.array([np.nan]), "c": np.array([""])})[0, 0] == 0.0


def test_a_constant_column_and_one_without_values() -> None:
    columns = {"a": np.full(4, 7.0), "b": np.array(["", "", "", ""])}
    encoding = fit(columns, EVERY, categorical=set(), max_categories=9)
    assert encoding.features == ["a"] and not encoding(columns).any()
    assert encoding({"a": np.array([9.0])})[0, 0] == 2.0
    with pytest.raises(ValueError, match="No feature is left"):
        fit({"b": columns["b"]}, EVERY, categorical=set(), max_categories=9)


def test_what_another_table_lacks_is_refused_and_what_it_adds_is_said() -> None:
    encoding = fitted()
    with pytest.raises(ValueError, match=r"`a.csv` lacks the columns 'n', 'c', .*it has 'm'"):
        encoding.check({"m": np.ones(2)}, "a.csv")
    with pytest.raises(ValueError, match="the column 'n' must be numbers, as in training, got 'q'"):
        encoding.check({"n": np.array(["", "q"]), "c": np.array(["x", "x"])}, "a.csv")
    others = {"n": np.array(["", ""]), "c": np.array(["x", "z"]), "m": np.ones(2)}
    notes = encoding.check(others, "a.csv")
    assert notes[0].endswith("trained on are left out: 'm'.")
    assert "1 rows have a category of 'c' that the encoder does not know, such as 'z'" in notes[1]
    np.testing.assert_array_equal(encoding(others)[:, 0], [0.0, 0.0])


def table(path: Path, header: str, rows: list[str]) -> Table:
    path.write_text("\n".join([header, *rows]))
    return Table(path=str(path), y=None)


def test_the_encoding_of_an_encoder_is_applied_to_another_file(tmp_path: Path) -> None:
    people = table(tmp_path / "people.csv", "height,color", ["1,red", "3,blue", "5,red"])
    save_encoder(TableMLP(people.input, width=4), tmp_path / "encoder", source=people)
    (tmp_path / "others.csv").write_text("color,height,age\nblue,3,7\nred,7,8\n")
    others = Table(path=str(tmp_path / "others.csv"), y=None, fitted=str(tmp_path / "encoder"))
    assert others.encoding == people.encoding and others.features == people.features
    assert (others.images[0] == people.images[1]).all() and "'age'" in others.notes[0]
    with pytest.raises(ValueError, match="`data.y` must name a column that is no feature, got 'co"):
        Table(path=str(tmp_path / "others.csv"), y="color", fitted=str(tmp_path / "encoder"))
    assert others.preprocessing()["columns"] == people.preprocessing()["columns"]
    with pytest.raises(ValueError, match="`nowhere` has no encoder.json"):
        Table(path=str(tmp_path / "others.csv"), fitted="nowhere")
    save_encoder(TableMLP(people.input, width=4), tmp_path / "bare")
    with pytest.raises(ValueError, match="`fitted` must be an encoder of a table"):
        Table(path=str(tmp_path / "others.csv"), fitted=str(tmp_path / "bare"))


def test_a_category_is_the_same_whatever_other_cells_its_file_has(tmp_path: Path) -> None:
    """`36.0` alone looks like a whole number, and is `36` where another file has it so."""
    rows = ["36.0,1", "M,2", "38.0,3", "L,1", "36.0,2"]
    sizes = table(tmp_path / "a.csv", "size,n", rows)
    assert sizes.encoding.columns[0].categories == ("36.0", "38.0", "L", "M")
    save_encoder(TableMLP(sizes.input, width=4), tmp_path / "encoder", source=sizes)
    for text in ("36.0", "36"):
        (tmp_path / "b.csv").write_text(f"size,n\n{text},1\n38.0,3\n")
        part = Table(path=str(tmp_path / "b.csv"), y=None, fitted=str(tmp_path / "encoder"))
        assert torch.equal(part.images, sizes.images[[0, 2]]) and not part.notes
    codes = tmp_path / "c.csv"
    codes.write_text("code,n\n1,1\n2,2\n1,3\n")
    named = Table(path=str(codes), y=None, categorical=["code"])
    save_encoder(TableMLP(named.input, width=4), tmp_path / "named", source=named)
    (tmp_path / "d.csv").write_text("code,n\n1.0,1\n2.0,2\n1.5,3\n")
    part = Table(path=str(tmp_path / "d.csv"), y=None, fitted=str(tmp_path / "named"))
    assert torch.equal(part.images[:2], named.images[:2]) and "'1.5'" in part.notes[0]


def test_a_column_of_times_stays_one_of_times(tmp_path: Path) -> None:
    """Its metadata says what the numbers are, and other numbers are refused."""
    rows = ["2024-01-05,1", "2024-01-06,2", "2024-01-07 12:00,3"]
    days = table(tmp_path / "a.csv", "day,n", rows)
    stored = days.encoding.as_json()
    assert [column["kind"] for column in stored["columns"]] == ["time", "number"]
    assert Encoding.from_json(stored).columns[0].time and "seconds since 1970" in stored["rule"]
    save_encoder(TableMLP(days.input, width=4), tmp_path / "encoder", source=days)
    for text, message in (
        ("day,n\n20240105,1\n", "the column 'day' must be times, as in training, got numbers"),
        ("day,n\n2024-01-05,2024-01-05\n", "the column 'n' must be numbers, .* got times"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            Table(path=str(tmp_path / "b.csv"), y=None, fitted=str(tmp_path / "encoder"))
    (tmp_path / "b.csv").write_text("day,n\n,1\n,2\n")  # missing times are the mean
    missing = Table(path=str(tmp_path / "b.csv"), y=None, fitted=str(tmp_path / "encoder"))
    assert missing.images[:, 0].tolist() == [0.0, 0.0]
