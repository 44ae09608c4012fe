"""Bit-widths: the pair `W4A8`; run a quantizable network with it or in fp32, and calibrate it."""

import re
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
from mezzotint.quant.grid import BitWidth
from mezzotint.quant.hooks import evaluating

_WRITTEN = re.compile(r"w(\d{1,2})a(\d{1,2})|(\d{1,2})(?:/(\d{1,2}))?", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Bits:
    """Bits of the weights and of the activations, written `W4A8`; 32 stands for fp32.

    Attributes:
        weight: bits of the weights: 1 to 8, or 32.
        activation: bits of the activations: 1 to 8, or 32.

    Raises:
        ValueError: for any other number of bits.
    """

    weight: int = 32
    activation: int = 32

    def __post_init__(self) -> None:
        for side in (self.weight, self.activation):
            if side != 32 and not 1 <= side <= 8:
                raise ValueError(
                    f"Bits must be 1 to 8, or 32 for fp32, got {side}. Write W8A8, W2A4 or fp32."
                )

    @classmethod
    def parse(cls, text: str | int, option: str = "bits") -> "Bits":
        """Read `W4A8`, `4/8`, `8` (both sides) or `fp32`.

        Args:
            text: the text, as given.
            option: name of the option it was given for, used in the message.

        Raises:
            ValueError: for anything else, including bits other than 1 to 8 and 32.
        """
        words = str(text).strip()
        if words.lower() == "fp32":
            return cls()
        match = _WRITTEN.fullmatch(words)
        sides = [int(side) for side in match.groups() if side is not None] if match else []
        if not sides or any(side != 32 and not 1 <= side <= 8 for side in sides):
            raise ValueError(
                f"`{option}` must be a pair of bit-widths such as W8A8 or W2A4, each 1 to 8 or 32, "
                f"got {text!r}. For full precision write fp32."
            )
        return cls(sides[0], sides[-1])

    @property
    def is_float(self) -> bool:
        """Whether both weights and activations are fp32."""
        return self == FP32

    def __str__(self) -> str:
        return "fp32" if self.is_float else f"W{self.weight}A{self.activation}"


FP32 = Bits()
"""Full precision."""


@dataclass(frozen=True)
class Quantizers:
    """All quantizers of a network.

    Attributes:
        weights: quantized layers, each with its weight's quantizer.
        activations: quantizers of activations, in the order of the modules.
    """

    weights: list[tuple[Any, Quantizer]]
    activations: list[Quantizer]

    @classmethod
    def of(cls, network: nn.Module) -> "Quantizers":
        """Find the quantizers of a network after `quantize_`.

        Raises:
            ValueError: when the network is not quantizable.
        """
        quantizers = cls(list(weight_quantizers(network)), list(activation_quantizers(network)))
        if not quantizers.weights:
            raise ValueError(
                f"{type(network).__name__} has no quantizers. Call `quantize_(encoder)` first."
            )
        return quantizers

    def set_bits(self, weight: BitWidth, activation: BitWidth) -> None:
        """Set the bits of all quantizers, 32 for fp32, without waiting for the device."""
        for layer, quantizer in self.weights:
            _set(quantizer, weight)
            if quantizer.mode == "quantize":
                quantizer.fit(parameter_of(layer))
        for quantizer in self.activations:
            _set(quantizer, activation)

    def set_off(self) -> None:
        """Switch all quantizers off: fp32."""
        for _, quantizer in self.weights:
            quantizer.mode = "off"
        for quantizer in self.activations:
            quantizer.mode = "off"

    def start_observing(self, weight: BitWidth = 32) -> None:
        """Forget the ranges of activations, and collect new ones with fp32 activations."""
        self.set_bits(weight, 32)
        for quantizer in self.activations:
            quantizer.untune("range")
            quantizer.observer.reset()
            quantizer.mode = "observe"

    def stop_observing(self) -> None:
        """Pool the observations of all ranks, and set the ranges from them."""
        for quantizer in self.activations:
            quantizer.observer.synchronize()
            quantizer.refresh()
            quantizer.mode = "off"

    def forget_observed(self) -> None:
        """Discard the observations, and keep the ranges."""
        for quantizer in self.activations:
            quantizer.observer.reset()


def _set(quantizer: Quantizer, number: BitWidth) -> None:
    if not isinstance(number, Tensor) and number == 32:
        quantizer.mode = "off"
    else:
        quantizer.mode = "quantize"
        quantizer.set_bits(number)


@contextmanager
def _restored(encoder: nn.Module) -> Iterator[None]:
    """Restore each quantizer's mode, bits and range after the block."""
    quantizers = Quantizers.of(encoder)
    every = [quantizer for _, quantizer in quantizers.weights] + quantizers.activations
    states = [
        (quantizer, quantizer.mode, quantizer.bits, quantizer.num_bits) for quantizer in every
    ]
    try:
        yield
    finally:
        for quantizer, mode, bits, number in states:
            quantizer.mode, quantizer.bits, quantizer.num_bits = mode, bits, number
        for layer, quantizer in quantizers.weights:
            if quantizer.mode == "quantize":
                quantizer.fit(parameter_of(layer))
        for quantizer in quantizers.activations:
            if quantizer.mode == "quantize":
                quantizer.refresh()


@contextmanager
def bits(
    encoder: nn.Module,
    to: Bits = FP32,
    /,
    *,
    weight: BitWidth | None = None,
    activation: BitWidth | None = None,
) -> Iterator[nn.Module]:
    """Run a quantizable network at these bits inside the block, and as before afterwards.

    Args:
        encoder: network that `quantize_` has prepared and that `calibrate` has run on, unless its
            activations stay in fp32.
        to: bits of weights and activations.
        weight: bits of the weights, overriding `to`; a tensor serves compiled graphs.
        activation: bits of the activations, overriding `to`.

    Raises:
        ValueError: for another number of bits, a network without quantizers, or one that was never
            calibrated.
    """
    weight = to.weight if weight is None else weight
    activation = to.activation if activation is None else activation
    for side in (weight, activation):
        if not isinstance(side, Tensor) and side != 32 and not 1 <= side <= 8:
            raise ValueError(f"Bits must be 1 to 8, or 32 for fp32, got {side}.")
    quantizers = Quantizers.of(encoder)
    _check_bits(encoder, weight, activation)
    with _restored(encoder):
        quantizers.set_bits(weight, activation)
        for quantizer in quantizers.activations:
            if quantizer.mode == "quantize" and not quantizer.calibrated:
                raise ValueError("The activations have no ranges. Call `calibrate` first.")
        yield encoder


def _check_bits(encoder: nn.Module, weight: BitWidth, activation: BitWidth) -> None:
    """Raise a ValueError, before any change, when a quantizer does not support its bits."""
    for name, layer in quantized_layers(encoder):
        if isinstance(weight, Tensor) or weight != 32:
            layer.weight_quantizer.check_bits(weight, f"The weight of `{name}`")
    for name, quantizer in named_activation_quantizers(encoder):
        if isinstance(activation, Tensor) or activation != 32:
            quantizer.check_bits(activation, f"The activation of `{name}`")


@contextmanager
def off(encoder: nn.Module) -> Iterator[nn.Module]:
    """Run a quantizable network in fp32 inside the block, and as before afterwards."""
    with _restored(encoder):
        Quantizers.of(encoder).set_off()
        yield encoder


@torch.no_grad()
def calibrate(encoder: nn.Module, batches: Iterable[Tensor], *, weight: BitWidth = 32) -> int:
    """Choose the ranges of activations from data, in eval mode and with fp32 activations.

    Args:
        encoder: network after `quantize_`; its mode and bits are restored.
        batches: normalized inputs of the training data, without augmentation.
        weight: bits of the weights meanwhile; by default fp32, so that the ranges serve all bits.

    Returns:
        Number of calibration samples.

    Raises:
        ValueError: without samples, or when activations contain NaN or inf.
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
                "The calibration set is empty. It needs one sample or more: pass batches of inputs."
            )
        quantizers.stop_observing()
    _check_finite(encoder)
    return seen


def _check_finite(encoder: nn.Module) -> None:
    for name, quantizer in named_activation_quantizers(encoder):
        if quantizer.observer.seen:
            if not (quantizer.low.isfinite().all() and quantizer.high.isfinite().all()):
                raise ValueError(
                    f"The activation of `{name}` contains NaN or inf on the calibration data. "
                    "Check the weights and the normalization of the input."
                )
