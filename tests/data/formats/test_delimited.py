"""Tables of text against the csv module's own writer, and what str.splitlines would cut."""

import csv
from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.formats.delimited import (
    first_odd,
    lines_of,
    read_text,
    read_text_table,
    read_values,
)

NO_LINE_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Characters at which `str.splitlines` cuts besides line ends."""


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_only_line_ends_end_lines() -> None:
    text = f"one{NO_LINE_ENDS}\r\ntwo\rthree\n\nfive"
    assert len(text.splitlines()) > 5
    assert lines_of(text) == [f"one{NO_LINE_ENDS}", "two", "three", "", "five"]
    assert lines_of("a\n") == ["a"] and lines_of("") == []


def test_cells_come_back_as_the_csv_module_wrote_them(tmp_path: Path) -> None:
    rows = [
        ["a", "b"],
        [f"one{NO_LINE_ENDS}two", 'say "x", y'],
        ["first\nsecond\r\nthird", " spaces "],
        ["w" * 200_000, ""],  # the csv module stops at 131,072 characters
    ]
    for name, separator in (("a.csv", ","), ("b.CSV", ";"), ("c.tsv", "\t"), ("d.TSV", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=separator).writerows(rows)
        limit = csv.field_size_limit()
        table = read_text_table(tmp_path / name, keep_spaces=True)
        assert [table.header, *table.rows] == rows and table.separator == separator
        assert table.lines == [2, 3, 6] and csv.field_size_limit() == limit
        assert table.column("b") == ['say "x", y', "spaces", ""]


def test_refusals_name_file_and_line(tmp_path: Path) -> None:
    for text, message in (
        ("", "a.csv` must have unique column names in its first line, got none"),
        ("x,x\n1,2\n", "a.csv` must have unique column names in its first line, got 2 columns 'x'"),
        ('x,y\n"1\n2",3\n4\n', "a.csv`, line 4, must have 2 cells, as the first line, got 1"),
        ('x\n"1"\n"2\n3\n', "a.csv`, line 3, opens a quote that is not closed"),
    ):
        with pytest.raises(ValueError, match=message):
            read_text_table(write(tmp_path / "a.csv", text))
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    for name, message in (("latin.txt", "not UTF-8 text"), ("none.txt", "No such file")):
        with pytest.raises(ValueError, match=f"{name}` cannot be read .{message}"):
            read_text(tmp_path / name)


def test_numbers_times_and_text() -> None:
    values = read_values(["1", "-2.5e3", ".5", "NA", "", "?", "None", "inf"])
    assert values.kind == "number" and values.odd == []
    np.testing.assert_array_equal(values.numbers, [1, -2500, 0.5] + [np.nan] * 5)
    values = read_values(["1", "2", "3", "unknown"])
    assert values.kind == "number" and values.odd == [3] and np.isnan(values.numbers[3])
    # Python reads these as numbers: 1000, 12 and 3.
    assert read_values(["1_000", "\u0661\u0662", "\uff13"]).kind == "text"
    values = read_values(["1970-01-02", "1970-01-01T00:00:10", "1970-01-01 01:00:00+01:00"])
    assert values.kind == "time" and values.numbers.tolist() == [86400, 10, 0]
    assert read_values(["2023-02-30", "2023-03-01", "2023-03-02"]).odd == [0]
    assert read_values(["a", "1", "b"]).kind == "text" == read_values(["", "NA"]).kind
    assert first_odd(["1", "NA", "x"]) == 2


def test_a_comma_is_a_decimal_mark_only_where_it_separates_nothing() -> None:
    assert read_values(["1,5", "2", "-0,25"], ";").numbers.tolist() == [1.5, 2.0, -0.25]
    assert read_values(["1,5", "2,5"], ",").kind == "text"
    # Where other cells have points, a comma before three digits stands between thousands.
    assert read_values(["1.5", "2.5", "1,234"], ";").numbers.tolist() == [1.5, 2.5, 1234.0]
    assert read_values(["1.5", "2.5", "1,23"], ";").odd == [2]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["12%", "3.5%", "-7%"], [12.0, 3.5, -7.0]),
        (["$3.50", "$1,250", "$0"], [3.5, 1250.0, 0.0]),
        (["950", "1,000", "12,345,678.5"], [950.0, 1000.0, 12345678.5]),
        (["€ 5", "", "€ 7"], [5.0, np.nan, 7.0]),
    ],
)
def test_numbers_with_one_unit_are_numbers(cells: list[str], expected: list[float]) -> None:
    found = read_values(cells)
    assert found.kind == "number" and not found.odd
    np.testing.assert_array_equal(found.numbers, expected)


@pytest.mark.parametrize(
    "cells",
    [["12%", "$3"], ["1,00", "2,50"], ["12%", "many"], ["1,2,3", "4,5,6"], ["5 kg", "6 kg"]],
)
def test_other_words_stay_text(cells: list[str]) -> None:
    assert read_values(cells).kind == "text"


@pytest.mark.parametrize("separator", [";", ",", "\t", "|"])
def test_a_declared_separator_is_obeyed(separator: str, tmp_path: Path) -> None:
    """As spreadsheets write it; lines keep their numbers."""
    rows = [["a, b", "c"], ["1", "2"], ["3", "4"]]
    lines = [separator.join(f'"{cell}"' for cell in row) for row in rows]
    (tmp_path / "a.csv").write_bytes(f"sep={separator}\r\n{chr(10).join(lines)}\n".encode())
    table = read_text_table(tmp_path / "a.csv")
    assert [table.header, *table.rows] == rows and table.lines == [3, 4]
    (tmp_path / "a.csv").write_text(f"sep={separator}\nx{separator}y\n1\n")
    with pytest.raises(ValueError, match="line 3, must have 2 cells"):
        read_text_table(tmp_path / "a.csv")
