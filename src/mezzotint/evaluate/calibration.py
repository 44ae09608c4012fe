"""Calibration data: samples of the training data from which the ranges of activations are taken.

They are never test samples of any task: a range that has seen the test set is a leak, if a small one. They are read
without augmentation, and which they are is a function of the seed and of the samples' indices. The papers' code
calibrates on augmented samples and, by a slip in its loop, on one batch or five whatever number is asked for
(SSQL's source); here the number is kept to exactly.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import Source, Task
from mezzotint.evaluate.features import Normalise, read_batches
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Input


def calibration_order(tasks: Sequence[Task], count: int, seed: int = 0) -> Tensor:
    """Every sample that may be used, in the order in which they are taken.

    Args:
        tasks: a sample that some task trains on and none tests on may be used; without tasks, all may.
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
    count: int,
    device: torch.device | None = None,
    *,
    batch_size: int = 256,
    workers: int = 0,
) -> list[Tensor]:
    """Read samples as the encoder takes them; what cannot be read is passed over.

    Args:
        source: of the samples.
        input: of the encoder.
        order: see `calibration_order`.
        count: how many.
        device: where the batches are to be; by default the CPU.
        batch_size: samples in one batch.
        workers: of the loader.

    Returns:
        float32 batches of at most `batch_size`, `count` samples together.

    Raises:
        ValueError: when there are fewer.
    """
    if count < 1:
        raise ValueError(f"got calibration_samples={count}; allowed is 1 or more: 512 is the default")
    normalise = Normalise(input, device or torch.device("cpu"))
    batches: list[Tensor] = []
    missing = count
    while missing and len(order):
        for _, x, _ in read_batches(source, order[:missing], batch_size, workers):
            if len(x):
                batches.append(normalise(x))
        order = order[missing:]
        missing = count - sum(map(len, batches))
    if missing:
        raise ValueError(
            f"got calibration_samples={count}, and {count - missing} samples can be used: those that can be read, that "
            "some task trains on and none tests on; allowed is at most their number: set evaluate.calibration_samples"
        )
    return batches
