"""The input of an export: the encoder, the data to calibrate on, and the options."""

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
    """Everything that a format's writer needs for one export.

    Attributes:
        measurement: encoder in eval mode, with or without quantizers, and the run's data.
        folder: directory to write into.
        bits: bit-widths to export with.
        group: weights per scale; `None` for one scale per channel.
        policy: quantization policy; `None` for the one that the encoder was trained with, or
            `ssql`.
        observer: kind of the observer that sets the ranges of activations.
        reduce_range: whether to quantize weights to 7 bits; see `mezzotint.quant.onnx.qdq`.
        calibration: number of calibration samples; `None` for 512, or for all of them if there
            are fewer.
        runtime: runtime that will serve the artifact.
        reestimate_batch_norm: whether to re-estimate BatchNorm with the rounded weights.
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
        """The encoder to export, on which nothing is changed."""
        return self.measurement.encoder

    def calibration_batches(self, batch_size: int = 32) -> list[Tensor]:
        """Draw normalized calibration samples, without augmentation and always the same.

        They are training samples; no task's test samples are among them.

        Raises:
            ValueError: if there are fewer samples than `calibration`, or none.
        """
        reading = replace(self.measurement.reading, batch_size=batch_size)
        measurement = Measurement(self.encoder, self.measurement.source, reading)
        tasks = by_fold(measurement.tasks)[0]
        return measurement.calibration(tasks, self.calibration, option="--calibration")


def copy_to_fp32(encoder: Encoder) -> Encoder:
    """Copy an encoder without its quantizers, in fp32 and eval mode on the CPU."""
    quantizers = {name for name, module in encoder.named_modules() if isinstance(module, Quantizer)}
    if not quantizers:
        return copy.deepcopy(encoder).cpu().eval()
    state = {
        name: value
        for name, value in encoder.state_dict().items()
        if name.rpartition(".")[0] not in quantizers
    }
    copied = encoder_of(describe(encoder))
    copied.load_state_dict(state)
    copied.preprocessing = encoder.preprocessing
    return copied.eval()
