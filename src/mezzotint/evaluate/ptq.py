"""Post-training quantization of a frozen encoder, as an evaluation needs it: on a copy, at one setting after the other.

Three ways to choose ranges and rounding stand side by side. `plain` is the papers' (SSQL, Cao et al. 2022, arXiv
2207.05432): the extremes of the calibration data, and rounding to nearest. `corrected` is plain with BatchNorm's
statistics and the ranges put right for each width of the weights (`mezzotint.quant.renorm`). `strong` takes the ranges
of least squared error, and learns the rounding of the weights and the steps of the activations, block after block and
for each setting anew (`mezzotint.quant.reconstruct`). What only the other ways keep is the quantizer's merit; what
plain keeps as well is the encoder's.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluate.setting import Setting
from mezzotint.quant.layers import activation_quantizers, make_encoder_quantizable, weight_quantizers
from mezzotint.quant.reconstruct import reconstruct_
from mezzotint.quant.renorm import batch_norm_corrected
from mezzotint.quant.searched import MSE
from mezzotint.quant.widths import bits, calibrate

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
    def at(self, setting: Setting) -> Iterator[Encoder]:
        """The network at these bits."""
        if self.steps and setting.weight != 32:
            reconstruct_(
                self.network,
                self.batches,
                weight=setting.weight,
                activation=setting.activation,
                steps=self.steps,
                seed=self.seed,
            )
        with ExitStack() as stack:
            if self.corrected and setting.weight != 32:
                stack.enter_context(batch_norm_corrected(self.network, self.batches, weight=setting.weight))
            stack.enter_context(bits(self.network, weight=setting.weight, activation=setting.activation))
            stack.enter_context(_weights_quantized_once(self.network))
            yield self.network

    def require(self, settings: Sequence[Setting]) -> None:
        """Raise a ValueError for a setting that some quantizer has no grid for."""
        for setting in settings:
            with bits(self.network, weight=setting.weight, activation=setting.activation):
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
        batches: normalised inputs of the training data; the copy goes to their device.
        protocol: `plain`, `corrected` or `strong`.
        policy: which layers; by default the encoder's own when it is quantizable already, else `ssql`.
        steps: of reconstruction, for each block and setting (`strong`).
        seed: of the samples, which is written down, and of reconstruction.

    Raises:
        ValueError: for a policy or protocol that does not exist, or an encoder in which nothing can be quantized.
    """
    if protocol not in _PROTOCOLS:
        raise ValueError(f"evaluate.protocols: got {protocol!r}; allowed: {', '.join(_PROTOCOLS)}; choose among them")
    strong = protocol == "strong"
    network, name = _quantizable_copy(encoder, policy)
    network.to(batches[0].device)
    if strong:
        for quantizer in (*(q for _, q in weight_quantizers(network)), *activation_quantizers(network)):
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
    kept = [(layer, quantizer, dict(layer._parameters)) for layer, quantizer in weight_quantizers(network)]
    try:
        for layer, quantizer, parameters in kept:
            with torch.no_grad():
                shown = {name: getattr(layer, name) for name in parameters}
            for name, value in shown.items():
                layer._parameters[name] = None if value is None else nn.Parameter(value, requires_grad=False)
            quantizer.mode = "off"  # `bits` puts it back
        yield
    finally:
        for layer, _, parameters in kept:
            layer._parameters.update(parameters)
