"""Run a quantizable network at a width, in float, or so that it collects the ranges of its activations."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mezzotint.quant.convert import (
    activation_quantizers,
    named_activation_quantizers,
    parameter_of,
    quantized_layers,
    weight_quantizers,
)
from mezzotint.quant.fake import Quantizer
from mezzotint.quant.grid import Bits
from mezzotint.quant.hooks import evaluating


@dataclass(frozen=True)
class Quantizers:
    """The quantizers of a network, found once.

    Attributes:
        weights: each quantized layer with the quantizer of its weight.
        activations: in the order of the modules.
    """

    weights: list[tuple[Any, Quantizer]]
    activations: list[Quantizer]

    @classmethod
    def of(cls, network: nn.Module) -> "Quantizers":
        """Of a network that `quantize_` has prepared.

        Raises:
            ValueError: when it was not.
        """
        found = cls(list(weight_quantizers(network)), list(activation_quantizers(network)))
        if not found.weights:
            raise ValueError(
                f"{type(network).__name__} has no quantizers; call quantize_(encoder) first"
            )
        return found

    def set_bits(self, weight: Bits, activation: Bits) -> None:
        """Run at these widths until told otherwise; 32 is float. Waits for no device."""
        for layer, quantizer in self.weights:
            _set(quantizer, weight)
            if quantizer.mode == "quantize":
                quantizer.fit(parameter_of(layer))
        for quantizer in self.activations:
            _set(quantizer, activation)

    def set_off(self) -> None:
        """Run in float until told otherwise."""
        for _, quantizer in self.weights:
            quantizer.mode = "off"
        for quantizer in self.activations:
            quantizer.mode = "off"

    def start_observing(self, weight: Bits = 32) -> None:
        """Run with float activations, and forget and collect their ranges anew."""
        self.set_bits(weight, 32)
        for quantizer in self.activations:
            quantizer.untune("range")
            quantizer.observer.reset()
            quantizer.mode = "observe"

    def stop_observing(self) -> None:
        """Pool over the ranks what was collected, and make it the ranges."""
        for quantizer in self.activations:
            quantizer.observer.synchronize()
            quantizer.refresh()
            quantizer.mode = "off"

    def forget_observed(self) -> None:
        """Keep the ranges, and no longer what they were made from."""
        for quantizer in self.activations:
            quantizer.observer.reset()


def _set(quantizer: Quantizer, width: Bits) -> None:
    if not isinstance(width, Tensor) and width == 32:
        quantizer.mode = "off"
    else:
        quantizer.mode = "quantize"
        quantizer.set_bits(width)


@contextmanager
def _restored(encoder: nn.Module) -> Iterator[None]:
    """Leave each quantizer's mode and width, and the range that belongs to them, as they were."""
    quantizers = Quantizers.of(encoder)
    every = [quantizer for _, quantizer in quantizers.weights] + quantizers.activations
    states = [
        (quantizer, quantizer.mode, quantizer.bits, quantizer.num_bits) for quantizer in every
    ]
    try:
        yield
    finally:
        for quantizer, mode, bits, width in states:
            quantizer.mode, quantizer.bits, quantizer.num_bits = mode, bits, width
        for layer, quantizer in quantizers.weights:
            if quantizer.mode == "quantize":
                quantizer.fit(parameter_of(layer))
        for quantizer in quantizers.activations:
            if quantizer.mode == "quantize":
                quantizer.refresh()


@contextmanager
def bits(encoder: nn.Module, *, weight: Bits, activation: Bits) -> Iterator[nn.Module]:
    """Run a quantizable network at a width, and as before afterwards.

    Args:
        encoder: that `quantize_` has prepared and, unless `activation` is 32, `calibrate` has seen.
        weight: bits of the weights: 1 to 8, or 32 for float.
        activation: bits of the activations.

    Raises:
        ValueError: for another number of bits, a network without quantizers, or one that was never
            calibrated.
    """
    for side in (weight, activation):
        if not isinstance(side, Tensor) and side != 32 and not 1 <= side <= 8:
            raise ValueError(f"got {side} bits; allowed are 1 to 8, and 32 for float")
    quantizers = Quantizers.of(encoder)
    _refuse(encoder, weight, activation)
    with _restored(encoder):
        quantizers.set_bits(weight, activation)
        for quantizer in quantizers.activations:
            if quantizer.mode == "quantize" and not quantizer.calibrated:
                raise ValueError(
                    "activations have no range yet; allowed is a calibrated network: call calibrate first"
                )
        yield encoder


def _refuse(encoder: nn.Module, weight: Bits, activation: Bits) -> None:
    """Raise before anything is changed when a quantizer has no grid at its width."""
    for name, layer in quantized_layers(encoder):
        if isinstance(weight, Tensor) or weight != 32:
            layer.weight_quantizer.check_bits(weight, f"The weight of `{name}`")
    for name, quantizer in named_activation_quantizers(encoder):
        if isinstance(activation, Tensor) or activation != 32:
            quantizer.check_bits(activation, f"The activation of `{name}`")


@contextmanager
def off(encoder: nn.Module) -> Iterator[nn.Module]:
    """Run a quantizable network in float, and as before afterwards."""
    with _restored(encoder):
        Quantizers.of(encoder).set_off()
        yield encoder


@torch.no_grad()
def calibrate(encoder: nn.Module, batches: Iterable[Tensor], *, weight: Bits = 32) -> int:
    """Choose the ranges of activations from data: in eval mode, with float activations, without gradient.

    Args:
        encoder: that `quantize_` has prepared; its mode and widths are left as they were.
        batches: normalized inputs, of the training data and without augmentation.
        weight: bits of the weights meanwhile; by default float, so that the ranges do for every
            width.

    Returns:
        How many samples were seen.

    Raises:
        ValueError: when there are none, or when an activation is not finite.
    """
    quantizers = Quantizers.of(encoder)
    seen = 0
    with _restored(encoder), evaluating(encoder):
        quantizers.start_observing(weight)
        for x in batches:
            encoder(x)
            seen += len(x)
        if seen == 0:
            raise ValueError(
                "the calibration set is empty; allowed is one sample or more: give batches of inputs"
            )
        quantizers.stop_observing()
    _refuse_not_finite(encoder)
    return seen


def _refuse_not_finite(encoder: nn.Module) -> None:
    for name, quantizer in named_activation_quantizers(encoder):
        if quantizer.observer.seen:
            if not (quantizer.low.isfinite().all() and quantizer.high.isfinite().all()):
                raise ValueError(
                    f"activations at {name} are not finite on the calibration data; allowed are finite values: "
                    "look at the weights and at the input's normalization"
                )
