"""Calibration data: training samples from which the ranges of activations are taken.

They are never test samples of any task, so that no range leaks the test set. They are read without
augmentation, and their choice depends on the seed and the samples' indices alone.

Differs from the papers: SSQL's code calibrates on augmented samples and, by a mistake in its loop,
on one batch or five whatever number is set. Here the number of samples is exact.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import FOLD, Source, Task
from mezzotint.evaluation.features import Reading, read_batches
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

DEFAULT = 512
"""Number of samples by default, or all if there are fewer."""


def by_fold(tasks: Sequence[Task]) -> list[list[Task]]:
    """Group tasks that have calibration samples in common.

    Every fold is a group of its own: the other folds test samples that it trains on.
    """
    rest = [task for task in tasks if not FOLD.search(task.name)]
    folds = [[task] for task in tasks if FOLD.search(task.name)]
    return [rest, *folds] if rest or not folds else folds


def calibration_order(tasks: Sequence[Task], count: int, seed: int = 0) -> Tensor:
    """Return the indices of all samples that may be used, in the order of their use.

    Args:
        tasks: samples that some task trains on and none tests on may be used; without tasks, all.
        count: number of samples of the source.
        seed: seed of the order.

    Returns:
        int64 `[M]`.
    """
    pool = np.arange(count, dtype=np.int64)
    if tasks:
        train = np.concatenate([np.asarray(task.train, dtype=np.int64) for task in tasks])
        test = np.concatenate([np.asarray(task.test, dtype=np.int64) for task in tasks])
        # A sample that one task trains on may be another's test sample.
        pool = np.setdiff1d(train, test)
    indices = torch.from_numpy(pool)
    return indices[Draws(indices, key_of("calibration", seed)).bits("place").argsort(stable=True)]


def read_calibration(
    source: Source,
    input: Input,
    order: Tensor,
    count: int | None = None,
    reading: Reading = Reading(),
    *,
    option: str = "evaluate.calibration_samples",
) -> list[Tensor]:
    """Read normalized samples; samples that cannot be read are skipped.

    Args:
        source: source of the samples.
        input: input of the encoder.
        order: see `calibration_order`.
        count: number of samples; `None` for 512, or all if there are fewer.
        reading: how to read; batches go to its device, the CPU by default.
        option: name of the option that set the number, used in messages.

    Returns:
        float32 batches of at most `batch_size`, `count` samples together.

    Raises:
        ValueError: when there are too few samples.
    """
    if count is not None and not 1 <= count <= len(order):
        raise ValueError(
            f"`{option}` must be 1 to {len(order)}, the samples that some task trains on and no "
            f"task tests on, got {count}. Choose another number, or add data."
        )
    device = torch.device(reading.device or "cpu")
    batches: list[Tensor] = []
    target = DEFAULT if count is None else count
    # Unreadable samples are replaced by the next ones, so that the number is the one stated.
    missing, total = target, len(order)
    while missing and len(order):
        for _, x, _ in read_batches(source, order[:missing], reading):
            if len(x):
                batches.append(input.prepare(x.to(device, non_blocking=True)))
        order = order[missing:]
        missing = target - sum(map(len, batches))
    if missing and count is not None:
        raise ValueError(
            f"`{option}` must be at most {count - missing}, the readable samples of {total}, "
            f"got {count}. Choose another number, or add data."
        )
    if not batches:
        raise ValueError(
            f"There are no calibration samples: {total} are trained on by some task and tested on "
            "by none, and none of these can be read. Add data."
        )
    return batches
