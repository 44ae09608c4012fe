"""Calibration data: samples of the training data from which the ranges of activations are taken.

They are never test samples of any task: a range that has seen the test set is a leak, if a small
one. They are read without augmentation, and which they are is a function of the seed and of the
samples' indices. The papers' code calibrates on augmented samples and, by a slip in its loop, on
one batch or five whatever number is asked for (SSQL's source); here a number that is asked for is
kept to exactly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import FOLD, Source, Task
from mezzotint.evaluation.features import InputNormalizer, read_batches
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input

DEFAULT = 512
"""Samples that are taken where no number is asked for, and there are as many."""


def by_fold(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks in groups that can be calibrated together: every fold by itself, as the others test what it trains on."""
    rest = [task for task in tasks if not FOLD.search(task.name)]
    folds = [[task] for task in tasks if FOLD.search(task.name)]
    return [rest, *folds] if rest or not folds else folds


def calibration_order(tasks: Sequence[Task], count: int, seed: int = 0) -> Tensor:
    """Every sample that may be used, in the order in which they are taken.

    Args:
        tasks: a sample that some task trains on and none tests on may be used; without tasks, all
            may.
        count: samples of the source.
        seed: another one gives another order.

    Returns:
        int64 `[M]`, indices.
    """
    pool = np.arange(count, dtype=np.int64)
    if tasks:
        train = np.concatenate([np.asarray(task.train, dtype=np.int64) for task in tasks])
        test = np.concatenate([np.asarray(task.test, dtype=np.int64) for task in tasks])
        pool = np.setdiff1d(train, test)
    indices = torch.from_numpy(pool)
    return indices[Draws(indices, key_of("calibration", seed)).bits("place").argsort(stable=True)]


def read_calibration(
    source: Source,
    input: Input,
    order: Tensor,
    count: int | None = None,
    device: torch.device | None = None,
    *,
    batch_size: int = 256,
    workers: int = 0,
    option: str = "evaluate.calibration_samples",
) -> list[Tensor]:
    """Read samples as the encoder takes them; what cannot be read is passed over.

    Args:
        source: of the samples.
        input: of the encoder.
        order: see `calibration_order`.
        count: how many; `None` for 512, or all that can be used if there are fewer.
        device: where the batches are to be; by default the CPU.
        batch_size: samples in one batch.
        workers: of the loader.
        option: by which the number was asked for.

    Returns:
        float32 batches of at most `batch_size`, `count` samples together.

    Raises:
        ValueError: when there are fewer, or none at all.
    """
    if count is not None and not 1 <= count <= len(order):
        raise ValueError(
            f"got {option}={count}; allowed are 1 to {len(order)}, the samples that some task trains on and none tests "
            "on: give another number, or more data"
        )
    normalize = InputNormalizer(input, device or torch.device("cpu"))
    batches: list[Tensor] = []
    wanted = DEFAULT if count is None else count
    missing, total = wanted, len(order)
    while missing and len(order):
        for _, x, _ in read_batches(source, order[:missing], batch_size, workers):
            if len(x):
                batches.append(normalize(x))
        order = order[missing:]
        missing = wanted - sum(map(len, batches))
    if missing and count is not None:
        raise ValueError(
            f"got {option}={count}, and {count - missing} of {total} samples can be read; allowed is at most their "
            "number: give another, or more data"
        )
    if not batches:
        raise ValueError(
            f"got no sample to calibrate with: {total} are trained on by some task and tested on by none, of which "
            "none can be read; give more data"
        )
    return batches
