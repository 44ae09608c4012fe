"""Lists of video files, as data sets bring them; any other is read as lists of audio are.

- Kinetics: a CSV of label, youtube_id, time_start, time_end and split, with a header or without. The file of a line is
  `{youtube_id}_{start:06d}_{end:06d}.mp4`.
- Something-Something: JSON, `[{"id": "1", "template": "Pushing [something]", …}, …]`; the file is `1.webm`, the class
  the template without brackets.
"""

import csv
import json
from typing import Any

from mezzotint.data.audio_lists import read_list
from mezzotint.data.entries import Entry, list_text

_KINETICS = ("label", "youtube_id", "time_start", "time_end")


def read_video_list(path: str) -> list[Entry]:
    """Read a list of videos.

    Raises:
        ValueError: when it is none of these, or an entry lacks what it needs.
    """
    text = list_text(path)
    if path.lower().endswith(".json"):
        try:
            items = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no JSON ({error}); allowed is a list of files: write it again") from None
        if isinstance(items, list) and items and isinstance(items[0], dict) and "id" in items[0]:
            return _something(items, path)
    elif path.lower().endswith(".csv"):
        rows = [row for row in csv.reader(text.splitlines()) if row]
        named = bool(rows) and set(_KINETICS) <= {name.strip() for name in rows[0]}
        if named or (rows and len(rows[0]) == 5 and rows[0][2].isdecimal() and rows[0][3].isdecimal()):
            return _kinetics(rows, named, path)
    return read_list(path)


def _something(items: list[Any], path: str) -> list[Entry]:
    entries = []
    for place, item in enumerate(items):
        if not isinstance(item, dict) or not str(item.get("id", "")):
            raise ValueError(f'{path}: entry {place} has no "id"; allowed is {{"id": "1", "template": …}}: correct it')
        label = str(item.get("template", "")).replace("[", "").replace("]", "")
        entries.append(Entry(f"{item['id']}.webm", (label,) if label else ()))
    return entries


def _kinetics(rows: list[list[str]], named: bool, path: str) -> list[Entry]:
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
        entries.append(Entry(file, (label,) if label else ()))
    return entries
