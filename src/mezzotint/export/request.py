"""What an export is made from: the encoder in float, the run's data, and what was asked for."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import describe, encoder_of
from mezzotint.evaluation.calibration import by_fold
from mezzotint.evaluation.measurement import Measurement
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.fake import Quantizer

Runtime = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        measurement: encoder in eval mode, quantizable or not, and the run's data.
        folder: directory to write into.
        bits: bit-widths of weights and activations.
        group: weights that share a scale; `None` for one scale a channel.
        policy: which layers; `None` for the encoder's own, or `ssql`.
        observer: kind of the observer that chooses the ranges of activations.
        reduce_range: see `mezzotint.quant.onnx.qdq`.
        calibration: how many samples choose the ranges; `None` for 512, or all that may be used if
            there are fewer.
        runtime: that will serve the artifact.
        reestimate_batch_norm: whether to re-estimate BatchNorm for the rounded weights.
    """

    measurement: Measurement
    folder: Path
    bits: Bits
    group: int | None = None
    policy: str | None = None
    observer: str = "min_max"
    reduce_range: bool | None = None
    calibration: int | None = None
    runtime: Runtime = "onnxruntime"
    reestimate_batch_norm: bool = False

    @property
    def encoder(self) -> Encoder:
        """The encoder to export."""
        return self.measurement.encoder

    def calibration_batches(self, batch_size: int = 32) -> list[Tensor]:
        """Normalized training samples without augmentation, that no task tests on; always the same.

        Raises:
            ValueError: when there are fewer than were asked for, or none.
        """
        reading = replace(self.measurement.reading, batch_size=batch_size)
        measurement = replace(self.measurement, reading=reading)
        tasks = by_fold(measurement.tasks)[0]
        return measurement.calibration(tasks, self.calibration, option="--calibration")


def plain(encoder: Encoder) -> Encoder:
    """The same encoder without quantizers, in float and eval mode; the original stays as it is."""
    own = {name for name, module in encoder.named_modules() if isinstance(module, Quantizer)}
    if not own:
        return copy.deepcopy(encoder).cpu().eval()
    state = {
        name: value
        for name, value in encoder.state_dict().items()
        if name.rpartition(".")[0] not in own
    }
    made = encoder_of(describe(encoder))
    made.load_state_dict(state)
    return made.eval()
