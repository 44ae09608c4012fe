"""Lists of audio files with labels, as they are found beside data sets.

- JSON of AST, AudioMAE and ESC-50: `{"data": [{"wav": path, "labels": "/m/09x0r,/m/05zppz"}, …]}`; of BRIDLE: the list
  alone, without `data`. Labels are separated by commas.
- CSV with a header. The path is in the column `path`, `file`, `filename`, `fname`, `wav` or `slice_file_name`, the
  label in `label`, `labels`, `category`, `class` or `target` (the first of these that is there), and a fold, if any, in
  `fold`; `split` says train, valid or test. Several labels of one file are separated by commas, within quotes.
- A label table, as AudioSet's: CSV with the columns `index`, `mid` and `display_name`. It gives the order and the names
  of the classes.
"""

import csv
import io
import json
from typing import Any

from mezzotint.data.entries import Entry, list_text

PATHS = ("path", "file", "filename", "fname", "wav", "slice_file_name")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
LABELS = ("label", "labels", "category", "class", "target")


def read_list(path: str) -> list[Entry]:
    """Read a list of files, JSON or CSV by its extension.

    Raises:
        ValueError: when it is neither, or an entry lacks what it needs.
    """
    text = list_text(path)
    entries = _from_json(text, path) if path.lower().endswith(".json") else _from_csv(text, path)
    if not entries:
        raise ValueError(f"{path} lists no file; allowed is a list with an entry or more: check the path")
    return entries


def read_label_table(path: str) -> tuple[list[str], list[str]]:
    """Machine ids and names of the classes, in the order of their index.

    Raises:
        ValueError: when a column is missing, or an index is no number, or stands twice.
    """
    rows = _rows(list_text(path), path)
    wanted = ("index", "mid", "display_name")
    if not rows or not set(wanted) <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "nothing"
        raise ValueError(f"{path} has the columns {found}; allowed is a table with {', '.join(wanted)}: check the path")
    try:
        ordered = sorted(rows, key=lambda row: int(row["index"]))
    except ValueError:
        raise ValueError(f"{path} has an index that is no number; allowed are 0, 1, 2, …: correct the table") from None
    if [int(row["index"]) for row in ordered] != list(range(len(rows))):
        raise ValueError(f"{path} has the indices of {len(rows)} classes with gaps or twice; allowed are 0, 1, 2, …")
    return [row["mid"] for row in ordered], [row["display_name"] for row in ordered]


def _from_json(text: str, path: str) -> list[Entry]:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); allowed is a list of files: write it again") from None
    items = content.get("data") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ValueError(
            f'{path} holds a {type(content).__name__} without a list; allowed is [{{"wav": …, "labels": …}}, …], or '
            'the same under "data": write it so'
        )
    entries = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("wav"), str):
            raise ValueError(f'{path}: entry {place} has no "wav"; allowed is {{"wav": path, "labels": "a,b"}}')
        labels = item.get("labels", "")
        if not isinstance(labels, str):
            raise ValueError(f'{path}: entry {place} has labels that are no text; allowed is "a,b": join them')
        entries.append(Entry(item["wav"], _split(labels)))
    return entries


def _from_csv(text: str, path: str) -> list[Entry]:
    rows = _rows(text, path)
    if not rows:
        return []
    where = next((name for name in PATHS if name in rows[0]), None)
    what = next((name for name in LABELS if name in rows[0]), None)
    if where is None:
        raise ValueError(
            f"{path} has the columns {', '.join(rows[0])}; allowed is a header with one of {', '.join(PATHS)}: "
            "name the column of the files so"
        )
    entries = []
    for number, row in enumerate(rows, start=2):
        fold = row.get("fold", "")
        if not row[where] or (fold and not fold.isdecimal()):
            raise ValueError(f"{path}: line {number} has no file, or a fold that is no number; correct or remove it")
        split = row.get("split", "").lower()
        if split and split not in SPLIT_NAMES:
            raise ValueError(f"{path}: line {number} has the split {split!r}; allowed are {', '.join(SPLIT_NAMES)}")
        labels = _split(row[what]) if what else ()
        entries.append(Entry(row[where], labels, int(fold) if fold else None, SPLIT_NAMES.get(split)))
    return entries


def _rows(text: str, path: str) -> list[dict[str, str]]:
    """Rows by column; ragged ones are refused, as they shift labels silently."""
    rows = list(csv.reader(io.StringIO(text), skipinitialspace=True))
    rows = [row for row in rows if row]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{path}: row {number} has {len(row)} fields; allowed are {len(rows[0])}, as in the header: put a "
                "field with a comma into quotes"
            )
    header = [name.strip() for name in rows[0]] if rows else []
    return [dict(zip(header, (field.strip() for field in row), strict=True)) for row in rows[1:]]


def _split(labels: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in labels.split(",") if label.strip())
