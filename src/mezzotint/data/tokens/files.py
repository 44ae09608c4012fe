"""Files that hold text or tokens: folders, text files, CSV tables, integer arrays.

Whatever they are, the outcome is a list of texts, or of token numbers, each with a label where
there is one.
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
"""Suffixes of all files of texts or tokens; a file without one is text."""


@dataclass(frozen=True)
class Text:
    """One text, or one row of token numbers.

    Attributes:
        content: the text; or integers `[T]`, negative where there is no token.
        label: its class, by name.
        test: whether its file says that it is for scoring.
        id: what it is called.
    """

    content: str | npt.NDArray[np.int64]
    label: str | None
    test: bool
    id: str


def read_texts(path: Path, unit: Unit, text: str, label: str, x: str) -> list[Text]:
    """All texts of a file or a folder, without those that are empty.

    Args:
        path: of a folder, or of a `.txt`, `.csv`, `.tsv`, `.npz` or `.npy` file.
        unit: whether a line of a text file is a text, or the whole file.
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
        what = f"the suffix {path.suffix!r}" if path.exists() else "a path that does not exist"
        raise ValueError(
            f"{path}: got {what}; allowed are a folder of text files, and .txt, .csv, .tsv, .npz and .npy: check the "
            "path"
        )
    kept = [
        item
        for item in found
        if (item.content.strip() if isinstance(item.content, str) else item.content.size)
    ]
    if not kept:
        raise ValueError(
            f"{path} is empty: it holds no text and no token; allowed is one at least: check the file"
        )
    return kept


def _file(path: Path, unit: Unit, name: str, label: str | None, test: bool) -> list[Text]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as UTF-8 text ({error}); allowed is UTF-8: convert it, or leave it out"
        ) from None
    if unit == "file":
        return [Text(content, label, test, name)]
    return [
        Text(line, label, test, f"{name}:{n:06d}") for n, line in enumerate(content.splitlines(), 1)
    ]


def _folder(root: Path, unit: Unit) -> list[Text]:
    """Text files below a folder; folders are classes and splits as those of images are."""
    listing = scan(str(root), TEXTS, "text files")
    splits = listing.splits()
    scored = next((name for name in SPLITS[1:] if name in splits), None)
    if not listing.images:
        raise ValueError(
            f"{root} holds no text file; allowed are {', '.join(sorted(TEXTS))}: check the path"
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
            f"{path} cannot be read as UTF-8 text ({error}); check the path and the encoding"
        ) from None
    reader = csv.reader(
        content.splitlines(keepends=True), delimiter="\t" if path.suffix == ".tsv" else ","
    )
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise ValueError(
            f"{path} is empty: it holds no text and no token; allowed is one at least: check the file"
        )
    if text not in header:
        raise ValueError(
            f"{path} has the columns {', '.join(header)}; allowed are those of its first line, and {text!r} is not "
            "among them: name the column of the texts with text="
        )
    place, named = header.index(text), header.index(label) if label in header else None
    found: list[Text] = []
    for row in reader:
        if row and len(row) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: got {len(row)} cells; allowed are {len(header)}, as in the first "
                "line: put a text with a separator into quotes"
            )
        if row:
            own = None if named is None else row[named].strip() or None
            found.append(Text(row[place], own, False, f"{path.stem}/{len(found):06d}"))
    return found


def _arrays(path: Path, x: str, y: str) -> list[Text]:
    """Integers `[N, L]`, or one long row `[T]`; in an `.npz` maybe with labels."""
    arrays = numpy_arrays(path, "is a file of integers", single=x)
    if x not in arrays:
        raise ValueError(
            f"{path} has no array {x!r}; it has {', '.join(arrays) or 'none'}: name the tokens with x="
        )
    values = np.atleast_2d(arrays[x])
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"{path}: {x} is of type {values.dtype} and shape {arrays[x].shape}; allowed are integers [N, L] or [T]: "
            "pad ragged rows with -1"
        )
    labels = arrays.get(y)
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(
            f"{path}: {y} has the shape {labels.shape}; allowed are {len(values)} entries, one for each row"
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
    """A label as a name; negative numbers and empty strings are none."""
    text = str(label)
    return None if text == "" or (label.dtype.kind == "i" and label < 0) else text
