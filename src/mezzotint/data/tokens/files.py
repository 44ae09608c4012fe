"""Read text or tokens from folders, text files, tables (CSV, parquet, Arrow) and integer arrays.

Every reader returns a list of texts, or of token numbers, with a label if there is one.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.columns import ColumnUse, chosen_name
from mezzotint.data.formats.delimited import SEPARATORS, lines_of, read_text, read_text_table
from mezzotint.data.formats.numpy_files import (
    CLASSES,
    array_uses,
    cell_names,
    label_names,
    named_array,
    numpy_arrays,
    one_column,
    with_class_names,
)
from mezzotint.data.formats.parquet import SUFFIXES as PARQUET
from mezzotint.data.formats.parquet import read_rows
from mezzotint.data.listing.folder import packed_suffix, scan
from mezzotint.data.listing.groups import check_pattern, column_of_groups, source_of
from mezzotint.data.listing.layout import (
    SPLIT_COLUMN,
    Parts,
    nfc,
    notes_on_splits,
    parts_of,
    role_of,
    roles_of,
    rows_of_splits,
)

Unit = Literal["line", "file"]

TEXTS = frozenset((".txt", ".text", ".md"))
ARRAYS = frozenset((".npz", ".npy"))
FILES = TEXTS | SEPARATORS.keys() | ARRAYS | PARQUET | {""}
"""Suffixes of all supported files; a file without one is text."""


@dataclass(frozen=True)
class Text:
    """One text, or one row of token numbers.

    Attributes:
        content: the text; or integers `[T]`, negative for padding.
        label: name of its class.
        split: name of the split that scores it, by its folder or column; `None` for training.
        id: id of the sample.
        source: person, file or other source of the text, if known.
    """

    content: str | npt.NDArray[np.int64]
    label: str | None
    split: str | None
    id: str
    source: str | None = None


def read_texts(
    path: Path,
    unit: Unit,
    text: str | None,
    label: str | None,
    group: str | None,
    unreadable: list[tuple[str, str]],
) -> tuple[list[Text], list[ColumnUse], list[str]]:
    """Read all texts of a path.

    Args:
        path: a folder or a file; a folder of parquet or Arrow files is one table.
        unit: `line` makes each line of a text file a text, `file` the whole file.
        text: column of the texts in a table, by default `text`, or `sentence` in parquet and Arrow
            files; or array of the tokens in an `.npz`, by default `x`.
        label: column of the labels in a table, or their array in an `.npz`.
        group: column or array of the people or other sources; for text files a regular expression
            over their path.
        unreadable: takes the name and the reason of each file of a folder that is left out.

    Returns:
        The texts; what the columns or arrays of a file are used for; and sentences on what of it is
        left out. Empty lines of a text file are no texts.

    Raises:
        ValueError: when there is nothing to read.
    """
    suffix = path.suffix.lower()
    uses: list[ColumnUse] = []
    notes: list[str] = []
    if packed_suffix(str(path)) in PARQUET:
        found, uses, notes = _table(path, text, label, group)
    elif path.is_dir():
        check_pattern(group)
        found = _folder(path, unit, group, unreadable)
    elif suffix in SEPARATORS:
        found, uses, notes = _table(path, text, label, group)
    elif suffix in ARRAYS:
        found, uses = _arrays(path, text or "x", label, group)
    elif path.is_file() and (suffix in TEXTS or not suffix):
        check_pattern(group)
        found = _file(path, unit, path.name, None, None, group)
    else:
        wrong = f"has the suffix {path.suffix!r}" if path.exists() else "does not exist"
        raise ValueError(
            f"`{path}` {wrong}. Supported: a folder of text files, .txt, .csv, .tsv, .parquet, "
            ".arrow, .npz and .npy. Check `data.path`."
        )
    kept = [item for item in found if _has_content(item)]
    if not kept:
        bad = f" ({len(unreadable)} unreadable, such as {unreadable[0][0]})" if unreadable else ""
        raise ValueError(f"`{path}` is empty: it has no text and no tokens{bad}. Check the file.")
    empty = [item.id for item in found if not _has_content(item)]
    if empty and (uses or unit == "file"):
        notes = [*notes, f"{len(empty):,} texts are empty and left out, such as `{empty[0]}`"]
    return kept, uses, notes


def _has_content(text: Text) -> bool:
    content = text.content
    return bool(content.strip() if isinstance(content, str) else (content >= 0).any())


def _file(
    path: Path, unit: Unit, name: str, label: str | None, split: str | None, group: str | None
) -> list[Text]:
    content, source = read_text(path), source_of(name, label, group)
    if unit == "file":
        return [Text(content, label, split, name, source)]
    return [
        Text(line, label, split, f"{name}:{n:06d}", source or name)
        for n, line in enumerate(lines_of(content), 1)
    ]


def reason_of(error: ValueError) -> str:
    """Return the reason in brackets of a message about a file."""
    found = re.search(r"\((.*?)\)\. ", str(error))
    return found[1] if found else str(error)


def notes_on_folder(path: Path) -> tuple[str, ...]:
    """Say what of a folder is not read; nothing of a file."""
    if not path.is_dir() or packed_suffix(str(path)):
        return ()
    parts = parts_of(scan(str(path), TEXTS, "text files"), "text files")
    left = [name for name in parts.train if name not in _trained_on(parts)]
    return (*parts.notes, *(f"`{name}` is not trained on, for its name" for name in left[:4]))


def _trained_on(parts: Parts) -> list[str]:
    """Return the files to train on: without `test.txt` and `valid.txt` next to a `train.txt`."""
    roles = [role_of(Path(name).stem) if "/" not in name else None for name in parts.train]
    if "train" not in roles:
        return parts.train
    return [n for n, role in zip(parts.train, roles, strict=True) if role in (None, "train")]


def _folder(
    root: Path, unit: Unit, group: str | None, unreadable: list[tuple[str, str]]
) -> list[Text]:
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
    first: ValueError | None = None
    for split, names in ((None, _trained_on(parts)), (parts.name, parts.scored)):
        for name in names:
            label = parts.layout.class_of(name)
            try:
                found += _file(root / name, unit, name, label, split, group)
            except ValueError as error:
                first = first or error
                unreadable.append((name, reason_of(error)))
    if not found and first is not None:
        raise first
    return found


def _table(
    path: Path, text: str | None, label: str | None, group: str | None
) -> tuple[list[Text], list[ColumnUse], list[str]]:
    """Read a table; a text keeps its spaces and line ends, and no word of it is missing."""
    header, column, count = _columns(path)
    if text is None:
        text = "sentence" if "text" not in header and path.suffix not in SEPARATORS else "text"
        text = text if text in header else "text"
    if text not in header:
        raise ValueError(
            f"`{path}` has no column {text!r}, only {', '.join(header)}. Name the column of "
            "the texts with `data.text`."
        )
    label = chosen_name(label, header, default="label", key="data.label", path=path, noun="column")
    labels = [None] * count if label is None else _words(column(label))
    others = [name for name in header if name not in (text, label)]
    roles = roles_of(_words(column(SPLIT_COLUMN))) if SPLIT_COLUMN in others else None
    used, scored, split = rows_of_splits(roles, [bool(own) for own in labels])
    _require_group(group, header, path, "column")
    group = group or column_of_groups(others)
    who = [None] * count if group is None else _words(column(group))
    found = [
        Text(
            content,
            nfc(own) if own else None,
            split if test else None,
            f"{path.stem}/{i:06d}",
            name or None,
        )
        for i, (content, own, keep, test, name) in enumerate(
            zip(
                _contents(column(text, stripped=False), text, path),
                labels,
                used,
                scored,
                who,
                strict=True,
            )
        )
        if keep
    ]
    uses = {text: "text", label: "label", group: "source"}
    uses |= {} if roles is None else {SPLIT_COLUMN: "split"}
    notes = notes_on_splits(len(used) - sum(used))
    return found, [ColumnUse(name, uses.get(name, "left out")) for name in header], notes


def _columns(path: Path) -> tuple[list[str], Callable[..., list[Any]], int]:
    """Return the names of a table's columns, what gives the cells of one, and the rows.

    Cells of a text table are stripped, unless they are asked for with `stripped=False`.
    """
    if path.suffix.lower() in SEPARATORS:
        if not read_text(path, "a table of UTF-8 text").strip():
            raise ValueError(f"`{path}` is empty: it has no text and no tokens. Check the file.")
        table = read_text_table(path, keep_spaces=True)
        return table.header, table.column, len(table.rows)
    rows = read_rows(str(path))
    return rows.column_names, lambda name, **_: rows.column(name).to_pylist(), len(rows)


def _words(cells: Sequence[Any]) -> list[str]:
    return [name or "" for name in cell_names(cells)]


def _contents(cells: Sequence[Any], name: str, path: Path) -> Iterator[str | npt.NDArray[np.int64]]:
    """Yield texts, or the token numbers of cells that are lists of integers."""
    for cell in cells:
        if isinstance(cell, list) and all(type(value) is int for value in cell):
            yield np.array(cell, np.int64)
        elif cell is None or isinstance(cell, str):
            yield cell or ""
        else:
            raise ValueError(
                f"`{path}`: the column {name!r} must be texts or lists of integers, got "
                f"{type(cell).__name__}. Set `data.text` to another column."
            )


def _arrays(
    path: Path, x: str, y: str | None, group: str | None
) -> tuple[list[Text], list[ColumnUse]]:
    """Read integers `[N, L]`, or one long row `[T]`, and labels and sources of an `.npz`."""
    arrays = numpy_arrays(path, "a file of integers", single=x)
    x = named_array(x, arrays, path, "tokens", key="data.text")
    _require_group(group, list(arrays), path, "array")
    if y == "label" and y not in arrays and "y" in arrays:
        y = "y"
    y = chosen_name(y, list(arrays), default="label", key="data.label", path=path, noun="array")
    values = np.atleast_2d(arrays[x])
    if values.ndim != 2 or values.dtype.kind not in "iu":
        raise ValueError(
            f"`{path}`: {x} must be integers [N, L] or [T], got {values.dtype} of shape "
            f"{arrays[x].shape}. Pad ragged rows with -1."
        )
    labels = None if y is None else with_class_names(arrays[y], arrays, path)
    if labels is not None and labels.shape != (len(values),):
        raise ValueError(
            f"`{path}`: {y} must have {len(values)} entries, one for each row, got shape "
            f"{labels.shape}. Correct the array."
        )
    names = [None] * len(values) if labels is None else label_names(labels)
    group = group or column_of_groups((n for n in arrays if n not in (x, y)), arrays=True)
    who = [None] * len(values) if group is None else label_names(one_column(arrays[group]))
    if len(who) != len(values):
        raise ValueError(
            f"`{path}`: {group} must have {len(values)} entries, one for each row, got {len(who)}. "
            "Correct the array, or `data.group`."
        )
    found = [
        Text(row.astype(np.int64), names[i], None, f"{path.stem}/{i:06d}", who[i] or None)
        for i, row in enumerate(values)
    ]
    return found, array_uses(arrays, {CLASSES: "names", x: "tokens", y: "label", group: "source"})


def _require_group(group: str | None, names: Sequence[str], path: Path, noun: str) -> None:
    """Refuse a `group` that a file does not have."""
    if group is not None and group not in names:
        raise ValueError(
            f"`{path}` has no {noun} {group!r}, only {', '.join(names)}. Correct `data.group`."
        )
