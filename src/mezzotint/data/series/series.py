"""Read sensor series from arrays, tables, or the files of the UCR and UEA archives.

Each series is cut into windows of one length. Missing values are interpolated linearly if a gap has
at most `max_gap` steps; windows with a longer gap are dropped, and so is the end of a series that
fills no window. A series shorter than a window is stretched to it by interpolation if it has at
least half its length, and is dropped otherwise.

With subjects, whole subjects are held out, and pretraining does not see them: windows of one person
on both sides of a split inflate every result.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.formats.columns import ColumnUse
from mezzotint.data.formats.delimited import SEPARATORS
from mezzotint.data.formats.parquet import SUFFIXES as PARQUET
from mezzotint.data.listing.groups import grouped, independent
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.memory import InMemory, float_moments
from mezzotint.data.series.files import (
    Array,
    Layout,
    RawSeries,
    is_ucr,
    read_csv,
    read_lists,
    read_npz,
    read_ts,
    read_ucr,
)
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.types import Input


class Series(InMemory):
    """Read windows of sensor series from an `.npz`, `.csv`, `.ts`, `.arff` or `.parquet` file.

    Args:
        path: path of the file; with `name_TRAIN.ts`, `name_TEST.ts` is the test set. Parquet and
            Arrow files, or a folder of them, have a row for each series.
        x: name of the series in an `.npz`, `[N, C, T]` or `[N, T]`.
        y: name of the labels in an `.npz`, or of their column in a CSV; `null` ignores them. Only
            `label` may be missing.
        subject: name of the array or column of subjects, which other sources call `group`; `null`
            for none. Without an array or column `subject` it is one such as `patient_id`.
        channels: columns of a CSV with measurements; by default all others, without row numbers
            and times. In parquet, columns of lists of numbers; by default all of these.
        layout: order of the axes in an `.npz`, and of lists of lists.
        window: steps in a window; by default the length of the longest series.
        stride: steps from one window to the next; by default half a window.
        max_gap: largest number of consecutive missing values to interpolate.
        holdout: fraction of the subjects to score, or without subjects of each class.

    Attributes:
        classes: names of the classes; a label is an index into this list.
        dropped: number of windows and series with too long a gap or too few steps.
        channels: names of the channels of a CSV; `None` for other files.
        stride: steps from one window to the next.
        columns: what each column or array of the file is used for.

    Raises:
        ValueError: when nothing can be read, or no window is left.
    """

    modality = "series"
    opens = frozenset({".arff", ".csv", ".npz", ".ts", ".tsv", *PARQUET})

    def __init__(
        self,
        *,
        path: str,
        x: str = "x",
        y: str | None = "label",
        subject: str | None = "subject",
        channels: list[str] | None = None,
        layout: Layout = "NCT",
        window: int | None = None,
        stride: int | None = None,
        max_gap: int = 5,
        holdout: float = 0.3,
    ) -> None:
        if (
            (window is not None and window < 2)
            or (stride is not None and stride < 1)
            or max_gap < 0
        ):
            raise ValueError(
                "`window` must be 2 or more, `stride` 1 or more and `max_gap` 0 or more, got "
                f"window={window}, stride={stride}, max_gap={max_gap}. Try 128, 64 and 5 for "
                "sensors at 50 Hz."
            )
        check_holdout(holdout)
        self.path, self.holdout = path, holdout
        series_list, self.columns, notes = _read(Path(path), x, y, subject, channels, layout)
        series_list = [replace(r, values=_unpadded(r.values, max_gap)) for r in series_list]
        counts = {len(item.values) for item in series_list}
        if len(counts) > 1:
            raise ValueError(
                f"`{path}` must have series of one number of channels, got {sorted(counts)}. Split "
                "it into one file for each."
            )
        size = window or max(2, *(item.values.shape[1] for item in series_list))
        self.channels, self.stride = (
            list(series_list[0].channels) or None,
            stride or max(1, size // 2),
        )
        windows, owner, self.dropped = _windows(series_list, size, self.stride, max_gap)
        if not windows:
            raise ValueError(
                f"`{path}` has no window of {size} steps in its {len(series_list)} series. A "
                f"series needs {size // 2} steps or more and gaps of at most {max_gap}. Set "
                "`data.window` or `data.max_gap`."
            )
        lost = [series_list[i].id for i in sorted({*range(len(series_list))} - {*owner.tolist()})]
        self.notes = [*notes, *_left_out(path, self.dropped, lost, max_gap, series_list[0].others)]
        names = sorted({r.label for r in series_list if r.label is not None})
        self.classes = names
        labels = np.array(
            [-1 if r.label is None else names.index(r.label) for r in series_list], np.int64
        )
        test, self.split = _test_series(series_list, labels, holdout)
        order = np.argsort(
            test[owner], kind="stable"
        )  # test samples come last, so that pretraining takes a prefix
        owner = owner[order]
        self._all = torch.from_numpy(np.stack(windows)[order])
        self._labels = labels[owner]
        number = _running_number(owner)
        self.ids = [
            f"{series_list[r].id}/{n:04d}" for r, n in zip(owner.tolist(), number, strict=True)
        ]
        seen = int((~test[owner]).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        self.input = Input(tuple(self._all.shape[1:]), *float_moments(self.images), "series")

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"path": path, "window": input.shape[1]}

    def settings(self) -> dict[str, Any]:
        size, stride = self.input.shape[1], self.stride
        return {**self.config, "channels": self.channels, "window": size, "stride": stride}

    def preprocessing(self) -> dict[str, Any]:
        return {
            **super().preprocessing(),
            "channels": self.channels,
            "window": self.input.shape[1],
            "max_gap": self.config.get("max_gap", 5),
            "missing": "gaps of up to max_gap steps are interpolated linearly; more missing steps "
            "at the end are cut off",
            "shorter": "half a window or more is stretched to a window by linear interpolation",
        }

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all windows, and the task; with fewer than two classes there is none."""
        everything = self.with_samples(self._all, self._labels)
        everything.held_out = len(self.images), self.split
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks(f"label/{self.split}", self._labels, test, self.classes)


