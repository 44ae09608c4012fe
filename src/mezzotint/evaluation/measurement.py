"""An encoder, the data to measure it on, and how that data is read."""

import copy
import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mezzotint.data.source import Index, Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import progress
from mezzotint.evaluation.attentive import PatchTokens
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import (
    Extraction,
    Kept,
    Reading,
    extract_readable,
    input_features,
)
from mezzotint.evaluation.results import OWN
from mezzotint.seeding import sample_order


class Measurement:
    """One encoder on one source; everything that is measured of it starts here.

    Features are extracted when they are first used, and then kept. Files are read once for all
    encoders, if the samples fit into a gigabyte.

    Args:
        encoder: encoder to measure; it is left as it was.
        source: data of the run; its `evaluation()` gives the samples and the tasks.
        reading: how samples are read and where features are computed.
        most: largest number of training and of test samples of a task, the same ones for every
            encoder; `None` for all.

    Attributes:
        samples: all samples, training and test.
        tasks: tasks over the indices of `samples`.
        indices: int64 `[N]`, the samples to extract features of; `None` for all.
        name: of the encoder, in lines about the progress.
    """

    def __init__(
        self,
        encoder: Encoder,
        source: Source,
        reading: Reading = Reading(),
        *,
        most: int | None = None,
    ) -> None:
        self.encoder, self.source, self.name = encoder, source, OWN
        self.reading = dataclasses.replace(reading, kept=reading.kept or Kept())
        self.samples, tasks = source.evaluation()
        self.tasks, self.indices = limited(tasks, len(self.samples), most)

    @cached_property
    def features(self) -> Extraction:
        """Features of all samples that can be read."""
        with progress.part(f"features of {self.name}"):
            return extract_readable(self.encoder, self.samples, self.reading, indices=self.indices)

    @cached_property
    def patches(self) -> Extraction:
        """Patch tokens of all samples that can be read, `[N, L, D]`; padding is NaN."""
        with progress.part(f"patch tokens of {self.name}"):
            flat = extract_readable(
                PatchTokens(self.encoder), self.samples, self.reading, indices=self.indices
            )
        return dataclasses.replace(flat, x=flat.x.view(len(flat.x), -1, self.encoder.dim))

    @cached_property
    def _input_features(self) -> tuple[Extraction, Extraction | None]:
        with progress.part("raw input and hand-made features"):
            return input_features(self.samples, self.reading, indices=self.indices)

    @property
    def raw(self) -> Extraction:
        """The input itself as features, a baseline for the encoder."""
        return self._input_features[0]

    @property
    def handmade(self) -> Extraction | None:
        """Hand-made features, a baseline too; `None` where the modality has none of its own."""
        return self._input_features[1]

    def of(self, encoder: Encoder, name: str = "another encoder") -> "Measurement":
        """Return the measurement of another encoder on the same samples, read once for both."""
        other = copy.copy(self)
        other.encoder, other.name = encoder, name
        for own in ("features", "patches"):  # of the encoder; the raw input is the same
            vars(other).pop(own, None)
        return other

    def calibration(
        self,
        tasks: Sequence[Task],
        count: int | None = None,
        *,
        most: int | None = None,
        option: str = "evaluate.calibration_samples",
    ) -> list[Tensor]:
        """Read calibration batches, on the device of the forward passes.

        Args:
            tasks: tasks whose test samples are left out; see `calibration_order`.
            count: number of samples; see `read_calibration`.
            most: upper limit of the number that is used by default.
            option: name of the option that set `count`, used in messages.
        """
        order = calibration_order(tasks, len(self.samples))[: most if count is None else None]
        device = self.reading.device_of(self.encoder)
        reading = dataclasses.replace(self.reading, device=device, progress=None)
        return read_calibration(
            self.samples, self.encoder.input, order, count, reading, option=option
        )


def limited(
    tasks: Sequence[Task], count: int, most: int | None
) -> tuple[Sequence[Task], Tensor | None]:
    """Return tasks with at most `most` training and test samples, and the samples they need.

    The samples are a random part of all, the same one each time; without tasks they are as many as
    two sides would have.

    Args:
        tasks: tasks over the indices of a source.
        count: number of its samples.
        most: samples of a side; `None` for all.
    """
    if most is None or count <= most:
        return tasks, None
    rank = np.empty(count, np.int64)
    rank[sample_order(count, 0, 0).numpy()] = np.arange(count)

    def part(side: Index) -> Index:
        chosen: Index = np.sort(side[np.argsort(rank[side])[:most]])
        return chosen

    fewer = [
        dataclasses.replace(
            task,
            train=(train := part(task.train)),
            test=part(task.test),
            validation=np.intersect1d(task.validation, train),
        )
        for task in tasks
    ]
    if not fewer:
        return tasks, sample_order(count, 0, 0, stop=2 * most).sort().values
    sides = [side for task in fewer for side in (task.train, task.test)]
    return fewer, torch.from_numpy(np.unique(np.concatenate(sides)))
