"""Post-training quantization of an ONNX file, at one setting after the other.

A file cannot be run at another width, so each setting is a file of its own, with ranges by min-max and rounding to
nearest, run as it would be served. Which operators are quantized follows `mezzotint.quant.onnx`, not a policy; 8 bits
of weights are 7 where this processor's sums may saturate, and rows say so.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.foreign import ForeignEncoder, OnnxSession
from mezzotint.evaluate.setting import Setting
from mezzotint.quant.onnx.cpu import saturates
from mezzotint.quant.onnx.qdq import quantize_onnx


class CalibratedFile:
    """A float ONNX file and what its ranges are to be taken from.

    Args:
        encoder: of `mezzotint.encoders.foreign.onnx`.
        session: the file behind it.
        batches: normalised inputs of the training data.
        protocol: only `plain`.
        policy: none; the file's operators are what is quantized.
        seed: of the samples, which is written down.

    Attributes:
        how: what rows say of calibration and rounding.

    Raises:
        ValueError: for another protocol, or a policy.
    """

    def __init__(
        self,
        encoder: Encoder,
        session: OnnxSession,
        batches: Sequence[Tensor],
        protocol: str = "plain",
        *,
        policy: str | None = None,
        seed: int = 0,
    ) -> None:
        if protocol != "plain" or policy is not None:
            what = f"evaluate.policy: got {policy!r}" if policy else f"evaluate.protocols: got {protocol!r}"
            raise ValueError(f"{what} for an ONNX file; allowed is 'plain' without a policy: leave it out")
        self._encoder, self._session, self._batches = encoder, session, batches
        seen = sum(len(x) for x in batches)
        reduced = " reduce_range" if saturates() else ""
        self.how = f"ptq/1 plain onnx qdq observer=minmax rounding=nearest{reduced} calibration={seen} seed={seed}"

    @contextmanager
    def at(self, setting: Setting) -> Iterator[Encoder]:
        """The file quantized to these bits, run by onnxruntime."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantized.onnx"
            quantize_onnx(
                self._session.path,
                path,
                [part for x in self._batches for part in self._session.batches(x)],
                weight_bits=setting.weight,
                activation_bits=setting.activation,
            )
            shape = self._encoder.input.shape
            session = OnnxSession(path, shape, self._session.output)
            yield ForeignEncoder(self._encoder.input, session, session.dim)

    def require(self, settings: Sequence[Setting]) -> None:
        """Raise a ValueError for a setting that a file cannot have."""
        for setting in settings:
            if not (2 <= setting.weight <= 8 and 2 <= setting.activation <= 8):
                raise ValueError(
                    f"evaluate.bits: got {setting} for an ONNX file; allowed is 2 to 8 on both sides, or 32/32: "
                    "evaluate other settings on the network it was exported from"
                )
