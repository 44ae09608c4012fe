"""Embedded sensor series: shoulder exercises seen by a smartwatch.

Burns et al. 2018, "Shoulder physiotherapy exercise recognition" (arXiv 1802.01489): ten subjects,
seven exercises with either arm, 140 recordings of an accelerometer and a gyroscope at 50 Hz, as the
package seglearn brings them. Recordings are cut into windows that overlap by half.

A person's movements are alike from day to day, so windows of one person on both sides of a split
make every method look good. Here whole subjects are held out, and pretraining does not see them
either.
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
    """Windows of six sensors, `[6, window]`: acceleration x, y, z and rotation x, y, z at 50 Hz.

    With the defaults 3,605 windows, of which those of seven subjects are pretrained on.

    Args:
        window: steps in a window; 128 are 2.56 seconds.
        stride: steps from one window to the next.
        test_subjects: of 1 to 10: scored, and seen by nothing else.
        context: steps of a sample of pretraining; by default those of a window. From a longer one
            two views can cut windows at different times (`series_crop` with `steps`), and what a
            whole recording has in common is learned.
        subjects: whose recordings are used at all; by default everybody's. Settings are chosen with
            the test subjects left out: `subjects=[1, 2, 3, 4, 5, 6, 7] test_subjects=[6, 7]`.

    Attributes:
        credit: whose work the recordings are.
        classes: names of the exercises.
        subject: int64 `[N]`, whose each window of the evaluation is.
    """

    modality = "series"
    embedded = ("smartwatch",)
    credit = "Smartwatch exercises: David M. Burns and others (BSD 3-clause), from the package seglearn; arXiv 1802.01489."
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
                f"got window={window}, stride={stride}, context={context}; allowed are windows of 2 steps or more, "
                f"contexts from a window to {_SHORTEST} steps, the shortest recording, and strides from 1: 128 and 64 "
                "are usual"
            )
        if not set(chosen) <= set(_SUBJECTS) or not set(test_subjects) < set(chosen):
            raise ValueError(
                f"got subjects={list(chosen)} and test_subjects={list(test_subjects)}; allowed are numbers of 1 to 10, "
                "and test subjects among them, but not all of them"
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
        """All windows, and the exercise of the held-out subjects'."""
        everything = self.with_samples(self._all, self._labels)
        everything.ids = self._ids
        train, test = np.arange(self._learned_from), np.arange(self._learned_from, len(self._all))
        return everything, [
            Task("exercise/held-out-subjects", "classify", self._labels, train, test, self.classes)
        ]


def _cut(size: int, stride: int, subjects: Sequence[int]) -> tuple[Tensor, Index, Index, list[str]]:
    """Windows `[N, 6, size]` of some subjects, their exercises, their subjects and their names."""
    steps, recordings = _smartwatch()
    parts, labels, people, ids = [], [], [], []
    for place, (start, length, exercise, subject) in enumerate(recordings):
        if subject in subjects:
            cut = np.lib.stride_tricks.sliding_window_view(
                steps[start : start + length], size, axis=0
            )[::stride]
            parts.append(cut)
            labels += [exercise] * len(cut)
            people += [subject] * len(cut)
            ids += [f"smartwatch/{place:03d}/{number:02d}" for number in range(len(cut))]
    windows = torch.from_numpy(np.concatenate(parts))
    return windows, np.array(labels, np.int64), np.array(people, np.int64), ids


@functools.cache
def _smartwatch() -> tuple[npt.NDArray[np.float32], list[tuple[Any, ...]]]:
    """All steps end to end, `[T, 6]`, and of each recording its start, length, exercise and subject."""
    with np.load(io.BytesIO(embedded_file("smartwatch.npz")), allow_pickle=False) as file:
        whole = np.cumsum(file["changes"], axis=0, dtype=np.int16)
        steps = (whole * file["scale"]).astype(np.float32)
        lengths = file["lengths"].astype(np.int64)
        starts = lengths.cumsum() - lengths
        columns = (starts, lengths, file["exercise"], file["subject"])
        return steps, list(zip(*(column.tolist() for column in columns), strict=True))
