"""Read text files and tables of text as they are written.

Only LF, CR LF and CR end a line: `str.splitlines` also cuts at eight other characters, such as
U+2028, that stand inside texts. A cell may be of any length, and may have line ends within quotes.
Every refusal names the file and the line.

A cell is a number if it is written with ASCII digits, a point and an exponent. Python's `float`
also takes `1_000`, which may be a name.
"""

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Suffixes of tables of text, in lower case, and the usual separator of each."""

MISSING = frozenset(
    ["", "?", "na", "n/a", "nan", "-nan", "null", "none", "<na>", "#n/a", "inf", "-inf"]
)
"""Words, in lower case, that stand for a missing value in a column of numbers or times."""

_DECLARED = re.compile(r"sep=([,;\t|])(?:\r\n|\n|\r)", re.IGNORECASE)
_SEPARATOR_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_UNIT = re.compile(
    r"(?P<sign>[-+]?)(?P<before>[$€£¥]?) ?(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
    r" ?(?P<after>%?)"
)
_POINT, _COMMA = re.compile(_NUMBER), re.compile(_NUMBER.replace(r"\.", ","))
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)

Kind = Literal["number", "time", "text"]


@dataclass(frozen=True)
class TextTable:
    """The cells of a table of text, as they stand in its file.

    Attributes:
        path: path of the file.
        header: names of the columns, stripped.
        rows: cells of each row, as many as names.
        lines: number of the line in which each row begins, from 1.
        separator: the character between two cells.
    """

    path: str
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    separator: str

    def column(self, name: str, *, stripped: bool = True) -> list[str]:
        """Return the cells of a column, by default without spaces and line ends around them."""
        position = self.header.index(name)
        return [row[position].strip() if stripped else row[position] for row in self.rows]

    def records(self) -> list[dict[str, str]]:
        """Return each row as a mapping from names to stripped cells."""
        return [
            dict(zip(self.header, (cell.strip() for cell in row), strict=True)) for row in self.rows
        ]


@dataclass(frozen=True)
class Values:
    """The cells of a column, read as what most of them are.

    Attributes:
        kind: `number`; `time`, in seconds since 1970; or `text`.
        numbers: float64 `[N]`, NaN for missing values and odd cells, for numbers and times.
        odd: indices of cells that are neither of this kind nor missing.
    """

    kind: Kind
    numbers: npt.NDArray[np.float64]
    odd: list[int]


def read_text(path: str | os.PathLike[str], expected: str = "UTF-8 text") -> str:
    """Read a text file without a byte order mark; line ends stay as they are.

    Args:
        path: path of the file.
        expected: what the file must be, for messages.

    Raises:
        ValueError: when it cannot be read, or is not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error}"
        raise ValueError(
            f"`{os.fspath(path)}` cannot be read ({reason}). It must be {expected}. Check the path "
            "and the encoding."
        ) from None


def lines_of(text: str) -> list[str]:
    """Split text at LF, CR LF and CR, and nowhere else."""
    lines = re.split(r"\r\n|\n|\r", text)
    return lines if lines[-1] else lines[:-1]


def read_text_table(path: str | os.PathLike[str], *, keep_spaces: bool = False) -> TextTable:
    """Read a table with names in its first line: a CSV or TSV file, by its suffix in any case.

    Where the usual separator is not in the first line, a semicolon, tab or comma is accepted, as
    spreadsheets of many countries write them; a line `sep=;` before the names is obeyed.

    Args:
        path: path of the file.
        keep_spaces: whether spaces after a separator belong to the cell.

    Raises:
        ValueError: when the file cannot be read, has no unique names, or a ragged row.
    """
    name = os.fspath(path)
    text = read_text(path, "a table of UTF-8 text")
    declared = _DECLARED.match(text)
    separator = _separator(text, SEPARATORS.get(Path(name).suffix.lower(), ","))
    if declared is not None:
        separator, text = declared[1], "\n" + text[declared.end() :]  # lines keep their numbers
    found = list(split_rows(text, name, separator, keep_spaces=keep_spaces))
    header = [cell.strip() for cell in found[0][1]] if found else []
    repeated = [(cell, count) for cell, count in Counter(header).items() if count > 1]
    if repeated or not any(header):
        got = f"{repeated[0][1]} columns {repeated[0][0]!r}" if repeated else "none"
        raise ValueError(
            f"`{name}` must have unique column names in its first line, got {got}. Name the "
            "columns."
        )
    for number, row in found[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"`{name}`, line {number}, must have {len(header)} cells, as the first line, got "
                f"{len(row)}. Put a cell with a {_SEPARATOR_NAMES.get(separator, separator)} into "
                "quotes, or correct the line."
            )
    return TextTable(
        name, header, [row for _, row in found[1:]], [line for line, _ in found[1:]], separator
    )


