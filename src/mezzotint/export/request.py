"""What an export is made from: the encoder in float, the run's data, and what was asked for."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import describe, encoder_of
from mezzotint.evaluation.calibration import by_fold, calibration_order, read_calibration
from mezzotint.evaluation.suite import asked
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.fake import Quantizer

Runtime = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        encoder: in eval mode; it may be quantizable.
        source: the run's data.
        folder: to write into.
        bits: bit-widths of weights and activations.
        group: weights that share a scale; `None` for one scale a channel.
        policy: which layers; `None` for the encoder's own, or `ssql`.
        observer: kind of the observer that chooses the ranges of activations.
        reduce_range: see `mezzotint.quant.onnx.qdq`.
        calibration: how many samples choose the ranges; `None` for 512, or all that may be used if
            there are fewer.
        runtime: that will serve the artifact.
        workers: of the loader.
        corrected: whether BatchNorm is put right for the rounded weights.
    """

    encoder: Encoder
    source: Source
    folder: Path
    bits: Bits
    group: int | None = None
    policy: str | None = None
    observer: str = "min_max"
    reduce_range: bool | None = None
    calibration: int | None = None
    runtime: Runtime = "onnxruntime"
    workers: int = 0
    corrected: bool = False

    def calibration_batches(self, batch_size: int = 32) -> list[Tensor]:
        """Normalized training samples without augmentation, that no task tests on; always the same.

        Raises:
            ValueError: when there are fewer than were asked for, or none.
        """
        samples, tasks = asked(self.source)
        order = calibration_order(by_fold(tasks)[0], len(samples))
        return read_calibration(
            samples, self.encoder.input, order, self.calibration,
            batch_size=batch_size, workers=self.workers, option="--calibration",
        )  # fmt: skip


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
