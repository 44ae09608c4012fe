"""Files that hold tables, read as columns: numbers with NaN, or text with empty cells, where a value is missing."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mezzotint.data.numpy_files import numpy_arrays

Column = npt.NDArray[np.float64] | npt.NDArray[np.str_]
Columns = dict[str, Column]

_MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}


def read_table(path: Path, y: str | None) -> Columns:
    """The columns of a file, by name.

    Args:
        path: of a `.csv`, `.npz` or `.parquet` file.
        y: name of the labels, which an `.npz` may also call `y`.

    Raises:
        ValueError: when the file is damaged, ragged or empty.
    """
    if path.suffix == ".csv":
        return _read_csv(path)
    if path.suffix == ".npz":
        return _read_npz(path, y)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise ValueError(
        f"{path}: got the suffix {path.suffix!r}; allowed are .csv, .npz and .parquet: convert the file"
    )


def sample_table(name: str) -> tuple[Columns, Column]:
    """A table of scikit-learn and its labels."""
    from sklearn import datasets  # takes 1.4 s to import, and only this data needs it

    loaded = getattr(datasets, f"load_{name}")()
    columns: Columns = {
        str(title): loaded.data[:, i].astype(np.float64)
        for i, title in enumerate(loaded.feature_names)
    }
    return columns, np.array([str(loaded.target_names[t]) for t in loaded.target])


def _read_csv(path: Path) -> Columns:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as UTF-8 text ({error}); allowed is a CSV file: check path and encoding"
        ) from None
    reader = csv.reader(text.splitlines())
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header) or not header:
        raise ValueError(
            f"{path}: got the columns {', '.join(header) or 'none'}; allowed are names in the first line, none twice: "
            "name the columns"
        )
    rows = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: got {len(row)} cells; allowed are {len(header)}, as in the first "
                "line: correct the row"
            )
        rows.append(row)
    if not rows:
        raise ValueError(
            f"{path} has no rows; allowed is a first line of names and lines of values: check the file"
        )
    return {
        name: column(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)
    }


def column(cells: tuple[str, ...]) -> Column:
    """Text as numbers where all of it is numbers, as stripped text else."""
    words = [cell.strip() for cell in cells]
    words = ["" if word.lower() in _MISSING else word for word in words]
    try:
        numbers = np.array([float(word) if word else np.nan for word in words], np.float64)
    except ValueError:
        return np.array(words)
    # A column without any value is neither; as text it has no category, and so no feature.
    return numbers if np.isfinite(numbers).any() else np.array(words)


def _read_npz(path: Path, y: str | None) -> Columns:
    arrays = numpy_arrays(path, "is an .npz file of arrays")
    columns: Columns = {}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"{path} holds arrays of {sorted(lengths)} rows; allowed is one number: correct the file"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubU" or array.ndim > 2:
            raise ValueError(
                f"{path}: {name} is of type {array.dtype} and shape {array.shape}; allowed are numbers or text, one a "
                "row, or a matrix of numbers: correct the array"
            )
        parts = (
            {f"{name}{i}": array[:, i] for i in range(array.shape[1])}
            if array.ndim == 2
            else {name: array}
        )
        for title, part in parts.items():
            title = y if title == "y" and y is not None and y not in arrays else title
            columns[title] = part.astype(str) if part.dtype.kind == "U" else part.astype(np.float64)
    return columns


def _read_parquet(path: Path) -> Columns:
    try:
        from pyarrow import parquet  # an extra: only these files need it
    except ImportError:
        raise ValueError(
            f"{path}: pyarrow is not installed; allowed without it are .csv and .npz: pip install 'mezzotint[parquet]'"
        ) from None
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow has many errors for a damaged file
        detail = " ".join(str(error).split())[:160]
        raise ValueError(
            f"{path} cannot be read ({detail}); allowed is a parquet file: write it again"
        ) from None
    columns: Columns = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        if all(value is None or isinstance(value, (int, float)) for value in values):
            columns[name] = np.array(
                [np.nan if value is None else float(value) for value in values]
            )
        else:
            columns[name] = np.array(["" if value is None else str(value) for value in values])
    return columns
