"""Read series from arrays, UCR and UEA `.ts` files, CSV tables, and lists in parquet files.

Every reader returns a list of series `[C, T]`, with a label and a subject if the file has them.
Missing values are NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.arff import read_arff
from mezzotint.data.formats.columns import ColumnUse, chosen_name, is_clock, is_row_number
from mezzotint.data.formats.delimited import (
    MISSING,
    TextTable,
    first_odd,
    lines_of,
    read_text,
    read_text_table,
    read_values,
    split_rows,
)
from mezzotint.data.formats.numpy_files import (
    CLASSES,
    array_uses,
    label_names,
    named_array,
    numpy_arrays,
    one_column,
    with_class_names,
)
from mezzotint.data.formats.parquet import entries_of, is_list, lists_of, read_rows
from mezzotint.data.listing.groups import column_of_groups
from mezzotint.data.listing.layout import SPLIT_COLUMN, notes_on_splits, roles_of, rows_of_splits

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
        source: session or other source of the series, if the file names it.
    """

    values: Array
    label: str | None
    subject: str | None
    test: bool
    id: str
    channels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    source: str | None = None


def read_npz(
    path: Path, x: str, y: str | None, subject: str | None, layout: Layout
) -> tuple[list[RawSeries], list[ColumnUse]]:
    """Read series `x` `[N, C, T]` or `[N, T]`, and optional labels `y` and `subject` `[N]`.

    Raises:
        ValueError: when the file is damaged or has no such array.
    """
    arrays = numpy_arrays(path, "an .npz file of numbers")
    x = named_array(x, arrays, path, "series")
    if y == "label" and y not in arrays and "y" in arrays:
        y = "y"
    y, subject = _labels_and_subjects(y, subject, list(arrays), path, "array", [x])
    rows = [name for name, array in arrays.items() if array.shape[:1] == arrays[x].shape[:1]]
    others = (name for name in rows if name not in (x, y, subject, CLASSES))
    source = column_of_groups(others, arrays=True)
    values = arrays[x][:, None] if arrays[x].ndim == 2 else arrays[x]
    if values.ndim != 3 or values.dtype.kind not in "fiu" or 0 in values.shape:
        raise ValueError(
            f"`{path}`: {x} must be numbers [N, C, T] or [N, T], got {values.dtype} of shape "
            f"{values.shape}. Reshape the array."
        )
    values = values.transpose(0, 2, 1) if layout == "NTC" else values
    columns: list[list[str | None]] = []
    for name in (y, subject, source):
        column = None if name is None else one_column(arrays[name])
        if column is not None and name == y:
            column = with_class_names(column, arrays, path)
        if column is not None and column.shape != (len(values),):
            raise ValueError(
                f"`{path}`: {name} must have {len(values)} entries, one for each series, got shape "
                f"{column.shape}. Correct the array."
            )
        columns.append([None] * len(values) if column is None else label_names(column))
    found = [
        RawSeries(v.astype(np.float32), own, who, False, f"{path.stem}/{i:06d}", source=session)
        for i, (v, own, who, session) in enumerate(zip(values, *columns, strict=True))
    ]
    uses = {CLASSES: "names", x: "series", y: "label", subject: "subject", source: "recording"}
    return found, array_uses(arrays, uses)


def read_ts(path: Path) -> list[RawSeries]:
    """Read a `.ts` file of UCR or UEA: channels separated by `:`, values by `,`, the class last.

    `name_TEST.ts` has test samples. It is read together with `name_TRAIN.ts`, if both exist.

    Raises:
        ValueError: with the line that cannot be read.
    """
    found = []
    for part in _parts(path):
        labeled, data = False, False
        for number, line in enumerate(lines_of(read_text(part)), 1):
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
    return RawSeries(
        np.array(rows, np.float32), label, None, _is_test(path), f"{path.stem}/{number:06d}"
    )


