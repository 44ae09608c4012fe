"""Labeled files from the lists that data sets come with, or from class folders.

Audio lists:


- JSON of AST, AudioMAE and ESC-50: `{"data": [{"wav": path, "labels": "/m/09x0r,/m/05zppz"}, …]}`;
  of BRIDLE: the list alone, without `data`. `label` is the name of one class, commas included;
  `labels` are several, separated by commas, or a list of names.
- CSV with a header. The path is in the column `path`, `file`, `filename`, `fname`, `wav` or
  `slice_file_name`, the label in `label`, `category`, `class` or `target` (the first of these that
  exists), and a fold, if any, in `fold`; `split` is train, valid or test. A label is the name of
  one class, commas included. Several labels of one file are in a column `labels`, separated by
  commas.
- A label table, as AudioSet's: CSV with the columns `index`, `mid` and `display_name`. It gives the
  order and the names of the classes.

Video lists; any other format is read as a list of audio files:

- Kinetics: a CSV of label, youtube_id, time_start, time_end and split, with a header or without.
  The file of a line is `{youtube_id}_{start:06d}_{end:06d}.mp4`.
- Something-Something: JSON, `[{"id": "1", "template": "Pushing [something]", …}, …]`; the file is
  `1.webm`, the class the template without brackets.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mezzotint.data.formats.delimited import read_text, read_text_table, split_rows
from mezzotint.data.listing.folder import scan
from mezzotint.data.listing.groups import column_of_groups
from mezzotint.data.listing.layout import ROLES, FolderLayout, nfc, parts_of

URBAN_SOUND = (
    "air_conditioner", "car_horn", "children_playing", "dog_bark", "drilling", "engine_idling",
    "gun_shot", "jackhammer", "siren", "street_music",
)  # fmt: skip
"""Classes of UrbanSound8K (Salamon et al. 2014), by the number in the names of its files."""

_URBAN = re.compile(r"(\d+)-(\d)-\d+-\d+\.\w+")


@dataclass(frozen=True)
class ListedFile:
    """One entry of a list.

    Attributes:
        path: path of the file, as written in the list.
        labels: class names or machine ids; empty for an unlabeled file.
        fold: number of its fold, if the list has folds.
        split: `train`, `valid` or `test`, if the list has splits.
        start: start of the clip in seconds; by default the clip is the middle of the file.
        source: person, session or other source of the file, if the list names it.
    """

    path: str
    labels: tuple[str, ...]
    fold: int | None = None
    split: str | None = None
    start: float | None = None
    source: str | None = None


def require_inside(
    root: str | Path, paths: Iterable[str], listed_in: str | Path, *, has_key: bool = False
) -> None:
    """Refuse paths that lead outside of a folder: by `..`, as absolute ones, or by symbolic links.

    The folder itself may be a link, and absolute paths below it are inside.

    Args:
        root: the folder to which paths are relative.
        paths: as the list has them.
        listed_in: the list, for messages.
        has_key: whether `allow_outside` is a key of the source, and not of the list, for messages.

    Raises:
        ValueError: with the first such path.
    """
    trust = (
        "set `data.allow_outside=true`"
        if has_key
        else f"write `{{path: {listed_in}, allow_outside: true}}` instead of its path"
    )
    base = os.path.realpath(root)
    folders: dict[str, str] = {}
    for path in paths:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        target = os.path.join(folders[folder], name)
        if name == ".." or os.path.islink(target):
            target = os.path.realpath(target)
        if not target.startswith(os.path.join(base, "")):
            raise ValueError(
                f"`{listed_in}` names {path!r}, which leads outside of `{root}`. Paths of a list "
                "must stay below the folder, through symbolic links too. Correct the list; if you "
                f"trust it, {trust}."
            )


def classes_of(entries: Sequence[ListedFile]) -> list[str]:
    """Return all labels, sorted; numbers by their value."""
    names = {label for entry in entries for label in entry.labels}
    numbers = all(name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name) if numbers else 0, name))


def entries_of_folder(
    root: str, extensions: frozenset[str], kind: str, formats: str
) -> tuple[list[ListedFile], list[ListedFile], str | None, tuple[str, ...]]:
    """List the files below a folder, with or without class folders and split folders.

    Args:
        root: path of the folder.
        extensions: extensions of the files to list.
        kind: `audio` or `video`, for messages.
        formats: supported formats, for messages.

    Returns:
        Training files, files to score, the name of their split, and what a user should know;
        without a labeled split there are no files to score.

    Raises:
        ValueError: when the folder is missing or has no training files.
    """
    listing = scan(root, extensions, f"{kind} files")
    parts = parts_of(listing, f"{kind} files")
    if not parts.train:
        found = f" ({'; '.join(parts.notes)})" if parts.notes else ""
        raise ValueError(
            f"`{root}` has no {kind} files{found}. Supported: {formats}, with or without class "
            "folders. Check `data.root`."
        )
    own, scored = (
        [_listed(parts.layout, path) for path in paths] for paths in (parts.train, parts.scored)
    )
    return own, scored, parts.name, parts.notes


def split_of_list(
    entries: list[ListedFile],
) -> tuple[list[ListedFile], list[ListedFile], str | None, tuple[str, ...]]:
    """Divide the entries of a list by their split.

    Test entries are scored, and validation entries trained on; without labeled test entries,
    validation entries are scored. Entries of an unlabeled test split are left out.

    Returns:
        As `entries_of_folder`; all entries and no split if none or all of them are for training.
    """
    parts = {name: [e for e in entries if e.split == name] for name in ("valid", "test")}
    train = [entry for entry in entries if entry.split not in parts]
    if not train or len(train) == len(entries):
        return entries, [], None, ()
    for name in ("test", "valid"):
        if any(entry.labels for entry in parts[name]):
            own = train if name == "valid" else [e for e in entries if e.split != "test"]
            left = len(entries) - len(own) - len(parts[name])
            notes = (f"{left:,} files of an unlabeled test split are left out",) if left else ()
            return own, parts[name], "val" if name == "valid" else name, notes
    left = len(entries) - len(train)
    return train, [], None, (f"{left:,} files of unlabeled splits are left out",)


def _listed(layout: FolderLayout, path: str) -> ListedFile:
    """Make an entry of a file in a folder; UrbanSound8K's names end in `-class-take-slice`."""
    label, source = layout.class_of(path), None
    urban = _URBAN.fullmatch(path.rpartition("/")[2]) if layout.folds and label is None else None
    if urban is not None:
        label, source = URBAN_SOUND[int(urban[2])], urban[1]
    return ListedFile(path, () if label is None else (label,), layout.fold_of(path), source=source)


