"""Read series from arrays, UCR and UEA `.ts` files, and CSV tables.

Every reader returns a list of series `[C, T]`, with a label and a subject if the file has them.
Missing values are NaN.
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
class RawSeries:
    """One series as its file has it.

    Attributes:
        values: float32 `[C, T]`, NaN for missing values.
        label: name of its class.
        subject: name of its subject.
        test: whether its file marks it as a test sample.
        id: id of the sample.
        channels: names of the channels, if the file has names.
        others: columns of the file that are left out.
    """

    values: Array
    label: str | None
    subject: str | None
    test: bool
    id: str
    channels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def read_npz(path: Path, x: str, y: str, subject: str, layout: Layout) -> list[RawSeries]:
    """Read series `x` `[N, C, T]` or `[N, T]`, and optional labels `y` and `subject` `[N]`.

    Raises:
        ValueError: when the file is damaged or has no such array.
    """
    arrays = numpy_arrays(path, "an .npz file of numbers")
    if x not in arrays:
        raise ValueError(
            f"`{path}` has no array {x!r}, only {', '.join(arrays) or 'none'}. Name the series "
            "with `data.x`."
        )
    values = arrays[x][:, None] if arrays[x].ndim == 2 else arrays[x]
    if values.ndim != 3 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise ValueError(
            f"`{path}`: {x} must be numbers [N, C, T] or [N, T], got {values.dtype} of shape "
            f"{values.shape}. Reshape the array."
        )
    values = values.transpose(0, 2, 1) if layout == "NTC" else values
    columns: list[list[str | None]] = []
    for name in (y, subject):
        column = arrays.get(name)
        if column is not None and column.shape != (len(values),):
            raise ValueError(
                f"`{path}`: {name} must have {len(values)} entries, one for each series, got shape "
                f"{column.shape}. Correct the array."
            )
        columns.append([None] * len(values) if column is None else [str(entry) for entry in column])
    return [
        RawSeries(v.astype(np.float32), label, person, False, f"{path.stem}/{i:06d}")
        for i, (v, label, person) in enumerate(zip(values, *columns, strict=True))
    ]


def read_ts(path: Path) -> list[RawSeries]:
    """Read a `.ts` file of UCR or UEA: channels separated by `:`, values by `,`, the class last.

    `name_TEST.ts` has test samples. It is read together with `name_TRAIN.ts`, if both exist.

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
                        f"`{part}` has time stamps. Values must be equally spaced. Resample them "
                        "first."
                    )
                data = word.lower() == "@data"
                continue
            found.append(_ts_line(line, labeled, part, number))
    if not found:
        raise ValueError(
            f"`{path}` has no series. A .ts file has lines after @data. Fetch it again."
        )
    return found


def _ts_line(line: str, labeled: bool, path: Path, number: int) -> RawSeries:
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
            f"`{path}`, line {number}: {error}. Values must be numbers, or ? if missing. Correct "
            "the line."
        ) from None
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError(
            f"`{path}`, line {number}: all channels must have one length, got "
            f"{[len(row) for row in rows]} values. Pad the shorter ones with ?."
        )
    test = path.stem.upper().endswith("_TEST")
    return RawSeries(np.array(rows, np.float32), label, None, test, f"{path.stem}/{number:06d}")


def read_csv(
    path: Path, channels: list[str] | None, y: str, subject: str, series: str
) -> list[RawSeries]:
    """Read a CSV table with a row for each step, in order of time.

    A series ends where the columns `series`, `subject` or the label change. All other columns are
    channels, unless some are named. An empty cell, `nan` or `?` is a missing value.

    Raises:
        ValueError: with the line that is ragged or has text.
    """
    reader = csv.reader(_text(path).splitlines())
    header = [name.strip() for name in next(reader, [])]
    keys = [header.index(name) if name in header else None for name in (series, subject, y)]
    wanted = channels or [name for name in header if name not in (series, subject, y)]
    missing = [name for name in wanted if name not in header]
    if missing or not wanted:
        raise ValueError(
            f"`{path}` has no column {missing[0] if missing else 'of a channel'}, only "
            f"{', '.join(header) or 'none'}. Name the channels with `data.channels`."
        )
    positions = [header.index(name) for name in wanted]
    groups: list[tuple[tuple[str | None, ...], list[list[float]]]] = []
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ValueError(
                f"`{path}`, line {reader.line_num}, must have {len(header)} cells, as the first "
                f"line, got {len(row)}. Correct the line."
            )
        key = tuple(None if position is None else row[position].strip() for position in keys)
        if not groups or groups[-1][0] != key:
            groups.append((key, []))
        try:
            groups[-1][1].append([_number(row[position]) for position in positions])
        except ValueError:
            raise ValueError(
                f"`{path}`, line {reader.line_num}, has a cell that is not a number in "
                f"{', '.join(wanted)}. Leave cells empty for missing values, and columns of text "
                "out of `data.channels`."
            ) from None
    names = tuple(wanted)
    others = tuple(name for name in header if name not in (*wanted, series, subject, y))
    return [
        RawSeries(
            np.array(rows, np.float32).T,
            label,
            person,
            False,
            f"{path.stem}/{i:06d}",
            names,
            others,
        )
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
            f"`{path}` cannot be read as UTF-8 text ({error}). Check the path and the encoding."
        ) from None