def read_csv(
    path: Path, channels: list[str] | None, y: str | None, subject: str | None, series: str
) -> tuple[list[RawSeries], list[ColumnUse], list[str]]:
    """Read a CSV or TSV table with a row for each step, in order of time.

    A series ends where the columns `series`, `subject` or the label change. All other columns are
    channels, unless some are named; row numbers and times are left out. An empty cell, `nan`, `NA`
    or `?` is a missing value.

    Raises:
        ValueError: with the line that is ragged or has text, or for a column that is missing.
    """
    table = read_text_table(path)
    taken = [series, *(channels or ())]
    y, subject = _labels_and_subjects(y, subject, table.header, path, "column", taken)
    roles = roles_of(table.column(SPLIT_COLUMN)) if SPLIT_COLUMN in table.header else None
    split = SPLIT_COLUMN if roles is not None and SPLIT_COLUMN not in (channels or ()) else None
    keys = [name for name in (series, subject, y, split) if name and name in table.header]
    named = {series: "recording", subject: "subject", y: "label", split: "split"}
    uses = [
        ColumnUse(name, named[name], f"{len({*table.column(name)} - {''})} different")
        for name in keys
    ]
    cells = [table.column(n) if n in keys and n else None for n in (series, subject, y, split)]
    steps = [tuple(None if c is None else c[i] for c in cells) for i in range(len(table.rows))]
    starts = [i for i in range(len(steps)) if i == 0 or steps[i] != steps[i - 1]]
    wanted = channels
    if wanted is None:
        rest = [name for name in table.header if name not in keys]
        left_out = {name: why for name in rest if (why := _no_channel(name, table, starts))}
        uses += [ColumnUse(name, "left out", why) for name, why in left_out.items()]
        wanted = [name for name in rest if name not in left_out]
    missing = [name for name in wanted if name not in table.header]
    if missing or not wanted:
        raise ValueError(
            f"`{path}` has no column {missing[0] if missing else 'of a channel'}, only "
            f"{', '.join(table.header)}. Name the channels with `data.channels`."
        )
    if not table.rows:
        raise ValueError(f"`{path}` has no rows. It needs a line for each step. Check the file.")
    others = tuple(name for name in table.header if name not in (*wanted, *keys))
    values = np.stack([_channel(name, table) for name in wanted])
    uses += [ColumnUse(name, "channel", _missing(values[i])) for i, name in enumerate(wanted)]
    used, scored, _ = rows_of_splits(
        None if split is None or roles is None else [roles[start] for start in starts],
        [bool(steps[start][2]) for start in starts],
    )
    found = [
        RawSeries(
            values[:, start:end].astype(np.float32), steps[start][2] or None,
            steps[start][1] or None, test, f"{path.stem}/{i:06d}", tuple(wanted), others,
            steps[start][0] or None,
        )
        for i, (start, end, use, test) in enumerate(
            zip(starts, [*starts[1:], len(steps)], used, scored, strict=True)
        )
        if use
    ]  # fmt: skip
    return found, uses, notes_on_splits(len(used) - sum(used), "series")


def read_lists(
    path: Path, channels: list[str] | None, y: str | None, subject: str | None, layout: Layout
) -> tuple[list[RawSeries], list[ColumnUse], list[str]]:
    """Read parquet or Arrow files with a row for each series, and lists of numbers as channels.

    A column of lists of lists has all channels, in the order of `layout`.

    Raises:
        ValueError: when there is no column of lists, or the lists of a row have several lengths.
    """
    table = read_rows(str(path))
    lists = [field.name for field in table.schema if is_list(field.type)]
    names = channels or lists
    if not names or not set(names) <= set(lists):
        raise ValueError(
            f"`{path}` must have lists of numbers in {', '.join(names) or 'some columns'}, "
            f"got {', '.join(lists) or 'none'}. Set `data.channels`, or data.kind=table."
        )
    y, subject = _labels_and_subjects(y, subject, table.column_names, path, "column", names)
    source = column_of_groups(n for n in table.column_names if n not in (y, subject, *names))
    columns = [lists_of(table, name, str(path)) for name in names]
    values = [_of_row(r, layout, path, i) for i, r in enumerate(zip(*columns, strict=True))]
    cells = [entries_of(table, name) for name in (y, subject, source)]
    roles = roles_of([word or "" for word in entries_of(table, SPLIT_COLUMN)])
    used, scored, _ = rows_of_splits(roles, [label is not None for label in cells[0]])
    found = [
        RawSeries(
            v, cells[0][i], cells[1][i], scored[i], f"{path.stem}/{i:06d}", tuple(names),
            source=cells[2][i],
        )
        for i, v in enumerate(values)
        if used[i] and v is not None
    ]  # fmt: skip
    uses = {y: "label", subject: "subject", source: "recording", **dict.fromkeys(names, "channel")}
    notes = notes_on_splits(len(used) - sum(used))
    if empty := sum(v is None for v, use in zip(values, used, strict=True) if use):
        notes.append(f"{empty:,} rows without values are left out")
    return found, [ColumnUse(n, uses.get(n, "left out")) for n in table.column_names], notes


def _of_row(row: Sequence[Any], layout: Layout, path: Path, number: int) -> Array | None:
    """Return the series `[C, T]` of a row's lists; `None` where one is missing."""
    if any(part is None or not part.size for part in row):
        return None
    parts = [p[None] if p.ndim == 1 else p.T if layout == "NTC" else p for p in row]
    if len(lengths := {part.shape[1] for part in parts}) > 1:
        raise ValueError(
            f"`{path}`, row {number}: channels have {min(lengths)} to {max(lengths)} values. They "
            "must have one length. Leave one out with `data.channels`."
        )
    return np.concatenate(parts).astype(np.float32)


