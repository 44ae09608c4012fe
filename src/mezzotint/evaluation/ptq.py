"""Post-training quantization of a frozen encoder: a copy, at one pair of bits after another.

Three methods. `min_max` is the papers' (SSQL, Cao et al. 2022, arXiv 2207.05432): ranges from the
extremes of the calibration data, rounding to nearest. `batch_norm` re-estimates BatchNorm's
statistics and the ranges for each number of weight bits (`mezzotint.quant.batch_norm`).
`adaround` takes the ranges of least squared error and learns the rounding of the weights and the
steps of the activations, block by block and for each pair of bit-widths
(`mezzotint.quant.reconstruct`). What min-max PTQ keeps is the encoder's merit; what only the others
keep is the quantizer's.

An ONNX file has one pair of bit-widths, so each pair is a file of its own, with min-max ranges and
rounding to nearest, run as it would be served. `mezzotint.quant.onnx` chooses the operators, not a
policy; weights of 8 bits have 7 where sums may saturate on this processor, as the protocol says.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.onnx import ForeignEncoder, OnnxFeatures
from mezzotint.evaluation.protocol import PTQ, PTQMethod, Settings
from mezzotint.quant.batch_norm import batch_norm_reestimated
from mezzotint.quant.bitwidth import Bits, bits, calibrate
from mezzotint.quant.clipping_observers import MSE
from mezzotint.quant.convert import (
    activation_quantizers,
    make_encoder_quantizable,
    weight_quantizers,
)
from mezzotint.quant.onnx.qdq import quantize_onnx, saturates
from mezzotint.quant.ranges import Quantization
from mezzotint.quant.reconstruct import reconstruct_

_MIN_MAX: Settings = (("observer", "minmax"), ("rounding", "nearest"))
_SETTINGS: dict[PTQMethod, Settings] = {
    "min_max": _MIN_MAX,
    "batch_norm": (*_MIN_MAX, ("batchnorm", "reestimated")),
    "adaround": (("observer", "mse"), ("rounding", "adaround")),
}


@dataclass(frozen=True)
class Calibrated:
    """A copy of an encoder with calibrated activation ranges, for all pairs of bit-widths.

    Attributes:
        network: the copy.
        ptq: how it is quantized, for the protocol of its rows.
        batches: calibration batches.
        steps: steps of reconstruction per block, for `adaround`.
    """

    network: Encoder
    ptq: PTQ
    batches: Sequence[Tensor]
    steps: int

    @contextmanager
    def at(self, to: Bits) -> Iterator[Encoder]:
        """Run the network at these bits inside the block."""
        if self.ptq.method == "adaround" and to.weight != 32:
            reconstruct_(
                self.network,
                self.batches,
                weight=to.weight,
                activation=to.activation,
                steps=self.steps,
                seed=self.ptq.seed,
            )
        with ExitStack() as stack:
            if self.ptq.method == "batch_norm" and to.weight != 32:
                stack.enter_context(
                    batch_norm_reestimated(self.network, self.batches, weight=to.weight)
                )
            stack.enter_context(bits(self.network, to))
            stack.enter_context(_weights_quantized_once(self.network))
            yield self.network

    def require(self, low: Sequence[Bits]) -> None:
        """Raise a ValueError for bits that some quantizer does not support."""
        for to in low:
            with bits(self.network, to):
                pass


def calibrated_copy(
    encoder: Encoder,
    batches: Sequence[Tensor],
    method: PTQMethod = "min_max",
    *,
    policy: str | Quantization | None = None,
    steps: int = 500,
    seed: int = 0,
) -> Calibrated:
    """Copy an encoder, make the copy quantizable, and calibrate it.

    Args:
        encoder: encoder, quantizable or not; it is left as it was.
        batches: normalized inputs of the training data; the copy goes to their device.
        method: `min_max`, `batch_norm` or `adaround`.
        policy: layers to quantize, and ranges; by default the encoder's own policy, or `ssql`.
        steps: steps of reconstruction per block and pair of bit-widths, for `adaround`.
        seed: seed of the calibration samples, for the protocol, and of reconstruction.

    Raises:
        ValueError: for an unknown policy or method, or an encoder with nothing to quantize.
    """
    if method not in _SETTINGS:
        raise ValueError(
            f"`evaluate.ptq` must be {', '.join(_SETTINGS)}, got {method!r}. Choose among them."
        )
    chosen = policy if isinstance(policy, Quantization) else Quantization(layers=policy)  # type: ignore[arg-type]
    network, name = _quantizable_copy(encoder, chosen.layers)
    network.to(batches[0].device)
    chosen.apply_(network)
    if method == "adaround":
        own = [] if chosen.weights.observer else [q for _, q in weight_quantizers(network)]
        own += [] if chosen.activations.observer else activation_quantizers(network)
        for quantizer in own:
            quantizer.observer = MSE().to(batches[0].device)
    samples = calibrate(network, batches)
    sides = (("weights", chosen.weights.words), ("activations", chosen.activations.words))
    settings = (*_SETTINGS[method], *((name, words) for name, words in sides if words))
    if method == "adaround":
        settings = (*settings, ("steps", steps))
    ptq = PTQ(method=method, policy=name, settings=settings, calibration=samples, seed=seed)
    return Calibrated(network, ptq, batches, steps)


def _quantizable_copy(encoder: Encoder, policy: str | None) -> tuple[Encoder, str]:
    """Return a copy and the name of its policy."""
    network = copy.deepcopy(encoder)
    if not any(True for _ in weight_quantizers(network)):
        make_encoder_quantizable(network, policy or "ssql")
        return network, policy or "ssql"
    own: str = getattr(encoder, "quantization", None) or "own"
    if policy not in (None, own):
        raise ValueError(
            f"`evaluate.policy` must be {own!r}, by which the encoder is quantizable already, got "
            f"{policy!r}. Leave it out."
        )
    return network, own


@contextmanager
def _weights_quantized_once(network: nn.Module) -> Iterator[None]:
    """Keep the quantized weights inside the block: frozen ones are quantized once."""
    kept = [
        (layer, quantizer, dict(layer._parameters))
        for layer, quantizer in weight_quantizers(network)
    ]
    try:
        for layer, quantizer, parameters in kept:
            with torch.no_grad():
                quantized = {name: getattr(layer, name) for name in parameters}
            # Past the attribute, which quantizes whenever it is read, so in every forward pass.
            for name, value in quantized.items():
                layer._parameters[name] = (
                    None if value is None else nn.Parameter(value, requires_grad=False)
                )
            quantizer.mode = "off"  # `bits` restores the mode
        yield
    finally:
        for layer, _, parameters in kept:
            layer._parameters.update(parameters)


class CalibratedFile:
    """An fp32 ONNX file with its calibration batches.

    Args:
        encoder: encoder of kind `onnx`.
        session: features of the file behind it.
        batches: normalized inputs of the training data.
        method: `min_max` only.
        policy: must be `None`: the operators of the file are quantized.
        seed: seed of the calibration samples, for the protocol.

    Attributes:
        ptq: how it is quantized, for the protocol of its rows.

    Raises:
        ValueError: for another method, or a policy.
    """

    def __init__(
        self,
        encoder: Encoder,
        session: OnnxFeatures,
        batches: Sequence[Tensor],
        method: PTQMethod = "min_max",
        *,
        policy: str | Quantization | None = None,
        seed: int = 0,
    ) -> None:
        if policy is not None:
            raise ValueError(
                "`evaluate.policy` must be null for an ONNX file, whose operators are quantized, "
                f"got {getattr(policy, 'config', policy)!r}. Leave it out."
            )
        if method != "min_max":
            raise ValueError(
                f"`evaluate.ptq` must be min_max for an ONNX file, got {method!r}. Leave it out."
            )
        self._encoder, self._session, self._batches = encoder, session, batches
        reduced: Settings = (("reduce_range", True),) if saturates() else ()
        self.ptq = PTQ(
            method="min_max",
            policy="onnx_qdq",
            settings=(*_MIN_MAX, *reduced),
            calibration=sum(len(x) for x in batches),
            seed=seed,
        )

    @contextmanager
    def at(self, to: Bits) -> Iterator[Encoder]:
        """Quantize the file to these bits, and run it in ONNX Runtime inside the block."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantized.onnx"
            quantize_onnx(
                self._session.path,
                path,
                [part for x in self._batches for part in self._session.batches(x)],
                bits=to,
            )
            session = OnnxFeatures(path, self._encoder.input, self._session.output)
            yield ForeignEncoder(self._encoder.input, session, session.dim)

    def require(self, low: Sequence[Bits]) -> None:
        """Raise a ValueError for bits that an ONNX file cannot have."""
        for to in low:
            if not (2 <= to.weight <= 8 and 2 <= to.activation <= 8):
                raise ValueError(
                    f"`evaluate.bits` must be 2 to 8 on both sides, or fp32, for an ONNX file, got "
                    f"{to}. Evaluate other bits on the network that was exported."
                )
