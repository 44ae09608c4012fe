"""Policies: which layers of a network are quantized, where, and which of them keep a width of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mezzotint.quant.fake import ActivationQuantizer, Quantizer, WeightQuantizer

PolicyName = Literal["ssql", "all", "first_last_8"]


@dataclass(frozen=True)
class QuantizationPolicy:
    """How a network is quantized.

    Attributes:
        name: for reports and for what is written beside the weights.
        placement: where activations are quantized. `"outputs"`: after each activation function, so
            that a residual block's sum is quantized once and its shortcut too; for networks in
            which every convolution is fed by one. `"inputs"`: what enters each convolution and
            linear; for all others. `"auto"`: `outputs` for the residual networks that have that
            form, `inputs` otherwise. `"none"`: weights only.
        first_bits: fixed width of the first layer; `None` follows the rest.
        last_bits: fixed width of the last layer.
        network_input: whether what enters the first layer is quantized (`inputs` only).
        weight: makes the quantizer of one weight.
        activation: makes the quantizer of one activation.
        skip: names of modules, in full, that stay float.
    """

    name: str
    placement: Literal["auto", "outputs", "inputs", "none"] = "auto"
    first_bits: int | None = None
    last_bits: int | None = None
    network_input: bool = True
    weight: Callable[[], Quantizer] = WeightQuantizer
    activation: Callable[[], Quantizer] = ActivationQuantizer
    skip: tuple[str, ...] = ()


POLICIES: dict[str, QuantizationPolicy] = {
    "ssql": QuantizationPolicy("ssql", first_bits=8, network_input=False),
    "all": QuantizationPolicy("all", placement="inputs"),
    "first_last_8": QuantizationPolicy(
        "first_last_8", placement="inputs", first_bits=8, last_bits=8
    ),
}


def policy_of(policy: str | QuantizationPolicy) -> QuantizationPolicy:
    """A policy by name.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(policy, QuantizationPolicy):
        return policy
    if policy not in POLICIES:
        raise ValueError(
            f"got policy {policy!r}; allowed: {', '.join(POLICIES)}, or a QuantizationPolicy; choose one"
        )
    return POLICIES[policy]
