"""Post-training quantization of a frozen encoder, as an evaluation needs it: on a copy, at one setting after the other.

Three ways to choose ranges and rounding stand side by side. `plain` is the papers' (SSQL, Cao et
al. 2022, arXiv 2207.05432): the extremes of the calibration data, and rounding to nearest.
`corrected` is plain with BatchNorm's statistics and the ranges put right for each width of the
weights (`mezzotint.quant.batch_norm`). `strong` takes the ranges of least squared error, and
learns the rounding of the weights and the steps of the activations, block after block and for each
setting anew (`mezzotint.quant.reconstruct`). What only the other ways keep is the quantizer's
merit; what plain keeps as well is the encoder's.

Post-training quantization of an ONNX file, at one setting after the other.

A file cannot be run at another width, so each setting is a file of its own, with ranges by min-max
and rounding to nearest, run as it would be served. Which operators are quantized follows
`mezzotint.quant.onnx`, not a policy; 8 bits of weights are 7 where this processor's sums may
saturate, and rows say so.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import ForeignEncoder, OnnxFeatures
from mezzotint.quant.batch_norm import batch_norm_reestimated
from mezzotint.quant.bitwidth import Bits, bits, calibrate
from mezzotint.quant.clipping_observers import MSE
from mezzotint.quant.convert import (
    activation_quantizers,
    make_encoder_quantizable,
    weight_quantizers,
)
from mezzotint.quant.onnx.qdq import quantize_onnx, saturates
from mezzotint.quant.reconstruct import reconstruct_

Protocol = Literal["plain", "corrected", "strong"]

_PROTOCOLS = {
    "plain": "observer=minmax rounding=nearest",
    "corrected": "observer=minmax rounding=nearest batchnorm=corrected",
    "strong": "observer=mse rounding=adaround",
}


@dataclass(frozen=True)
class Calibrated:
    """A copy of an encoder with the ranges of its activations, for all settings.

    Attributes:
        network: the copy.
        how: what rows say of policy, calibration and rounding.
        batches: what it was calibrated on.
        steps: of reconstruction for each block; 0 for none.
        seed: of reconstruction.
        corrected: whether BatchNorm and ranges are put right for each width of the weights.
    """

    network: Encoder
    how: str
    batches: Sequence[Tensor]
    steps: int
    seed: int
    corrected: bool = False

    @contextmanager
    def at(self, to: Bits) -> Iterator[Encoder]:
        """The network at these bits."""
        if self.steps and to.weight != 32:
            reconstruct_(
                self.network,
                self.batches,
                weight=to.weight,
                activation=to.activation,
                steps=self.steps,
                seed=self.seed,
            )
        with ExitStack() as stack:
            if self.corrected and to.weight != 32:
                stack.enter_context(
                    batch_norm_reestimated(self.network, self.batches, weight=to.weight)
                )
            stack.enter_context(bits(self.network, to))
            stack.enter_context(_weights_quantized_once(self.network))
            yield self.network

    def require(self, settings: Sequence[Bits]) -> None:
        """Raise a ValueError for a setting that some quantizer has no grid for."""
        for to in settings:
            with bits(self.network, to):
                pass


def calibrated_copy(
    encoder: Encoder,
    batches: Sequence[Tensor],
    protocol: str = "plain",
    *,
    policy: str | None = None,
    steps: int = 500,
    seed: int = 0,
) -> Calibrated:
    """Copy and calibrate.

    Args:
        encoder: quantizable already or not; it is left as it was.
        batches: normalized inputs of the training data; the copy goes to their device.
        protocol: `plain`, `corrected` or `strong`.
        policy: which layers; by default the encoder's own when it is quantizable already, else
            `ssql`.
        steps: of reconstruction, for each block and setting (`strong`).
        seed: of the samples, which is written down, and of reconstruction.

    Raises:
        ValueError: for a policy or protocol that does not exist, or an encoder in which nothing can
            be quantized.
    """
    if protocol not in _PROTOCOLS:
        raise ValueError(
            f"evaluate.protocols: got {protocol!r}; allowed: {', '.join(_PROTOCOLS)}; choose among them"
        )
    strong = protocol == "strong"
    network, name = _quantizable_copy(encoder, policy)
    network.to(batches[0].device)
    if strong:
        for quantizer in (
            *(q for _, q in weight_quantizers(network)),
            *activation_quantizers(network),
        ):
            quantizer.observer = MSE().to(batches[0].device)
    seen = calibrate(network, batches)
    words = f"ptq/1 {protocol} policy={name} {_PROTOCOLS[protocol]}{f' steps={steps}' if strong else ''}"
    return Calibrated(
        network,
        f"{words} calibration={seen} seed={seed}",
        batches,
        steps if strong else 0,
        seed,
        protocol == "corrected",
    )


def _quantizable_copy(encoder: Encoder, policy: str | None) -> tuple[Encoder, str]:
    """A copy, and the name of its policy."""
    network = copy.deepcopy(encoder)
    if not any(True for _ in weight_quantizers(network)):
        make_encoder_quantizable(network, policy or "ssql")
        return network, policy or "ssql"
    own: str = getattr(encoder, "quantization", None) or "own"
    if policy not in (None, own):
        raise ValueError(
            f"evaluate.policy: got {policy!r}, and the encoder is quantizable by {own!r} already; allowed is that one: "
            "leave evaluate.policy out"
        )
    return network, own


@contextmanager
def _weights_quantized_once(network: nn.Module) -> Iterator[None]:
    """In place of quantizing every weight anew in each forward pass, which frozen weights do not need."""
    kept = [
        (layer, quantizer, dict(layer._parameters))
        for layer, quantizer in weight_quantizers(network)
    ]
    try:
        for layer, quantizer, parameters in kept:
            with torch.no_grad():
                shown = {name: getattr(layer, name) for name in parameters}
            for name, value in shown.items():
                layer._parameters[name] = (
                    None if value is None else nn.Parameter(value, requires_grad=False)
                )
            quantizer.mode = "off"  # `bits` puts it back
        yield
    finally:
        for layer, _, parameters in kept:
            layer._parameters.update(parameters)


class CalibratedFile:
    """A float ONNX file and what its ranges are to be taken from.

    Args:
        encoder: of `mezzotint.encoders.onnx.onnx`.
        session: the file behind it.
        batches: normalized inputs of the training data.
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
        session: OnnxFeatures,
        batches: Sequence[Tensor],
        protocol: str = "plain",
        *,
        policy: str | None = None,
        seed: int = 0,
    ) -> None:
        if protocol != "plain" or policy is not None:
            what = (
                f"evaluate.policy: got {policy!r}"
                if policy
                else f"evaluate.protocols: got {protocol!r}"
            )
            raise ValueError(
                f"{what} for an ONNX file; allowed is 'plain' without a policy: leave it out"
            )
        self._encoder, self._session, self._batches = encoder, session, batches
        seen = sum(len(x) for x in batches)
        reduced = " reduce_range" if saturates() else ""
        self.how = f"ptq/1 plain onnx qdq observer=minmax rounding=nearest{reduced} calibration={seen} seed={seed}"

    @contextmanager
    def at(self, to: Bits) -> Iterator[Encoder]:
        """The file quantized to these bits, run by onnxruntime."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantized.onnx"
            quantize_onnx(
                self._session.path,
                path,
                [part for x in self._batches for part in self._session.batches(x)],
                bits=to,
            )
            shape = self._encoder.input.shape
            session = OnnxFeatures(path, shape, self._session.output)
            yield ForeignEncoder(self._encoder.input, session, session.dim)

    def require(self, settings: Sequence[Bits]) -> None:
        """Raise a ValueError for a setting that a file cannot have."""
        for to in settings:
            if not (2 <= to.weight <= 8 and 2 <= to.activation <= 8):
                raise ValueError(
                    f"evaluate.bits: got {to} for an ONNX file; allowed is 2 to 8 on both sides, or fp32: "
                    "evaluate other settings on the network it was exported from"
                )
