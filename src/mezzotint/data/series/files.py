"""Files that hold series: arrays, UCR and UEA `.ts` files, and CSV tables of measurements.

Whatever the file, the outcome is a list of recordings `[C, T]`, each with a label and a subject
where there is one. Values that are missing are NaN.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.numpy_files import numpy_arrays

Array = npt.NDArray[np.float32]
Layout = Literal["NCT", "NTC"]


@dataclass(frozen=True)
class Recording:
    """One series.

    Attributes:
        values: float32 `[C, T]`, NaN where a value is missing.
        label: its class, by name.
        subject: whose it is, by name.
        test: whether its file says that it is for scoring.
        id: what it is called.
    """

    values: Array
    label: str | None
    subject: str | None
    test: bool
    id: str


def read_npz(path: Path, x: str, y: str, subject: str, layout: Layout) -> list[Recording]:
    """Arrays `x` `[N, C, T]`, or `[N, T]` for one channel; maybe labels `y` and `subject` of N entries.

    Raises:
        ValueError: when the file is damaged or has no such array.
    """
    arrays = numpy_arrays(path, "is an .npz file of numbers")
    if x not in arrays:
        raise ValueError(
            f"{path} has no array {x!r}; it has {', '.join(arrays) or 'none'}: name the series with x="
        )
    values = arrays[x][:, None] if arrays[x].ndim == 2 else arrays[x]
    if values.ndim != 3 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise ValueError(
            f"{path}: {x} is of type {values.dtype} and shape {values.shape}; allowed are numbers [N, C, T] or [N, T]"
        )
    values = values.transpose(0, 2, 1) if layout == "NTC" else values
    columns: list[list[str | None]] = []
    for name in (y, subject):
        column = arrays.get(name)
        if column is not None and column.shape != (len(values),):
            raise ValueError(
                f"{path}: {name} has the shape {column.shape}; allowed are {len(values)} entries, one for each series"
            )
        columns.append([None] * len(values) if column is None else [str(entry) for entry in column])
    return [
        Recording(v.astype(np.float32), label, person, False, f"{path.stem}/{i:06d}")
        for i, (v, label, person) in enumerate(zip(values, *columns, strict=True))
    ]


def read_ts(path: Path) -> list[Recording]:
    """A `.ts` file of the UCR and UEA archives: dimensions separated by `:`, values by `,`, the class at the end.

    `name_TEST.ts` is for scoring. Beside `name_TRAIN.ts` its `name_TEST.ts` is read too, where it
    is there.

    Raises:
        ValueError: with the line that cannot be read.
    """
    paths = [path]
    if path.stem.upper().endswith("_TRAIN"):
        test = path.with_name(path.name.replace("TRAIN", "TEST").replace("train", "test"))
        paths += [test] if test.is_file() else []
    found = []
    for part in paths:
        labeled, data = False, False
        for number, line in enumerate(_text(part).splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            if not data:
                word, _, rest = line.partition(" ")
                if word.lower() == "@classlabel":
                    labeled = rest.strip().lower().startswith("true")
                elif word.lower() == "@timestamps" and rest.strip().lower() == "true":
                    raise ValueError(
                        f"{part} has time stamps; allowed are equally spaced values: resample them first"
                    )
                data = word.lower() == "@data"
                continue
            found.append(_ts_line(line, labeled, part, number))
    if not found:
        raise ValueError(
            f"{path} holds no series; allowed is a .ts file with lines after @data: fetch it again"
        )
    return found


def _ts_line(line: str, labeled: bool, path: Path, number: int) -> Recording:
    *channels, last = line.split(":")
    label = last.strip() if labeled else None
    channels += [] if labeled else [last]
    try:
        rows = [
            [float("nan") if v.strip() in ("?", "NaN", "") else float(v) for v in c.split(",")]
            for c in channels
        ]
    except ValueError as error:
        raise ValueError(
            f"{path}, line {number}: {error}; allowed are numbers and ? for a missing one"
        ) from None
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(
            f"{path}, line {number}: got dimensions of {[len(row) for row in rows]} values; allowed is one length in a "
            "series: pad the shorter ones with ?"
        )
    test = path.stem.upper().endswith("_TEST")
    return Recording(np.array(rows, np.float32), label, None, test, f"{path.stem}/{number:06d}")


def read_csv(
    path: Path, channels: list[str] | None, y: str, subject: str, recording: str
) -> list[Recording]:
    """A CSV table with a row for each step, in order of time.

    A recording ends where its `recording`, its `subject` or its label changes. All other columns
    are channels, unless they are named. An empty cell, `nan` or `?` is a missing value.

    Raises:
        ValueError: with the line that is ragged or holds text.
    """
    reader = csv.reader(_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    keys = [header.index(name) if name in header else None for name in (recording, subject, y)]
    wanted = channels or [name for name in header if name not in (recording, subject, y)]
    missing = [name for name in wanted if name not in header]
    if missing or not wanted:
        raise ValueError(
            f"{path} has the columns {', '.join(header) or 'none'}; allowed are those of its first line, and "
            f"{missing[0] if missing else 'a channel'} is not among them: name the channels with channels="
        )
    places = [header.index(name) for name in wanted]
    groups: list[tuple[tuple[str | None, ...], list[list[float]]]] = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {reader.line_num}: got {len(row)} cells; allowed are {len(header)}, as in the first "
                "line: correct the row"
            )
        key = tuple(None if place is None else row[place].strip() for place in keys)
        if not groups or groups[-1][0] != key:
            groups.append((key, []))
        try:
            groups[-1][1].append([_number(row[place]) for place in places])
        except ValueError:
            raise ValueError(
                f"{path}, line {reader.line_num}: got a cell that is no number in {', '.join(wanted)}; allowed are "
                "numbers, and empty cells where a value is missing: leave columns of text out with channels="
            ) from None
    return [
        Recording(np.array(rows, np.float32).T, label, person, False, f"{path.stem}/{i:06d}")
        for i, ((_, person, label), rows) in enumerate(groups)
    ]


def _number(cell: str) -> float:
    cell = cell.strip()
    return float("nan") if cell in ("", "?") else float(cell)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as UTF-8 text ({error}); check the path and the encoding"
        ) from None
