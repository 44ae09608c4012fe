"""Sensor series embedded in the package: shoulder exercises measured by a smartwatch.

Burns et al. 2018, "Shoulder physiotherapy exercise recognition" (arXiv 1802.01489): ten subjects,
seven exercises with either arm, 140 series of an accelerometer and a gyroscope at 50 Hz, from the
package seglearn. They are cut into windows that overlap by half.

A person's movements are alike from day to day, so windows of one person on both sides of a split
inflate every result. Here whole subjects are held out, and pretraining does not see them.
"""

import functools
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.image.embedded import embedded_file
from mezzotint.data.memory import InMemory, float_moments
from mezzotint.data.source import Index, Source, Task
from mezzotint.types import Input

_SUBJECTS = tuple(range(1, 11))
_SHORTEST = 947


class Smartwatch(InMemory):
    """Use embedded windows `[6, window]`: acceleration x, y, z and rotation x, y, z at 50 Hz.

    With the defaults there are 3,605 windows; pretraining sees the windows of seven subjects.

    Args:
        window: steps in a window; 128 are 2.56 seconds.
        stride: steps from one window to the next.
        test_subjects: subjects to score, of 1 to 10; training never sees them.
        context: steps of a pretraining sample; by default one window. From a longer one, two
            views can cut windows at different times (`series_crop` with `steps`), to learn what a
            whole series has in common.
        subjects: subjects to use at all; by default everyone. To choose settings, leave the test
            subjects out: `subjects=[1, 2, 3, 4, 5, 6, 7] test_subjects=[6, 7]`.

    Attributes:
        credit: attribution of the data.
        classes: names of the exercises.
        subject: int64 `[N]`, the subject of each window of the evaluation.
    """

    modality = "series"
    embedded = ("smartwatch",)
    credit = (
        "Smartwatch exercises: David M. Burns and others (BSD 3-clause), from the package "
        "seglearn; arXiv 1802.01489."
    )
    classes: Sequence[str] = (
        "pendulum",
        "abduction",
        "forward elevation",
        "internal rotation",
        "external rotation",
    )
    classes = (*classes, "trapezius", "row")

    def __init__(
        self,
        *,
        window: int = 128,
        stride: int = 64,
        test_subjects: list[int] = [8, 9, 10],  # noqa: B006 - a recipe's default, never changed
        context: int | None = None,
        subjects: list[int] | None = None,
    ) -> None:
        chosen = _SUBJECTS if subjects is None else tuple(subjects)
        longest = window if context is None else context
        if window < 2 or stride < 1 or not window <= longest <= _SHORTEST:
            raise ValueError(
                f"`window` must be 2 or more, `context` from a window to {_SHORTEST} steps, the "
                f"shortest series, and `stride` 1 or more, got window={window}, stride={stride}, "
                f"context={context}. Try window=128 and stride=64."
            )
        if not set(chosen) <= set(_SUBJECTS) or not set(test_subjects) < set(chosen):
            raise ValueError(
                "`subjects` must be numbers of 1 to 10, and `test_subjects` some of them but not "
                f"all, got subjects={list(chosen)} and test_subjects={list(test_subjects)}. "
                "Correct `data.test_subjects`."
            )
        seen, scored = [s for s in chosen if s not in test_subjects], sorted(test_subjects)
        self.images, self.labels, _, self.ids = _cut(longest, stride, seen)
        parts = [_cut(window, stride, people) for people in (seen, scored)]
        windows, labels, people, ids = zip(*parts, strict=True)
        self._all, self._labels = torch.cat(windows), np.concatenate(labels)
        self._learned_from, self._ids = len(windows[0]), [name for part in ids for name in part]
        self.subject = np.concatenate(people)
        self.input = Input((6, window), *float_moments(windows[0]), "series")

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all windows, and the exercise task over held-out subjects."""
        everything = self.with_samples(self._all, self._labels)
        everything.ids = self._ids
        train, test = np.arange(self._learned_from), np.arange(self._learned_from, len(self._all))
        return everything, [
            Task("exercise/held-out-subjects", "classify", self._labels, train, test, self.classes)
        ]


def _cut(size: int, stride: int, subjects: Sequence[int]) -> tuple[Tensor, Index, Index, list[str]]:
    """Cut windows `[N, 6, size]` of some subjects; return exercises, subjects and ids with them."""
    steps, series_list = _smartwatch()
    parts, labels, people, ids = [], [], [], []
    for series, (start, length, exercise, subject) in enumerate(series_list):
        if subject in subjects:
            cut = np.lib.stride_tricks.sliding_window_view(
                steps[start : start + length], size, axis=0
            )[::stride]
            parts.append(cut)
            labels += [exercise] * len(cut)
            people += [subject] * len(cut)
            ids += [f"smartwatch/{series:03d}/{number:02d}" for number in range(len(cut))]
    windows = torch.from_numpy(np.concatenate(parts))
    return windows, np.array(labels, np.int64), np.array(people, np.int64), ids


@functools.cache
def _smartwatch() -> tuple[npt.NDArray[np.float32], list[tuple[Any, ...]]]:
    """Read all steps `[T, 6]`, and start, length, exercise and subject of each series."""
    with np.load(io.BytesIO(embedded_file("smartwatch.npz")), allow_pickle=False) as file:
        whole = np.cumsum(file["changes"], axis=0, dtype=np.int16)
        steps = (whole * file["scale"]).astype(np.float32)
        lengths = file["lengths"].astype(np.int64)
        starts = lengths.cumsum() - lengths
        columns = (starts, lengths, file["exercise"], file["subject"])
        return steps, list(zip(*(column.tolist() for column in columns), strict=True))
