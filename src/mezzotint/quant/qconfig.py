"""Quantization policies: which layers are quantized, where, and which have fixed bits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mezzotint.quant.fake import ActivationQuantizer, Quantizer, WeightQuantizer

PolicyName = Literal["ssql", "all", "first_last_8"]


@dataclass(frozen=True)
class QuantizationPolicy:
    """Rules by which a network is quantized.

    Attributes:
        name: name in reports and in saved files.
        placement: where activations are quantized. `"outputs"`: after each activation function,
            for networks where every convolution follows one; a residual sum is quantized once,
            with its shortcut. `"inputs"`: before each convolution and linear layer. `"auto"`:
            `outputs` for ResNets, `inputs` for all others. `"none"`: weights only.
        first_bits: fixed bits of the first layer; `None` follows the others.
        last_bits: fixed bits of the last layer.
        network_input: whether the input of the first layer is quantized (`inputs` only).
        weight: makes the quantizer of one weight.
        activation: makes the quantizer of one activation.
        skip: full names of modules that stay fp32.
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
    """Return a policy by name; a policy object is returned as it is.

    Raises:
        ValueError: for an unknown name.
    """
    if isinstance(policy, QuantizationPolicy):
        return policy
    if policy not in POLICIES:
        raise ValueError(
            f"`policy` must be {', '.join(POLICIES)} or a QuantizationPolicy, got {policy!r}."
        )
    return POLICIES[policy]
