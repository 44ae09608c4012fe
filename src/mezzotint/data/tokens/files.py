"""Read text or tokens from folders, text files, CSV tables and integer arrays.

Every reader returns a list of texts, or of token numbers, with a label if there is one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.columns import ColumnUse, chosen_name
from mezzotint.data.formats.delimited import SEPARATORS, lines_of, read_text, read_text_table
from mezzotint.data.formats.numpy_files import (
    array_uses,
    label_names,
    named_array,
    numpy_arrays,
    one_column,
)
from mezzotint.data.listing.folder import scan
from mezzotint.data.listing.layout import parts_of

Unit = Literal["line", "file"]

TEXTS = frozenset((".txt", ".text", ".md"))
ARRAYS = frozenset((".npz", ".npy"))
FILES = TEXTS | SEPARATORS.keys() | ARRAYS | {""}
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


def read_texts(
    path: Path, unit: Unit, text: str, label: str | None, x: str
) -> tuple[list[Text], list[ColumnUse]]:
    """Read all non-empty texts of a file or a folder, and what its columns are used for.

    Args:
        path: path of a folder, or of a `.txt`, `.csv`, `.tsv`, `.npz` or `.npy` file.
        unit: `line` makes each line of a text file a text, `file` the whole file.
        text: column of the texts in a table.
        label: column of the labels in a table, or their array in an `.npz`.
        x: array of the tokens in an `.npz`.

    Raises:
        ValueError: when there is nothing to read.
    """
    suffix = path.suffix.lower()
    uses: list[ColumnUse] = []
    if path.is_dir():
        found = _folder(path, unit)
    elif suffix in SEPARATORS:
        found, uses = _table(path, text, label)
    elif suffix in ARRAYS:
        found, uses = _arrays(path, x, label)
    elif path.is_file() and (suffix in TEXTS or not suffix):
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
    return kept, uses


def _file(path: Path, unit: Unit, name: str, label: str | None, test: bool) -> list[Text]:
    content = read_text(path)
    if unit == "file":
        return [Text(content, label, test, name)]
    return [
        Text(line, label, test, f"{name}:{n:06d}") for n, line in enumerate(lines_of(content), 1)
    ]


def notes_on_folder(path: Path) -> tuple[str, ...]:
    """Say what of a folder is not read; nothing of a file."""
    if not path.is_dir():
        return ()
    return parts_of(scan(str(path), TEXTS, "text files"), "text files").notes


def _folder(root: Path, unit: Unit) -> list[Text]:
    """Read text files below a folder; folders are classes and splits as for images."""
    listing = scan(str(root), TEXTS, "text files")
    parts = parts_of(listing, "text files")
    if not parts.train:
        why = f" ({'; '.join(parts.notes)})" if parts.notes else ""
        raise ValueError(
            f"`{root}` has no text files{why}. Supported: {', '.join(sorted(TEXTS))}. Check "
            "`data.path`."
        )
    found: list[Text] = []
    for test, names in ((False, parts.train), (True, parts.scored)):
        for name in names:
            found += _file(root / name, unit, name, parts.layout.class_of(name), test)
    return found


def _table(path: Path, text: str, label: str | None) -> tuple[list[Text], list[ColumnUse]]:
    """Read a table; a text keeps its spaces and line ends, and no word of it is missing."""
    if not read_text(path, "a table of UTF-8 text").strip():
        raise ValueError(f"`{path}` is empty: it has no text and no tokens. Check the file.")
    table = read_text_table(path, keep_spaces=True)
    if text not in table.header:
        raise ValueError(
            f"`{path}` has no column {text!r}, only {', '.join(table.header)}. Name the column of "
            "the texts with `data.text`."
        )
    label = chosen_name(
        label, table.header, default="label", key="data.label", path=path, noun="column"
    )
    column = table.header.index(text)
    labels = [None] * len(table.rows) if label is None else table.column(label)
    found = [
        Text(row[column], own or None, False, f"{path.stem}/{i:06d}")
        for i, (row, own) in enumerate(zip(table.rows, labels, strict=True))
    ]
    uses = {text: "text", label: "label"}
    return found, [ColumnUse(name, uses.get(name, "left out")) for name in table.header]


def _arrays(path: Path, x: str, y: str | None) -> tuple[list[Text], list[ColumnUse]]:
    """Read integers `[N, L]`, or one long row `[T]`, and the labels of an `.npz`."""
    arrays = numpy_arrays(path, "a file of integers", single=x)
    x = named_array(x, arrays, path, "tokens")
    if y == "label" and y not in arrays and "y" in arrays:
        y = "y"
    y = chosen_name(y, list(arrays), default="label", key="data.label", path=path, noun="array")
    values = np.atleast_2d(arrays[x])
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{path}`: {x} must be integers [N, L] or [T], got {values.dtype} of shape "
            f"{arrays[x].shape}. Pad ragged rows with -1."
        )
    labels = None if y is None else one_column(arrays[y])
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(
            f"`{path}`: {y} must have {len(values)} entries, one for each row, got shape "
            f"{labels.shape}. Correct the array."
        )
    names = [None] * len(values) if labels is None else label_names(labels)
    found = [
        Text(row.astype(np.int64), names[i], False, f"{path.stem}/{i:06d}")
        for i, row in enumerate(values)
    ]
    return found, array_uses(arrays, {x: "tokens", y: "label"})