PATHS = ("path", "file", "filename", "fname", "wav", "slice_file_name")
SPLIT_NAMES = {name: "valid" if role == "val" else role for name, role in ROLES.items()}
LABEL = ("label", "category", "class", "target")
LABELS = "labels"


def read_list(path: str) -> list[ListedFile]:
    """Read a list of files, JSON or CSV by its extension.

    Raises:
        ValueError: when it is neither, or an entry lacks a field.
    """
    entries = _from_json(path) if path.lower().endswith(".json") else _from_csv(path)
    if not entries:
        raise ValueError(f"`{path}` lists no files. Add an entry, or check the path.")
    return entries


def read_label_table(path: str) -> tuple[list[str], list[str]]:
    """Read machine ids and names of the classes, in the order of their index.

    Raises:
        ValueError: when a column is missing, or an index is not a number or a duplicate.
    """
    table = read_text_table(path)
    wanted = ("index", "mid", "display_name")
    if not set(wanted) <= set(table.header) or not table.rows:
        raise ValueError(
            f"`{path}` must have rows and the columns {', '.join(wanted)}, got "
            f"{', '.join(table.header)}. Check the path."
        )
    rows = table.records()
    try:
        ordered = sorted(rows, key=lambda row: int(row["index"]))
    except ValueError:
        raise ValueError(
            f"`{path}` must number its classes 0, 1, 2, …, and one index is not a number. Correct "
            "the table."
        ) from None
    if [int(row["index"]) for row in ordered] != list(range(len(rows))):
        raise ValueError(
            f"`{path}` must number its {len(rows)} classes 0, 1, 2, …, but an index is missing or "
            "a duplicate. Correct the table."
        )
    return [row["mid"] for row in ordered], [row["display_name"] for row in ordered]


