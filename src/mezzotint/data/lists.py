"""Lists of audio files with labels, as they are found beside data sets.

- JSON of AST, AudioMAE and ESC-50: `{"data": [{"wav": path, "labels": "/m/09x0r,/m/05zppz"}, …]}`;
  of BRIDLE: the list alone, without `data`. Labels are separated by commas.
- CSV with a header. The path is in the column `path`, `file`, `filename`, `fname`, `wav` or
  `slice_file_name`, the label in `label`, `labels`, `category`, `class` or `target` (the first of
  these that is there), and a fold, if any, in `fold`; `split` says train, valid or test. Several
  labels of one file are separated by commas, within quotes.
- A label table, as AudioSet's: CSV with the columns `index`, `mid` and `display_name`. It gives the
  order and the names of the classes.

Lists of video files, as data sets bring them; any other is read as lists of audio are.

- Kinetics: a CSV of label, youtube_id, time_start, time_end and split, with a header or without.
  The file of a line is `{youtube_id}_{start:06d}_{end:06d}.mp4`.
- Something-Something: JSON, `[{"id": "1", "template": "Pushing [something]", …}, …]`; the file is
  `1.webm`, the class the template without brackets.

Files with labels, as a list or a folder names them: what sources of sound and of video have in
common.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.data.folder import SPLITS, class_of, scan, split_of


@dataclass(frozen=True)
class ListedFile:
    """One line of a list.

    Attributes:
        path: of the file, as written.
        labels: names or machine ids; none for a file without.
        fold: number of its fold, where there are folds.
        split: `train`, `valid` or `test`, where the list says it.
        start: second at which the clip begins; by default it is the middle of the recording.
    """

    path: str
    labels: tuple[str, ...]
    fold: int | None = None
    split: str | None = None
    start: float | None = None


def classes_of(entries: Sequence[ListedFile]) -> list[str]:
    """All labels, sorted; numbers by their value."""
    names = {label for entry in entries for label in entry.labels}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def entries_of_folder(
    root: str, extensions: frozenset[str], kind: str, allowed: str
) -> tuple[list[ListedFile], list[ListedFile], str | None]:
    """The files below a folder, in class folders or not, in folders of splits or not.

    Args:
        root: of the folder.
        extensions: of the files that count.
        kind: of them, in messages: `audio` or `video`.
        allowed: formats, in messages.

    Returns:
        What is learned from, what is scored on, and the name of that split; none is scored on
        without splits.

    Raises:
        ValueError: when there is no such folder, or nothing to learn from in it.
    """
    listing = scan(root, extensions, f"{kind} files")
    splits = listing.splits()
    own = "train" if splits else None
    scored = next((name for name in SPLITS[1:] if name in splits), None)
    parts: dict[str | None, list[ListedFile]] = {own: [], scored: []}
    for path in listing.images:
        split = split_of(path, splits)
        label = class_of(path, split)
        parts.setdefault(split, []).append(ListedFile(path, () if label is None else (label,)))
    if not parts[own]:
        raise ValueError(
            f"{root} holds no {kind} file{' in train' if own else ''}; allowed is a folder of {allowed}, in class "
            "folders or not: check the path"
        )
    return parts[own], parts[scored] if scored else [], scored


def list_text(path: str) -> str:
    """A list as text.

    Raises:
        ValueError: when it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise ValueError(
            f"{path} cannot be read ({reason}); allowed is a CSV or JSON list: check the path"
        ) from None


PATHS = ("path", "file", "filename", "fname", "wav", "slice_file_name")
SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
LABELS = ("label", "labels", "category", "class", "target")


