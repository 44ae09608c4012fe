"""Read the columns of tables: numbers with NaN, or text with empty cells, for missing values.

A column of text keeps its words: `None` and `NA` are missing only in a column of numbers or times;
an empty cell and `?` are missing everywhere. A label or category that is a number keeps all of its
digits.
"""

import datetime
import decimal
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.arff import read_arff
from mezzotint.data.formats.columns import is_row_number
from mezzotint.data.formats.delimited import (
    MISSING,
    SEPARATORS,
    TextTable,
    Values,
    first_odd,
    read_text_table,
    read_values,
)
from mezzotint.data.formats.numpy_files import (
    CLASSES,
    cell_names,
    label_names,
    numpy_arrays,
    with_class_names,
)
from mezzotint.data.formats.parquet import SUFFIXES as PARQUET
from mezzotint.data.formats.parquet import is_list, lists_of, read_rows

Column = npt.NDArray[np.float64] | npt.NDArray[np.str_]

SUFFIXES = frozenset({*SEPARATORS, ".arff", ".npy", ".npz", *PARQUET})
"""Suffixes of tables, in lower case."""

_ODD = 0.1  # fraction of odd cells up to which a column was meant to have numbers
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Columns(dict[str, Column]):
    """Columns by name, in the order of the file.

    Attributes:
        path: path of the file.
        left_out: the reason for each column of the file that is not among them.
        times: names of the columns that are seconds since 1970.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.left_out: dict[str, str] = {}
        self.times: set[str] = set()

    def leave_out(self, name: str, reason: str) -> None:
        """Remove a column, if it is there, and keep the reason."""
        if self.pop(name, None) is not None:
            self.left_out[name] = reason


def read_table(
    path: Path,
    y: str | None,
    text: Collection[str] = (),
    numbers: Collection[str] | None = None,
) -> Columns:
    """Read the columns of a file, by name; row numbers are left out.

    Args:
        path: path of a `.csv`, `.tsv`, `.arff`, `.npz`, `.parquet` or `.arrow` file, or of a folder
            of the last two, whose splits become a column `split`.
        y: name of the labels, which an `.npz` may also call `y`; they are read as text.
        text: names of further columns to read as text, whatever they hold.
        numbers: names of the columns that must have numbers or times; by default this is decided by
            their cells.

    Raises:
        ValueError: when the file is damaged, ragged or empty, or a column of numbers has a cell
            that is none.
    """
    words = {*text, *([] if y is None else [y])}
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        columns = _of_text(read_text_table(path), words, numbers)
    elif suffix == ".arff":
        columns = _of_arff(path, words)
    elif suffix in (".npy", ".npz"):
        columns = _of_npz(path, y, words)
    elif suffix in PARQUET or path.is_dir():
        columns = _of_parquet(path, y, words)
    else:
        raise ValueError(
            f"`{path}` must be {', '.join(sorted(SUFFIXES))}, got the suffix {path.suffix!r}. "
            "Convert the file."
        )
    for name in [name for name in columns if name not in {*words, *(numbers or ())}]:
        if is_row_number(name, columns[name]):
            columns.leave_out(name, "numbers the rows")
    return columns


def sample_table(name: str) -> tuple[Columns, Column]:
    """Load a table of scikit-learn and its labels."""
    from sklearn import datasets  # imported late: it takes 1.4 s, and only this data needs it

    loaded = getattr(datasets, f"load_{name}")()
    columns = Columns(name)
    for i, title in enumerate(loaded.feature_names):
        columns[str(title)] = loaded.data[:, i].astype(np.float64)
    return columns, np.array([str(loaded.target_names[t]) for t in loaded.target])


def words_of(column: Column) -> npt.NDArray[np.str_]:
    """Return a column as words, empty where a value is missing; no two numbers share a word."""
    if column.dtype.kind == "U":
        return column.astype(str)
    return np.array(["" if v != v else _word(v) for v in column.tolist()], np.str_)


def _word(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def _of_text(table: TextTable, words: Collection[str], numbers: Collection[str] | None) -> Columns:
    if not table.rows:
        raise ValueError(
            f"`{table.path}` has no rows. It needs a line of names, and lines of values. Check the "
            "file."
        )
    _require_names(table)
    columns = Columns(table.path)
    for name in table.header:
        cells = table.column(name)
        must = numbers is not None and name in numbers
        if name in words:
            columns[name] = _names(cells)
            continue
        if numbers is not None and not must:  # `ColumnCode` knows how training wrote them
            columns[name] = np.array(["" if cell == "?" else cell for cell in cells], np.str_)
            continue
        values = read_values(cells, table.separator)
        known = sum(cell.lower() not in MISSING for cell in cells)
        if values.kind == "text" and must and known:
            values = Values("number", values.numbers, [first_odd(cells, table.separator)])
        elif (values.kind == "text" and not must) or len(values.odd) > max(1.0, _ODD * known):
            columns[name] = _text(cells)
            continue
        if values.odd:
            noun = "a number" if values.kind == "number" else "a time"
            kept = "in training" if must else f"{known - len(values.odd)} of its {known} cells are"
            other = "" if must else ", or name the column in `data.categorical` or `data.ignore`"
            raise ValueError(
                f"`{table.path}`, line {table.lines[values.odd[0]]}: {cells[values.odd[0]]!r} in "
                f"the column {name!r} is not {noun}, as {kept}. Correct the cell or empty it"
                f"{other}."
            )
        if not must and values.kind == "number" and _are_names(cells, values.numbers):
            columns[name] = _text(cells)
            continue
        columns[name] = values.numbers
        columns.times |= {name} if values.kind == "time" else set()
    return columns


def _are_names(cells: Any, numbers: npt.NDArray[np.float64]) -> bool:
    """Return whether different whole numbers would become equal: identifiers, as `007` and `7`.

    So do those that are too long for 64 bits.
    """
    # Only text has leading zeros.
    text = len(cells) > 0 and isinstance(cells[0], str)
    known = np.flatnonzero(np.isfinite(numbers) if text else np.abs(numbers) > 2.0**53)
    words = {str(cells[i]) for i in known.tolist()} - {"-0"}
    if not any(len(word) > 15 or word[:1] == "0" for word in words):
        return False
    whole = all(re.fullmatch(r"-?[0-9]+", word) for word in words)
    return whole and len(words) > len(np.unique(numbers[known]))


def _require_names(table: TextTable) -> None:
    """Refuse a first line of numbers that is a row and no line of names."""
    header = read_values(table.header, table.separator)
    ordered = bool((np.diff(header.numbers) > 0).all())  # wavelengths and counts are names
    if header.kind == "number" and not header.odd and not ordered:
        raise ValueError(
            f"`{table.path}` must have column names in its first line, got the numbers "
            f"{', '.join(table.header[:6])}. Put a line of names before them."
        )


def _text(cells: Sequence[str]) -> npt.NDArray[np.str_]:
    known = ["" if cell == "?" else cell for cell in cells]
    # One word that stands for a missing value, and no other: the column has no value at all.
    alone = {cell.lower() for cell in known if cell}
    empty = len(alone) == 1 and alone <= {"na", "n/a", "nan", "null", "none", "<na>", "#n/a"}
    return np.array([""] * len(known) if empty else known, np.str_)


def _names(cells: Sequence[str]) -> npt.NDArray[np.str_]:
    """Return labels or categories; whole numbers lose the `.0` that pandas gives some of them."""
    words = ["" if cell == "?" else cell for cell in cells]
    if all(re.fullmatch(r"-?[0-9]+(\.0+)?", word) for word in words if word):
        words = [word.partition(".")[0] for word in words]
    return np.array(words, np.str_)


def _of_arff(path: Path, words: Collection[str]) -> Columns:
    content = read_arff(path)
    columns = Columns(str(path))
    for position, name in enumerate(content.names):
        cells = [row[position] for row in content.rows]
        values = read_values(cells)
        if name in words or not content.numeric[position]:
            columns[name] = _names(cells)
        elif values.kind == "number" and not values.odd:
            columns[name] = values.numbers
        elif set(cells) <= {"?", ""}:
            columns[name] = _text(cells)
        else:
            row = values.odd[0] if values.odd else 0
            raise ValueError(
                f"`{path}`, line {content.lines[row]}: {cells[row]!r} in the column {name!r} is "
                "not a number, as its @attribute line says. Correct the cell, or write ?."
            )
    return columns


def _of_npz(path: Path, y: str | None, words: Collection[str]) -> Columns:
    arrays = numpy_arrays(path, "a file of arrays", single="x")
    if y is not None and y not in arrays and "y" in arrays:
        arrays = {y if name == "y" else name: array for name, array in arrays.items()}
    arrays = {
        name: array[:, 0] if name in words and array.ndim == 2 and array.shape[1] == 1 else array
        for name, array in arrays.items()
    }
    columns = Columns(str(path))
    if y in arrays and CLASSES in arrays and CLASSES not in (y, *words):
        arrays[y] = with_class_names(arrays[y], arrays, path)
        del arrays[CLASSES]
        columns.left_out[CLASSES] = "names of the labels"
    matrices = [n for n, array in arrays.items() if array.ndim == 2 and n not in words]
    if len(matrices) > 1 and "x" not in matrices:
        raise ValueError(
            f"`{path}` must have one matrix of numbers, got {', '.join(matrices)}. Call the one to "
            "use x."
        )
    if matrices:
        # Next to a matrix, other arrays are seldom features: row numbers, folds, other splits.
        kept = "x" if "x" in matrices else matrices[0]
        columns.left_out |= {
            name: f"an array next to the matrix {kept}"
            for name in arrays
            if name != kept and name not in words
        }
        arrays = {n: array for n, array in arrays.items() if n not in columns.left_out}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"`{path}` must have arrays of one number of rows, got {sorted(lengths)}. Correct the "
            "file."
        )
    for name, array in arrays.items():
        if (
            array.dtype.kind not in "fiubUM"
            or array.ndim not in (1, 2)
            or (array.ndim == 2 and name in words)
        ):
            raise ValueError(
                f"`{path}`: {name} must be numbers or text, one per row, or a matrix of numbers, "
                f"got {array.dtype} of shape {array.shape}. Correct the array."
            )
        for title, part in _parts(name, array):
            long = part.dtype.kind in "iu" and _are_names(part, part.astype(np.float64))
            if name == y:
                columns[title] = np.array([label or "" for label in label_names(part)], np.str_)
            else:
                as_words = name in words or long
                columns[title] = _array_words(part) if as_words else _array_values(part)
            columns.times |= {title} if part.dtype.kind == "M" and name not in words else set()
    return columns


def _parts(name: str, array: npt.NDArray[Any]) -> list[tuple[str, npt.NDArray[Any]]]:
    if array.ndim < 2:
        return [(name, array)]
    return [(f"{name}{i}", array[:, i]) for i in range(array.shape[1])]


def _array_words(array: npt.NDArray[Any]) -> Column:
    if array.dtype.kind != "f":
        return array.astype(str)
    # The shortest text of each type: 0.1 of float32 is no 0.10000000149.
    return np.array(["" if v != v else _word(float(str(v))) for v in array], np.str_)


def _array_values(array: npt.NDArray[Any]) -> Column:
    if array.dtype.kind == "U":
        return array.astype(str)
    if array.dtype.kind == "M":
        micros = array.astype("datetime64[us]")
        return np.where(np.isnat(micros), np.nan, micros.astype(np.int64) / 1e6)
    return array.astype(np.float64)


def _of_parquet(path: Path, y: str | None, words: Collection[str]) -> Columns:
    table = read_rows(str(path))
    columns = Columns(str(path))
    for name in table.column_names:
        if is_list(table.schema.field(name).type) and name not in words:
            matrix = _of_lists(lists_of(table, name, str(path)), name, path)
            columns |= dict(_parts(name, matrix))
            continue
        values = table.column(name).to_pylist()
        known = [value for value in values if value is not None]
        if any(isinstance(value, (list, dict, bytes)) for value in known):
            raise ValueError(
                f"`{path}`: the column {name!r} must be numbers, times, text or lists of numbers, "
                f"got {table.schema.field(name).type}. Leave it out of the file."
            )
        if name == y:
            columns[name] = np.array([label or "" for label in cell_names(values)], np.str_)
            continue
        plain = all(isinstance(v, (int, float, decimal.Decimal)) for v in known)
        times = bool(known) and all(
            isinstance(v, (datetime.date, datetime.timedelta, datetime.time)) for v in known
        )
        read = plain or times
        cells = np.array([_cell_number(v) for v in values], np.float64) if read else None
        if name in words or cells is None or (plain and _are_names(values, cells)):
            columns[name] = np.array([_cell_word(value) for value in values], np.str_)
        else:
            columns[name] = cells
            columns.times |= {name} if times else set()
    return columns


def _of_lists(
    rows: list[npt.NDArray[np.float64] | None], name: str, path: Path
) -> npt.NDArray[np.float64]:
    """Return lists as a matrix, a column for each position; a missing list is a row of NaN."""
    known = [row for row in rows if row is not None]
    lengths = sorted({len(row) for row in known if row.ndim == 1})
    if len(lengths) != 1 or lengths == [0] or any(row.ndim != 1 for row in known):
        found = "lists of lists"
        if all(row.ndim == 1 for row in known):
            found = f"{lengths[0]} to {lengths[-1]}" if lengths and lengths[-1] else "no numbers"
        raise ValueError(
            f"`{path}`: a table needs lists of one length in the column {name!r}, got {found}. Set "
            "`data.kind=series` to read each list as a series, or leave the column out of the file."
        )
    empty = np.full(lengths[0], np.nan)
    return np.stack([empty if row is None else row for row in rows])


def _cell_word(value: Any) -> str:
    if value is None or value != value:
        return ""
    return _word(value) if isinstance(value, float) else str(value)


def _cell_number(value: Any) -> float:
    """Return a number; of a time the seconds since 1970, of a duration its seconds."""
    if value is None:
        return float("nan")
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):
        return (
            (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)) - _EPOCH
        ).total_seconds()
    if isinstance(value, datetime.date):
        return float((value - _EPOCH.date()).days * 86400)
    if isinstance(value, datetime.time):
        return value.hour * 3600 + value.minute * 60 + value.second + value.microsecond / 1e6
    return float(value)
