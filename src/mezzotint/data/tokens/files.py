"""Read text or tokens from folders, text files, CSV tables and integer arrays.

Every reader returns a list of texts, or of token numbers, with a label if there is one.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.folder import SPLITS, class_of, scan, split_of
from mezzotint.data.numpy_files import numpy_arrays

Unit = Literal["line", "file"]

TEXTS = frozenset((".txt", ".text", ".md"))
TABLES = frozenset((".csv", ".tsv"))
ARRAYS = frozenset((".npz", ".npy"))
FILES = TEXTS | TABLES | ARRAYS | {""}
"""Suffixes of all supported files; a file without one is text."""


@dataclass(frozen=True)
class Text:
    """One text, or one row of token numbers.

    Attributes:
        content: the text; or integers `[T]`, negative for padding.
        label: name of its class.
        test: whether its folder marks it as a test sample.
        id: id of the sample.
    """

    content: str | npt.NDArray[np.int64]
    label: str | None
    test: bool
    id: str


def read_texts(path: Path, unit: Unit, text: str, label: str, x: str) -> list[Text]:
    """Read all non-empty texts of a file or a folder.

    Args:
        path: path of a folder, or of a `.txt`, `.csv`, `.tsv`, `.npz` or `.npy` file.
        unit: `line` makes each line of a text file a text, `file` the whole file.
        text: column of the texts in a table.
        label: column of the labels in a table, or their array in an `.npz`.
        x: array of the tokens in an `.npz`.

    Raises:
        ValueError: when there is nothing to read.
    """
    if path.is_dir():
        found = _folder(path, unit)
    elif path.suffix in TABLES:
        found = _table(path, text, label)
    elif path.suffix in ARRAYS:
        found = _arrays(path, x, label)
    elif path.is_file() and (path.suffix in TEXTS or not path.suffix):
        found = _file(path, unit, path.name, None, False)
    else:
        wrong = f"has the suffix {path.suffix!r}" if path.exists() else "does not exist"
        raise ValueError(
            f"`{path}` {wrong}. Supported: a folder of text files, .txt, .csv, .tsv, .npz and "
            ".npy. Check `data.path`."
        )
    kept = [
        item
        for item in found
        if (item.content.strip() if isinstance(item.content, str) else item.content.size)
    ]
    if not kept:
        raise ValueError(f"`{path}` is empty: it has no text and no tokens. Check the file.")
    return kept


def _file(path: Path, unit: Unit, name: str, label: str | None, test: bool) -> list[Text]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`{path}` cannot be read as UTF-8 text ({error}). Convert it, or remove it."
        ) from None
    if unit == "file":
        return [Text(content, label, test, name)]
    return [
        Text(line, label, test, f"{name}:{n:06d}") for n, line in enumerate(content.splitlines(), 1)
    ]


def _folder(root: Path, unit: Unit) -> list[Text]:
    """Read text files below a folder; folders are classes and splits as for images."""
    listing = scan(str(root), TEXTS, "text files")
    splits = listing.splits()
    scored = next((name for name in SPLITS[1:] if name in splits), None)
    if not listing.images:
        raise ValueError(
            f"`{root}` has no text files. Supported: {', '.join(sorted(TEXTS))}. Check `data.path`."
        )
    found: list[Text] = []
    for name in listing.images:
        split = split_of(name, splits)
        if split in (None, "train", scored):
            found += _file(
                root / name,
                unit,
                name,
                class_of(name, split),
                split is not None and split == scored,
            )
    return found


def _table(path: Path, text: str, label: str) -> list[Text]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`{path}` cannot be read as UTF-8 text ({error}). Check the path and the encoding."
        ) from None
    reader = csv.reader(
        content.splitlines(keepends=True), delimiter="\t" if path.suffix == ".tsv" else ","
    )
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise ValueError(f"`{path}` is empty: it has no text and no tokens. Check the file.")
    if text not in header:
        raise ValueError(
            f"`{path}` has no column {text!r}, only {', '.join(header)}. Name the column of the "
            "texts with `data.text`."
        )
    column, named = header.index(text), header.index(label) if label in header else None
    found: list[Text] = []
    for row in reader:
        if row and len(row) != len(header):
            raise ValueError(
                f"`{path}`, line {reader.line_num}, must have {len(header)} cells, as the first "
                f"line, got {len(row)}. Put a text with a separator into quotes."
            )
        if row:
            own = None if named is None else row[named].strip() or None
            found.append(Text(row[column], own, False, f"{path.stem}/{len(found):06d}"))
    return found


def _arrays(path: Path, x: str, y: str) -> list[Text]:
    """Read integers `[N, L]`, or one long row `[T]`, and the labels of an `.npz`."""
    arrays = numpy_arrays(path, "a file of integers", single=x)
    if x not in arrays:
        raise ValueError(
            f"`{path}` has no array {x!r}, only {', '.join(arrays) or 'none'}. Name the tokens "
            "with `data.x`."
        )
    values = np.atleast_2d(arrays[x])
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{path}`: {x} must be integers [N, L] or [T], got {values.dtype} of shape "
            f"{arrays[x].shape}. Pad ragged rows with -1."
        )
    labels = arrays.get(y)
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(
            f"`{path}`: {y} must have {len(values)} entries, one for each row, got shape "
            f"{labels.shape}. Correct the array."
        )
    return [
        Text(
            row.astype(np.int64),
            None if labels is None else _name(labels[i]),
            False,
            f"{path.stem}/{i:06d}",
        )
        for i, row in enumerate(values)
    ]


def _name(label: Any) -> str | None:
    """Return a label as a name; `None` for negative numbers and empty strings."""
    text = str(label)
    return None if text == "" or (label.dtype.kind == "i" and label < 0) else text