def _read(
    path: Path,
    x: str,
    y: str | None,
    subject: str | None,
    channels: list[str] | None,
    layout: Layout,
) -> tuple[list[RawSeries], list[ColumnUse], list[str]]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return *read_npz(path, x, y, subject, layout), []
    if suffix == ".ts":
        return read_ts(path), [], []
    if suffix == ".arff" or (suffix in SEPARATORS and is_ucr(path)):
        return read_ucr(path), [], []
    if suffix in SEPARATORS:
        return read_csv(path, channels, y, subject, "recording")
    if suffix in PARQUET or path.is_dir():
        return read_lists(path, channels, y, subject, layout)
    raise ValueError(
        f"`{path}` must be {', '.join(sorted(Series.opens))}, got the suffix {path.suffix!r}. "
        "Convert the file."
    )


def _left_out(
    path: str, dropped: int, lost: Sequence[str], max_gap: int, others: Sequence[str]
) -> list[str]:
    """Say how many windows are dropped and which columns are left out, a sentence each.

    Args:
        path: path of the file.
        dropped: number of windows.
        lost: ids of the series without a window.
        max_gap: see `Series`.
        others: columns.
    """
    notes = []
    if dropped:
        whole = f"; {len(lost):,} series have no window, such as `{lost[0]}`" if lost else ""
        notes.append(
            f"`{path}`: {dropped:,} windows dropped, for gaps of more than {max_gap} steps or "
            f"for too few steps{whole}."
        )
    if others:
        notes.append(f"`{path}`: columns that are no channels are left out: {', '.join(others)}.")
    return notes


def _windows(
    series_list: Sequence[RawSeries], size: int, stride: int, max_gap: int
) -> tuple[list[Array], Index, int]:
    """Return windows `[C, size]` without a gap, the series of each, and how many were dropped."""
    windows, owner, dropped = [], [], 0
    for number, item in enumerate(series_list):
        values = bridged(item.values, max_gap)
        steps = values.shape[1]
        if steps < size:
            if 2 * steps < size or not np.isfinite(values).all():
                dropped += 1
                continue
            values = _stretched(values, size)
        for start in range(0, values.shape[1] - size + 1, stride):
            cut = values[:, start : start + size]
            if np.isfinite(cut).all():
                windows.append(np.ascontiguousarray(cut, np.float32))
                owner.append(number)
            else:
                dropped += 1
    return windows, np.array(owner, np.int64), dropped


def _unpadded(values: Array, max_gap: int) -> Array:
    """Cut missing steps off the end of a series `[C, T]`, if they are more than a gap to fill.

    Files of one length pad shorter series so, as the UCR archive's do.
    """
    known = np.flatnonzero(np.isfinite(values).any(axis=0))
    length = int(known[-1]) + 1 if len(known) else 0
    return values[:, :length] if values.shape[1] - length > max_gap else values


def bridged(values: Array, max_gap: int) -> Array:
    """Fill the short gaps of a series by linear interpolation.

    Args:
        values: `[C, T]`, NaN or infinite for missing values.
        max_gap: largest number of consecutive missing values to fill; at either end the nearest
            value is repeated.

    Returns:
        `[C, T]`, NaN in longer gaps and in channels without any value.
    """
    filled = values.copy()
    time = np.arange(values.shape[1])
    for channel in filled:
        missing = ~np.isfinite(channel)
        if not missing.any():
            continue
        channel[missing] = np.nan
        if missing.all():
            continue
        edges = (
            np.diff(np.concatenate([[0], missing.astype(np.int8), [0]])).nonzero()[0].reshape(-1, 2)
        )
        line = np.interp(time, time[~missing], channel[~missing])
        for start, stop in edges.tolist():
            if stop - start <= max_gap:
                channel[start:stop] = line[start:stop]
    return filled


def _stretched(values: Array, size: int) -> Array:
    old, new = np.linspace(0.0, 1.0, values.shape[1]), np.linspace(0.0, 1.0, size)
    return np.stack([np.interp(new, old, channel) for channel in values]).astype(np.float32)


def _test_series(
    series_list: Sequence[RawSeries], labels: Index, holdout: float
) -> tuple[npt.NDArray[np.bool_], str]:
    """Return which series to score, and the name of the split."""
    test = np.array([item.test for item in series_list])
    if test.any() and not test.all():
        return test, "test"
    people = sorted({r.subject for r in series_list if r.subject is not None})
    if len(people) > 1:
        subject = np.array(
            [-1 if r.subject is None else people.index(r.subject) for r in series_list], np.int64
        )
        chosen = held_out(np.zeros(len(people), np.int64), holdout, "subject")
        return np.where(subject >= 0, chosen[subject], False), "held-out-subjects"
    content = grouped(
        [f"{item.values.shape} {item.values.tobytes().hex()}" for item in series_list]
    )
    groups = independent(labels, content, [item.source for item in series_list])
    return held_out(labels, holdout, "label", groups), "holdout"


def _running_number(owner: Index) -> list[int]:
    """Return the number of each window within its series."""
    counts: dict[int, int] = {}
    numbers = []
    for series in owner.tolist():
        numbers.append(counts.get(series, 0))
        counts[series] = numbers[-1] + 1
    return numbers