def _json(path: str) -> Any:
    try:
        return json.loads(read_text(path, "a CSV or JSON list"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"`{path}` is not valid JSON ({error}). It must be a list of files. Write it again."
        ) from None


def _from_json(path: str) -> list[ListedFile]:
    content = _json(path)
    items = content.get("data") if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise ValueError(
            f'`{path}` must be a JSON list such as [{{"wav": …, "labels": …}}, …], or have one '
            f'under "data", got a {type(content).__name__}. Write it so.'
        )
    entries = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not isinstance(item.get("wav"), str):
            raise ValueError(
                f'`{path}`, entry {number}, has no "wav". Write {{"wav": path, "labels": "a,b"}}.'
            )
        label, labels = item.get("label", ""), item.get(LABELS, "")
        listed = isinstance(labels, list) and all(isinstance(name, str) for name in labels)
        if not isinstance(label, str) or not (listed or isinstance(labels, str)):
            raise ValueError(
                f'`{path}`, entry {number}, must have one label as text under "label", or several '
                'under "labels", such as "a,b" or ["a", "b"]. Correct the entry.'
            )
        names = (label.strip(),) if label.strip() else tuple(labels) if listed else _split(labels)
        entries.append(ListedFile(item["wav"], names))
    return entries


def _from_csv(path: str) -> list[ListedFile]:
    if not read_text(path, "a CSV or JSON list").strip():
        return []
    table = read_text_table(path)
    where = next((name for name in PATHS if name in table.header), None)
    what = next((name for name in (*LABEL, LABELS) if name in table.header), None)
    if where is None:
        raise ValueError(
            f"`{path}` must have one of the columns {', '.join(PATHS)}, got "
            f"{', '.join(table.header)}. Rename the column of the files."
        )
    who = column_of_groups(name for name in table.header if name not in (where, what))
    entries = []
    for number, row in zip(table.lines, table.records(), strict=True):
        fold = row.get("fold", "")
        if not row[where] or (fold and not fold.isdecimal()):
            raise ValueError(
                f"`{path}`, line {number}, has no file, or a fold that is not a number. Correct or "
                "remove it."
            )
        split = row.get("split", "").lower()
        if split and split not in SPLIT_NAMES:
            raise ValueError(
                f"`{path}`, line {number}: the split must be one of {', '.join(SPLIT_NAMES)}, got "
                f"{split!r}. Correct the line."
            )
        own = row[what] if what else ""
        labels = _split(own) if what == LABELS else (nfc(own),) if own else ()
        entries.append(
            ListedFile(
                row[where], labels, int(fold) if fold else None, SPLIT_NAMES.get(split),
                source=(row[who] or None) if who else None,
            )
        )  # fmt: skip
    return entries


def _split(labels: str) -> tuple[str, ...]:
    return tuple(nfc(label.strip()) for label in labels.split(",") if label.strip())


_KINETICS = ("label", "youtube_id", "time_start", "time_end")


def read_video_list(path: str) -> list[ListedFile]:
    """Read a list of videos.

    Raises:
        ValueError: when the format is unknown, or an entry lacks a field.
    """
    if path.lower().endswith(".json"):
        items = _json(path)
        if isinstance(items, list) and items and isinstance(items[0], dict) and "id" in items[0]:
            return _something(items, path)
    elif path.lower().endswith(".csv"):
        rows = list(split_rows(read_text(path, "a CSV or JSON list"), path))
        first = [cell.strip() for cell in rows[0][1]] if rows else []
        named = set(_KINETICS) <= set(first)
        if named or (len(first) == 5 and first[2].isdecimal() and first[3].isdecimal()):
            return _kinetics(rows, named, path)
    entries = read_list(path)
    several = next((entry for entry in entries if len(entry.labels) > 1), None)
    if several is not None:
        raise ValueError(
            f"`{path}` must have one label a video, got {', '.join(map(repr, several.labels))} for "
            f"{several.path!r}. Write a class whose name has a comma under `label`."
        )
    return entries


def _something(items: list[Any], path: str) -> list[ListedFile]:
    entries = []
    for number, item in enumerate(items):
        if not isinstance(item, dict) or not str(item.get("id", "")):
            raise ValueError(
                f'`{path}`, entry {number}, has no "id". Write {{"id": "1", "template": …}}.'
            )
        # The lists of labels name the same classes without brackets.
        label = nfc(str(item.get("template", "")).translate({ord("["): None, ord("]"): None}))
        entries.append(ListedFile(f"{item['id']}.webm", (label,) if label else ()))
    return entries


def _kinetics(rows: list[tuple[int, list[str]]], named: bool, path: str) -> list[ListedFile]:
    header = [name.strip() for name in rows[0][1]] if named else [*_KINETICS, "split"]
    columns = [header.index(name) for name in _KINETICS]
    entries = []
    for number, row in rows[1:] if named else rows:
        try:
            label, name, start, end = (row[column].strip() for column in columns)
            file = f"{name}_{int(start):06d}_{int(end):06d}.mp4"
        except (IndexError, ValueError):
            raise ValueError(
                f"`{path}`, line {number}, must be label, youtube_id, time_start, time_end and "
                f"split, got {','.join(row)!r}. Correct the line."
            ) from None
        where = header.index("split") if "split" in header else len(row)
        split = row[where].strip().lower() if where < len(row) else ""
        entries.append(
            ListedFile(
                file, (nfc(label),) if label else (), split=SPLIT_NAMES.get(split), source=name
            )
        )
    return entries
