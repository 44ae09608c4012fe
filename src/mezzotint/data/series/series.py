"""Sensor series of one's own: arrays, UCR and UEA `.ts` files, or a CSV table with a column for the subject.

Recordings are cut into windows of one length. Where a value is missing the two around it are joined
by a straight line, as long as the gap has at most `max_gap` steps; a window with a longer gap
is left out, and so is the end of a recording that fills no window. A recording shorter than a
window is brought to its length by interpolation when it has at least half of it, and is left out
else.

With subjects, whole subjects are held out, and pretraining does not see them: windows of one person
on both sides of a split make every method look good.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.memory import InMemory, float_moments
from mezzotint.data.sampling import held_out
from mezzotint.data.series.files import Array, Layout, Recording, read_csv, read_npz, read_ts
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.types import Input


class Series(InMemory):
    """Windows of sensor series from an `.npz`, `.ts` or `.csv` file.

    Args:
        path: of the file; beside `name_TRAIN.ts`, `name_TEST.ts` is the test set.
        x: name of the series in an `.npz`, `[N, C, T]` or `[N, T]`.
        y: name of the labels in an `.npz` or of their column in a CSV.
        subject: name of the array or column that says whose series it is.
        channels: columns of a CSV that are measurements; by default all others.
        layout: of an `.npz`.
        window: steps in a window; by default the length of the longest recording.
        stride: steps from one window to the next; by default half a window.
        max_gap: missing values in a row that are interpolated.
        holdout: part of the subjects, or without subjects of the recordings of each class, to be
            scored.

    Attributes:
        classes: names of the classes; a label is a place in this list.
        left_out: windows and recordings that had too long a gap or too few steps.

    Raises:
        ValueError: when nothing can be read, or no window is left.
    """

    modality = "series"
    opens = frozenset({".npz", ".ts", ".csv"})

    def __init__(
        self,
        *,
        path: str,
        x: str = "x",
        y: str = "label",
        subject: str = "subject",
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
                f"got window={window}, stride={stride}, max_gap={max_gap}; allowed are 2 steps or more, 1 or "
                "more, and 0 or more: 128, 64 and 5 suit sensors at 50 Hz"
            )
        self.path, self.holdout = path, holdout
        recordings = _read(Path(path), x, y, subject, channels, layout)
        counts = {len(recording.values) for recording in recordings}
        if len(counts) > 1:
            raise ValueError(
                f"{path} holds series of {sorted(counts)} channels; allowed is one number: sort them"
            )
        size = window or max(2, *(recording.values.shape[1] for recording in recordings))
        windows, owner, self.left_out = _windows(
            recordings, size, stride or max(1, size // 2), max_gap
        )
        if not windows:
            raise ValueError(
                f"{path}: no window of {size} steps is left of {len(recordings)} recordings; allowed are recordings of "
                f"{size // 2} steps or more with gaps of at most {max_gap}: set window or max_gap"
            )
        if self.left_out:
            warnings.warn(
                f"{path}: {self.left_out} windows left out, for gaps of more than {max_gap} steps or too few steps",
                RuntimeWarning,
                stacklevel=2,
            )
        names = sorted({r.label for r in recordings if r.label is not None})
        self.classes = names
        recorded = np.array(
            [-1 if r.label is None else names.index(r.label) for r in recordings], np.int64
        )
        test, self.split = _test_recordings(recordings, recorded, holdout)
        order = np.argsort(
            test[owner], kind="stable"
        )  # those to be scored stand behind what pretraining counts
        owner = owner[order]
        self._all = torch.from_numpy(np.stack(windows)[order])
        self._labels = recorded[owner]
        number = _running_number(owner)
        self.ids = [
            f"{recordings[r].id}/{n:04d}" for r, n in zip(owner.tolist(), number, strict=True)
        ]
        seen = int((~test[owner]).sum())
        self.images, self.labels = self._all[:seen], self._labels[:seen]
        self.input = Input(tuple(self._all.shape[1:]), *float_moments(self.images), "series")

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(path=path, window=input.shape[1])

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All windows, and the task where there are at least two classes."""
        everything = self.with_samples(self._all, self._labels)
        test = np.arange(len(self._all)) >= len(self.images)
        return everything, label_tasks(f"label/{self.split}", self._labels, test, self.classes)


def _read(
    path: Path, x: str, y: str, subject: str, channels: list[str] | None, layout: Layout
) -> list[Recording]:
    if path.suffix == ".npz":
        return read_npz(path, x, y, subject, layout)
    if path.suffix == ".ts":
        return read_ts(path)
    if path.suffix == ".csv":
        return read_csv(path, channels, y, subject, "recording")
    raise ValueError(
        f"{path}: got the suffix {path.suffix!r}; allowed are .npz, .ts and .csv: convert the file"
    )


def _windows(
    recordings: Sequence[Recording], size: int, stride: int, max_gap: int
) -> tuple[list[Array], Index, int]:
    """Windows `[C, size]` without a gap, the recording of each, and how many were left out."""
    windows, owner, left_out = [], [], 0
    for place, recording in enumerate(recordings):
        values = bridged(recording.values, max_gap)
        steps = values.shape[1]
        if steps < size:
            if 2 * steps < size or not np.isfinite(values).all():
                left_out += 1
                continue
            values = _stretched(values, size)
        for start in range(0, values.shape[1] - size + 1, stride):
            cut = values[:, start : start + size]
            if np.isfinite(cut).all():
                windows.append(np.ascontiguousarray(cut, np.float32))
                owner.append(place)
            else:
                left_out += 1
    return windows, np.array(owner, np.int64), left_out


def bridged(values: Array, max_gap: int) -> Array:
    """A series with its short gaps filled by straight lines.

    Args:
        values: `[C, T]`, NaN or infinite where a value is missing.
        max_gap: missing values in a row that are filled; at either end the nearest value is
            repeated.

    Returns:
        `[C, T]`, NaN where a gap is longer, or a channel has no value at all.
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


def _test_recordings(
    recordings: Sequence[Recording], labels: Index, holdout: float
) -> tuple[npt.NDArray[np.bool_], str]:
    """Which recordings are for scoring, and what the split is called."""
    test = np.array([recording.test for recording in recordings])
    if test.any() and not test.all():
        return test, "test"
    people = sorted({r.subject for r in recordings if r.subject is not None})
    if len(people) > 1:
        place = np.array(
            [-1 if r.subject is None else people.index(r.subject) for r in recordings], np.int64
        )
        chosen = held_out(np.zeros(len(people), np.int64), holdout, "subject")
        return np.where(place >= 0, chosen[place], False), "held-out-subjects"
    return held_out(labels, holdout, "label"), "holdout"


def _running_number(owner: Index) -> list[int]:
    """The place of each window among those of its recording."""
    counts: dict[int, int] = {}
    found = []
    for place in owner.tolist():
        found.append(counts.get(place, 0))
        counts[place] = found[-1] + 1
    return found