def read_ucr(path: Path) -> list[RawSeries]:
    """Read the `.tsv` or `.arff` files of the UCR archive: a row is a series of one channel.

    A `.tsv` has no names, and the label first; an `.arff` has the label last. `name_TEST` is read
    together with `name_TRAIN`, if both exist.

    Raises:
        ValueError: with the line that has a cell that is no number.
    """
    found = []
    for part in _parts(path):
        if part.suffix.lower() == ".arff":
            content = read_arff(part)
            if not all(content.numeric[:-1]):
                raise ValueError(
                    f"`{part}` must have numbers and then a class, as in the UCR archive, got "
                    f"{content.names[content.numeric.index(False)]!r} before it. Use a .csv with a "
                    "row for each step."
                )
            pairs = zip(content.lines, content.rows, strict=True)
            rows = [(line, row[-1], row[:-1]) for line, row in pairs]
        else:
            table = split_rows(read_text(part), str(part), "\t")
            rows = [(line, row[0].strip(), row[1:]) for line, row in table]
        longest = max(len(cells) for _, _, cells in rows)
        for line, label, cells in rows:
            values = read_values([cell.strip() for cell in cells], "\t")
            if values.kind != "number" or values.odd or not len(cells):
                raise ValueError(
                    f"`{part}`, line {line}, has a cell that is not a number. Values must be "
                    "numbers, or ? if missing. Correct the line."
                )
            padded = np.full((1, longest), np.nan, np.float32)
            padded[0, : len(cells)] = values.numbers
            found.append(RawSeries(padded, label, None, _is_test(part), f"{part.stem}/{line:06d}"))
    return found


def is_ucr(path: Path) -> bool:
    """Return whether a table of text begins with a row of numbers, as in the UCR archive."""
    if path.suffix.lower() != ".tsv":
        return False
    first = next(split_rows(read_text(path), str(path), "\t"), (1, []))[1]
    values = read_values([cell.strip() for cell in first], "\t")
    return values.kind == "number" and not values.odd


def _parts(path: Path) -> list[Path]:
    """Return a file, and its test set if its name ends with `_TRAIN`."""
    stem, mark = path.stem[: -len("TRAIN")], path.stem[-len("TRAIN") :]
    if mark.upper() != "TRAIN" or not stem.endswith("_"):
        return [path]
    test = path.with_name(f"{stem}{'test' if mark.islower() else 'TEST'}{path.suffix}")
    return [path, test] if test.is_file() else [path]


def _is_test(path: Path) -> bool:
    return path.stem.upper().endswith("_TEST")


def _labels_and_subjects(
    y: str | None,
    subject: str | None,
    names: Sequence[str],
    path: Path,
    noun: str,
    taken: Sequence[str] = (),
) -> tuple[str | None, str | None]:
    """Return the names of labels and subjects; only the default names may be missing.

    Without a column `subject`, it is one such as `patient_id`, unless it is `taken`.
    """
    y = chosen_name(y, names, default="label", key="data.y", path=path, noun=noun)
    own = chosen_name(subject, names, default="subject", key="data.subject", path=path, noun=noun)
    if own is None and subject is not None:
        others = (name for name in names if name not in (y, *taken))
        own = column_of_groups(others, people=True, arrays=noun == "array")
    return y, own


def _no_channel(name: str, table: TextTable, starts: Sequence[int]) -> str:
    """Return why a column is no measurement; empty where it may be one.

    Args:
        name: name of the column.
        table: the table.
        starts: first row of each series.
    """
    cells = table.column(name)
    if is_row_number(name, cells):
        return "numbers the rows"
    values = read_values(cells, table.separator)
    clock = values.kind == "time" or is_clock(name, values.numbers, starts)
    return "times; steps are in the order of the file" if clock else ""


def _channel(name: str, table: TextTable) -> npt.NDArray[np.float64]:
    """Return the numbers of a column.

    Raises:
        ValueError: with the first line that has text.
    """
    cells = table.column(name)
    values = read_values(cells, table.separator)
    empty = all(cell.lower() in MISSING for cell in cells)
    if not empty and (values.kind != "number" or values.odd):
        odd = values.odd[0] if values.kind == "number" else first_odd(cells, table.separator)
        raise ValueError(
            f"`{table.path}`, line {table.lines[odd]}: {cells[odd]!r} in the column {name!r} is "
            "not a number. Leave cells empty for missing values, and columns of text out of "
            "`data.channels`."
        )
    return values.numbers


def _missing(values: npt.NDArray[np.float64]) -> str:
    count = int((~np.isfinite(values)).sum())
    return f"{count} of {len(values)} steps missing" if count else ""