def read_list(path: str) -> list[ListedFile]:
    """Read a list of files, JSON or CSV by its extension.

    Raises:
        ValueError: when it is neither, or an entry lacks what it needs.
    """
    text = list_text(path)
    entries = _from_json(text, path) if path.lower().endswith(".json") else _from_csv(text, path)
    if not entries:
        raise ValueError(
            f"{path} lists no file; allowed is a list with an entry or more: check the path"
        )
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
        raise ValueError(
            f"{path} has the columns {found}; allowed is a table with {', '.join(wanted)}: check the path"
        )
    try:
        ordered = sorted(rows, key=lambda row: int(row["index"]))
    except ValueError:
        raise ValueError(
            f"{path} has an index that is no number; allowed are 0, 1, 2, …: correct the table"
        ) from None
    if [int(row["index"]) for row in ordered] != list(range(len(rows))):
        raise ValueError(
            f"{path} has the indices of {len(rows)} classes with gaps or twice; allowed are 0, 1, 2, …"
        )
    return [row["mid"] for row in ordered], [row["display_name"] for row in ordered]


def _from_json(text: str, path: str) -> list[ListedFile]:
    try:
        content: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} is no JSON ({error}); allowed is a list of files: write it again"
        ) from None
    items = content.get("data") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ValueError(
            f'{path} holds a {type(content).__name__} without a list; allowed is [{{"wav": …, "labels": …}}, …], or '
            'the same under "data": write it so'
        )
    entries = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("wav"), str):
            raise ValueError(
                f'{path}: entry {place} has no "wav"; allowed is {{"wav": path, "labels": "a,b"}}'
            )
        labels = item.get("labels", "")
        if not isinstance(labels, str):
            raise ValueError(
                f'{path}: entry {place} has labels that are no text; allowed is "a,b": join them'
            )
        entries.append(ListedFile(item["wav"], _split(labels)))
    return entries


def _from_csv(text: str, path: str) -> list[ListedFile]:
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
            raise ValueError(
                f"{path}: line {number} has no file, or a fold that is no number; correct or remove it"
            )
        split = row.get("split", "").lower()
        if split and split not in SPLIT_NAMES:
            raise ValueError(
                f"{path}: line {number} has the split {split!r}; allowed are {', '.join(SPLIT_NAMES)}"
            )
        labels = _split(row[what]) if what else ()
        entries.append(
            ListedFile(row[where], labels, int(fold) if fold else None, SPLIT_NAMES.get(split))
        )
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


_KINETICS = ("label", "youtube_id", "time_start", "time_end")


def read_video_list(path: str) -> list[ListedFile]:
    """Read a list of videos.

    Raises:
        ValueError: when it is none of these, or an entry lacks what it needs.
    """
    text = list_text(path)
    if path.lower().endswith(".json"):
        try:
            items = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path} is no JSON ({error}); allowed is a list of files: write it again"
            ) from None
        if isinstance(items, list) and items and isinstance(items[0], dict) and "id" in items[0]:
            return _something(items, path)
    elif path.lower().endswith(".csv"):
        rows = [row for row in csv.reader(text.splitlines()) if row]
        named = bool(rows) and set(_KINETICS) <= {name.strip() for name in rows[0]}
        if named or (
            rows and len(rows[0]) == 5 and rows[0][2].isdecimal() and rows[0][3].isdecimal()
        ):
            return _kinetics(rows, named, path)
    return read_list(path)


def _something(items: list[Any], path: str) -> list[ListedFile]:
    entries = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or not str(item.get("id", "")):
            raise ValueError(
                f'{path}: entry {place} has no "id"; allowed is {{"id": "1", "template": …}}: correct it'
            )
        label = str(item.get("template", "")).replace("[", "").replace("]", "")
        entries.append(ListedFile(f"{item['id']}.webm", (label,) if label else ()))
    return entries


def _kinetics(rows: list[list[str]], named: bool, path: str) -> list[ListedFile]:
    header = [name.strip() for name in rows[0]] if named else [*_KINETICS, "split"]
    places = [header.index(name) for name in _KINETICS]
    entries = []
    for number, row in enumerate(rows[1:] if named else rows, start=2 if named else 1):
        try:
            label, name, start, end = (row[place].strip() for place in places)
            file = f"{name}_{int(start):06d}_{int(end):06d}.mp4"
        except (IndexError, ValueError):
            raise ValueError(
                f"{path}, row {number}: got {','.join(row)!r}; allowed is label, youtube_id, time_start, time_end and "
                "split, as Kinetics has them: correct the row"
            ) from None
        entries.append(ListedFile(file, (label,) if label else ()))
    return entries
