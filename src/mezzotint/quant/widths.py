"""Run a quantizable network at a width, in float, or so that it collects the ranges of its activations."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mezzotint.quant.fake import Quantizer, WeightQuantizer
from mezzotint.quant.grid import Bits
from mezzotint.quant.layers import activation_quantizers, parameter_of, weight_quantizers


def set_bits(encoder: nn.Module, weight: Bits, activation: Bits) -> None:
    """Run at these widths until told otherwise; 32 is float.

    `bits` is the same as a context, and refuses a network that was never calibrated; this waits for no device.
    """
    for side in (weight, activation):
        if not isinstance(side, Tensor) and side != 32 and not 1 <= side <= 8:
            raise ValueError(f"got {side} bits; allowed are 1 to 8, and 32 for float")
    found = False
    for layer, quantizer in weight_quantizers(encoder):
        found = True
        _set(quantizer, weight)
        if quantizer.mode == "quantize" and isinstance(quantizer, WeightQuantizer):
            quantizer.fit(parameter_of(layer))
    if not found:
        raise ValueError(f"{type(encoder).__name__} has no quantizers; call quantize_(encoder) first")
    for quantizer in activation_quantizers(encoder):
        _set(quantizer, activation)


def _set(quantizer: Quantizer, width: Bits) -> None:
    if not isinstance(width, Tensor) and width == 32:
        quantizer.mode = "off"
    else:
        quantizer.mode = "quantize"
        quantizer.set_bits(width)


def set_off(encoder: nn.Module) -> None:
    """Run in float until told otherwise."""
    for module in encoder.modules():
        if isinstance(module, Quantizer):
            module.mode = "off"


def start_observing(encoder: nn.Module) -> None:
    """Run in float, and forget and collect the ranges of activations anew."""
    set_off(encoder)
    for quantizer in activation_quantizers(encoder):
        quantizer.observer.reset()
        quantizer.mode = "observe"


def stop_observing(encoder: nn.Module) -> None:
    """Pool over the ranks what was collected, and make it the ranges."""
    for quantizer in activation_quantizers(encoder):
        quantizer.observer.synchronize()
        quantizer.refresh()
        quantizer.mode = "off"


def forget_observed(encoder: nn.Module) -> None:
    """Keep the ranges, and no longer what they were made from."""
    for quantizer in activation_quantizers(encoder):
        quantizer.observer.reset()


@contextmanager
def _restored(encoder: nn.Module) -> Iterator[None]:
    states = [(m, m.mode, m.bits) for m in encoder.modules() if isinstance(m, Quantizer)]
    try:
        yield
    finally:
        for module, mode, width in states:
            module.mode, module.bits = mode, width


@contextmanager
def bits(encoder: nn.Module, *, weight: Bits, activation: Bits) -> Iterator[nn.Module]:
    """Run a quantizable network at a width, and as before afterwards.

    Args:
        encoder: that `quantize_` has prepared and, unless `activation` is 32, `calibrate` has seen.
        weight: bits of the weights: 1 to 8, or 32 for float.
        activation: bits of the activations.

    Raises:
        ValueError: for another number of bits, a network without quantizers, or one that was never calibrated.
    """
    with _restored(encoder):
        set_bits(encoder, weight, activation)
        for quantizer in activation_quantizers(encoder):
            if quantizer.mode == "quantize" and not quantizer.calibrated:
                raise ValueError("activations have no range yet; allowed is a calibrated network: call calibrate first")
        yield encoder


@contextmanager
def off(encoder: nn.Module) -> Iterator[nn.Module]:
    """Run a quantizable network in float, and as before afterwards."""
    with _restored(encoder):
        set_off(encoder)
        yield encoder


@torch.no_grad()
def calibrate(encoder: nn.Module, batches: Iterable[Tensor]) -> int:
    """Choose the ranges of activations from data: in eval mode, in float, without gradient.

    Args:
        encoder: that `quantize_` has prepared; its mode and widths are left as they were.
        batches: normalised inputs, of the training data and without augmentation.

    Returns:
        How many samples were seen.

    Raises:
        ValueError: when there are none, or when an activation is not finite.
    """
    modes = [(module, module.training) for module in encoder.modules()]
    seen = 0
    with _restored(encoder):
        encoder.eval()
        start_observing(encoder)
        try:
            for x in batches:
                encoder(x)
                seen += len(x)
        finally:
            for module, training in modes:
                module.training = training
        if seen == 0:
            raise ValueError("the calibration set is empty; allowed is one sample or more: give batches of inputs")
        stop_observing(encoder)
    _refuse_not_finite(encoder)
    return seen


def _refuse_not_finite(encoder: nn.Module) -> None:
    for name, module in encoder.named_modules():
        if isinstance(module, Quantizer) and module.observer.seen and not isinstance(module, WeightQuantizer):
            if not (module.low.isfinite().all() and module.high.isfinite().all()):
                raise ValueError(
                    f"activations at {name} are not finite on the calibration data; allowed are finite values: "
                    "look at the weights and at the input's normalisation"
                )
