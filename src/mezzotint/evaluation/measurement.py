"""An encoder, the data to measure it on, and how that data is read."""

import copy
import dataclasses
from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.attentive import PatchTokens
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import Extraction, Reading, extract_readable, input_features


class Measurement:
    """One encoder on one source; everything that is measured of it starts here.

    Features are extracted when they are first used, and then kept.

    Args:
        encoder: encoder to measure; it is left as it was.
        source: data of the run; its `evaluation()` gives the samples and the tasks.
        reading: how samples are read and where features are computed.

    Attributes:
        samples: all samples to extract features of, training and test.
        tasks: tasks over the indices of `samples`.
    """

    def __init__(self, encoder: Encoder, source: Source, reading: Reading = Reading()) -> None:
        self.encoder, self.source, self.reading = encoder, source, reading
        self.samples, self.tasks = source.evaluation()

    @cached_property
    def features(self) -> Extraction:
        """Features of all samples that can be read."""
        return extract_readable(self.encoder, self.samples, self.reading)

    @cached_property
    def patches(self) -> Extraction:
        """Patch tokens of all samples that can be read, `[N, L, D]`; padding is NaN."""
        flat = extract_readable(PatchTokens(self.encoder), self.samples, self.reading)
        return dataclasses.replace(flat, x=flat.x.view(len(flat.x), -1, self.encoder.dim))

    @cached_property
    def _input_features(self) -> tuple[Extraction, Extraction | None]:
        return input_features(self.samples, self.reading)

    @property
    def raw(self) -> Extraction:
        """The input itself as features, a baseline for the encoder."""
        return self._input_features[0]

    @property
    def handmade(self) -> Extraction | None:
        """Hand-made features, a baseline too; `None` where the modality has none of its own."""
        return self._input_features[1]

    def of(self, encoder: Encoder) -> "Measurement":
        """Return the measurement of another encoder on the same samples, read once for both."""
        other = copy.copy(self)
        other.encoder = encoder
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
