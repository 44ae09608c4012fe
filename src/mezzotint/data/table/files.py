"""Read the columns of tables: numbers with NaN, or text with empty cells, for missing values."""

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mezzotint.data.numpy_files import numpy_arrays

Column = npt.NDArray[np.float64] | npt.NDArray[np.str_]
Columns = dict[str, Column]

_MISSING = {"", "?", "na", "n/a", "nan", "null", "none"}


def read_table(path: Path, y: str | None) -> Columns:
    """Read the columns of a file, by name.

    Args:
        path: path of a `.csv`, `.npz` or `.parquet` file.
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
        f"`{path}` must be .csv, .npz or .parquet, got the suffix {path.suffix!r}. Convert the "
        "file."
    )


def sample_table(name: str) -> tuple[Columns, Column]:
    """Load a table of scikit-learn and its labels."""
    from sklearn import datasets  # imported late: it takes 1.4 s, and only this data needs it

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
            f"`{path}` cannot be read as UTF-8 text ({error}). Check the path and the encoding."
        ) from None
    reader = csv.reader(text.splitlines())
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) != len(header) or not header:
        raise ValueError(
            f"`{path}` must have unique column names in its first line, got "
            f"{', '.join(header) or 'none'}. Name the columns."
        )
    rows = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"`{path}`, line {reader.line_num}, must have {len(header)} cells, as the first "
                f"line, got {len(row)}. Correct the line."
            )
        rows.append(row)
    if not rows:
        raise ValueError(
            f"`{path}` has no rows. It needs a line of names, and lines of values. Check the file."
        )
    return {
        name: column(cells) for name, cells in zip(header, zip(*rows, strict=True), strict=True)
    }


def column(cells: tuple[str, ...]) -> Column:
    """Convert cells to numbers if all of them are, else to stripped text."""
    words = [cell.strip() for cell in cells]
    words = ["" if word.lower() in _MISSING else word for word in words]
    try:
        numbers = np.array([float(word) if word else np.nan for word in words], np.float64)
    except ValueError:
        return np.array(words)
    # A column without any value becomes text: it has no category, and so gives no feature.
    return numbers if np.isfinite(numbers).any() else np.array(words)


def _read_npz(path: Path, y: str | None) -> Columns:
    arrays = numpy_arrays(path, "an .npz file of arrays")
    columns: Columns = {}
    lengths = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(
            f"`{path}` must have arrays of one number of rows, got {sorted(lengths)}. Correct the "
            "file."
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "fiubU" or array.ndim > 2:
            raise ValueError(
                f"`{path}`: {name} must be numbers or text, one per row, or a matrix of numbers, "
                f"got {array.dtype} of shape {array.shape}. Correct the array."
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
        from pyarrow import parquet  # optional: only these files need it
    except ImportError:
        raise ValueError(
            f"`{path}` is read with pyarrow, which is not installed. Run `pip install "
            "'mezzotint[parquet]'`, or use .csv or .npz."
        ) from None
    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow has many errors for a damaged file
        detail = " ".join(str(error).split())[:160]
        raise ValueError(
            f"`{path}` cannot be read ({detail}). It must be a parquet file. Write it again."
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