def split_rows(
    text: str, name: str, separator: str = ",", *, keep_spaces: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row begins, and its cells; empty lines are skipped.

    Args:
        text: text of the table.
        name: name of the file, for messages.
        separator: character between two cells.
        keep_spaces: whether spaces after a separator belong to the cell.

    Raises:
        ValueError: when a quote is not closed, with the line of the row that has it.
    """
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=not keep_spaces
    )
    begin = last = 1
    with _cells_as_long_as(text):
        try:
            for row in reader:
                if row:
                    last = begin
                    yield begin, row
                begin = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"`{name}`, line {begin}, cannot be read as cells ({error}). Correct the line."
            ) from None
    if '"' in text and _is_open("".join(_from_line(text, last)), separator, not keep_spaces):
        raise ValueError(
            f"`{name}`, line {last}, opens a quote that is not closed until the end of the file. "
            "Close it, or write it twice within quotes."
        )


def read_values(cells: Sequence[str], separator: str = ",") -> Values:
    """Read the stripped cells of a column as numbers, times or text.

    A column is what more than half of its cells are; cells that are missing do not count. Where a
    comma does not separate cells, it may be the decimal mark of a column without points. A column
    is also one of numbers if all cells are, with the same unit (`12%`, `$3.50`) or with commas
    between thousands (`1,250`).

    Args:
        cells: cells of the column, stripped.
        separator: character between two cells of a row.
    """
    known = [i for i, cell in enumerate(cells) if cell.lower() not in MISSING]
    given = [cells[i] for i in known]
    comma = (
        separator != ","
        and any("," in cell for cell in given)
        and not any(_POINT.fullmatch(cell) and "." in cell for cell in given)
    )
    numbers = np.full(len(cells), np.nan)
    if not comma and _have_one_unit(given):
        numbers[known] = [_number_with_unit(cell) for cell in given]
        return Values("number", numbers, [])
    kinds: tuple[tuple[Kind, re.Pattern[str]], ...] = (
        ("number", _COMMA if comma else _POINT),
        ("time", _TIME),
    )
    for kind, pattern in kinds:
        fits = [pattern.fullmatch(cell) is not None for cell in given]
        if not given or 2 * sum(fits) <= len(given):
            continue
        parse = _seconds if kind == "time" else _comma_number if comma else float
        odd = []
        for i, cell, fit in zip(known, given, fits, strict=True):
            value = parse(cell) if fit else None
            if value is None:
                odd.append(i)
            else:
                numbers[i] = value
        return Values(kind, numbers, odd)
    return Values("text", numbers, [])


def _have_one_unit(cells: Sequence[str]) -> bool:
    """Return whether all cells are numbers with one unit or commas, and not all plain numbers."""
    found = [_UNIT.fullmatch(cell) for cell in cells]
    units = {(match["before"], match["after"]) for match in found if match is not None}
    plain = all(_POINT.fullmatch(cell) for cell in cells)
    return bool(cells) and not plain and None not in found and len(units) == 1


def _number_with_unit(cell: str) -> float:
    match = _UNIT.fullmatch(cell)
    assert match is not None
    return float(match["sign"] + match["digits"].replace(",", ""))


def first_odd(cells: Sequence[str], separator: str = ",") -> int:
    """Return the index of the first cell that is neither a number nor missing."""
    return next(
        i
        for i, cell in enumerate(cells)
        if cell.lower() not in MISSING and read_values([cell], separator).kind != "number"
    )


def _comma_number(cell: str) -> float:
    return float(cell.replace(",", "."))


def _seconds(cell: str) -> float | None:
    """Return the seconds since 1970 of a time in ISO 8601; UTC where it has no time zone."""
    try:
        time = datetime.fromisoformat(cell)
    except ValueError:  # the digits have the form of a time, such as the 30th of February
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _separator(text: str, usual: str) -> str:
    """Return the usual separator if it is in the first line, else another one that is."""
    end = re.search(r"[\r\n]", text)
    first = text if end is None else text[: end.start()]
    with _cells_as_long_as(first):
        for separator in dict.fromkeys((usual, ",", ";", "\t")):
            if len(next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])) > 1:
                return separator
    return usual


@contextmanager
def _cells_as_long_as(text: str) -> Iterator[None]:
    """Let the csv module read cells of any length; its limit is 131,072 characters."""
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _from_line(text: str, number: int) -> Iterator[str]:
    """Yield the lines of a text from one on, counted from 1, with their ends."""
    for line, content in enumerate(io.StringIO(text, newline=""), 1):
        if line >= number:
            yield content


def _is_open(text: str, separator: str, skip_spaces: bool) -> bool:
    """Return whether the text ends within a quoted cell."""
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter=separator, skipinitialspace=skip_spaces, strict=True)
    with _cells_as_long_as(text):
        try:
            list(rows)
        except csv.Error as error:
            return str(error) == "unexpected end of data"
    return False
