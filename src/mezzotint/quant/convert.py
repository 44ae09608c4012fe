"""Make a network quantizable once, then run the same weights at any bit-width.

    quantize_(encoder, "ssql")
    calibrate(encoder, batches)
    with bits(encoder, weight=4, activation=4):
        features = encoder(x)

No layer is wrapped and no weight is copied. The class of a layer is swapped for a subclass whose
`weight` property returns the parameter through a quantizer. Parameters and their names stay, so
optimizers, state dicts and `isinstance` work as before.

A policy says which layers are quantized, where, and which have fixed bits.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

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


_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish,
)  # fmt: skip
_RESIDUAL = ("BasicBlock", "Bottleneck")


class _QuantizedWeight:
    """Mix-in of a convolution or linear layer."""

    weight_quantizer: Quantizer
    input_quantizer: Quantizer | None

    @property
    def weight(self) -> Tensor:
        """Return the quantized parameter."""
        parameter = parameter_of(self)
        return (
            parameter
            if self.weight_quantizer.mode != "quantize"
            else self.weight_quantizer(parameter)
        )

    @property
    def bias(self) -> Tensor | None:
        """Return the bias, including the bias correction for the current bits."""
        bias: Tensor | None = self._parameters["bias"]  # type: ignore[attr-defined]
        shift = (
            self.weight_quantizer.tuned("shift")
            if self.weight_quantizer.mode == "quantize"
            else None
        )
        if shift is None:
            return bias
        return shift if bias is None else bias + shift

    def forward(self, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """Run the layer, with its input quantized if the policy says so."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        out: Tensor = super().forward(x, *args, **keywords)  # type: ignore[misc]
        return out


class _QuantizedOutput:
    """Mix-in of an activation function."""

    output_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Run the activation function and quantize its output."""
        out: Tensor = self.output_quantizer(super().forward(x))  # type: ignore[misc]
        return out


@functools.cache
def _subclass(mixin: type[Any], cls: type[Any]) -> type[Any]:
    return type(f"Quantized{cls.__name__}", (mixin, cls), {"__doc__": cls.__doc__})


@dataclass(frozen=True)
class Conversion:
    """Report of `quantize_`.

    Attributes:
        policy: name of the policy.
        weights: converted layers, by name, with a description of what is quantized.
        activations: converted activation functions, likewise.
        skipped: layers that stay fp32, with the reason.
    """

    policy: str
    weights: dict[str, str] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"policy {self.policy}: {len(self.weights)} weights and {len(self.activations)} "
            "activations quantized"
        ]
        for title, names in (
            ("weight", self.weights),
            ("activation", self.activations),
            ("fp32", self.skipped),
        ):
            lines += [f"  {title:<10} {name}: {what}" for name, what in names.items()]
        return "\n".join(lines)


def quantize_(
    encoder: nn.Module,
    policy: str | QuantizationPolicy = "ssql",
    *,
    show: Callable[[str], None] | None = None,
) -> Conversion:
    """Make a network quantizable, in place. It stays in fp32 until `bits` is entered.

    Args:
        encoder: network with convolutions or linear layers.
        policy: name (`ssql`, `all`, `first_last_8`), or a policy of your own.
        show: called with a table of the converted and skipped layers, such as `print`.

    Returns:
        The converted and skipped layers.

    Raises:
        ValueError: when nothing can be quantized, or the network is quantizable already.
    """
    policy = policy_of(policy)
    if any(isinstance(module, Quantizer) for module in encoder.modules()):
        raise ValueError(
            "The network is quantizable already. Call `quantize_` once, and choose the bits with "
            "`bits()`."
        )
    done = Conversion(policy.name)
    usable = _usable(encoder, policy, done)
    placement = policy.placement if policy.placement != "auto" else _placement(encoder)
    for index, (name, layer) in enumerate(usable.items()):
        fixed = (
            policy.first_bits
            if index == 0
            else policy.last_bits
            if index == len(usable) - 1
            else None
        )
        inputs = placement == "inputs" and (index > 0 or policy.network_input)
        _convert_weighted(layer, policy, fixed, inputs)
        which = f"{fixed} bits" if fixed else "any bits"
        done.weights[name] = f"{which}, input too" if inputs else which
    if placement == "outputs":
        units = {
            name: module
            for name, module in encoder.named_modules()
            if isinstance(module, _ACTIVATIONS)
        }
        device = next(iter(encoder.parameters())).device
        for index, (name, unit) in enumerate(units.items()):
            fixed = policy.first_bits if index == 0 else None
            quantize_output_(unit, _fixed(policy.activation(), fixed).to(device))
            done.activations[name] = f"{fixed} bits" if fixed else "any bits"
    if show is not None:
        show(str(done))
    return done


def _usable(
    encoder: nn.Module, policy: QuantizationPolicy, done: Conversion
) -> dict[str, nn.Module]:
    """Return the layers to convert, and report those that stay fp32 with the reason."""
    layers: dict[str, nn.Module] = {
        name: module for name, module in encoder.named_modules() if isinstance(module, _WEIGHTED)
    }
    usable = {name: layer for name, layer in layers.items() if name not in policy.skip}
    done.skipped.update(
        {name: "named in the policy's skip" for name in layers if name not in usable}
    )
    for name, module in encoder.named_modules():
        matrices = [key for key, p in module.named_parameters(recurse=False) if p.ndim >= 2]
        if matrices and not isinstance(module, _WEIGHTED):
            done.skipped[name] = (
                f"{type(module).__name__} is neither a convolution nor a linear layer"
            )
    if not usable:
        raise ValueError(
            f"{type(encoder).__name__} has nothing to quantize: the policy skips all of its "
            f"{len(layers)} convolutions and linear layers. Use a network with such layers, or "
            "another policy."
        )
    return usable


def _placement(encoder: nn.Module) -> str:
    names = {type(module).__name__ for module in encoder.modules()}
    units = any(isinstance(module, _ACTIVATIONS) for module in encoder.modules())
    return "outputs" if units and names.intersection(_RESIDUAL) else "inputs"


def _convert_weighted(
    layer: Any, policy: QuantizationPolicy, fixed: int | None, inputs: bool
) -> None:
    layer.__class__ = _subclass(_QuantizedWeight, layer.__class__)
    weight = parameter_of(layer)
    layer.weight_quantizer = _fixed(policy.weight(), fixed).to(weight.device)
    layer.weight_quantizer.attach(weight)
    layer.input_quantizer = _fixed(policy.activation(), fixed).to(weight.device) if inputs else None


def quantize_output_(module: Any, quantizer: Quantizer) -> None:
    """Quantize the output of a module without weights, such as an activation function, in place."""
    module.__class__ = _subclass(_QuantizedOutput, module.__class__)
    module.output_quantizer = quantizer


def _fixed(quantizer: Quantizer, bits: int | None) -> Quantizer:
    if bits is not None:
        quantizer.fix(bits)
    return quantizer


def weight_quantizers(encoder: nn.Module) -> Iterator[tuple[Any, Quantizer]]:
    """Iterate over the quantized layers, each with its weight's quantizer."""
    for _, layer in quantized_layers(encoder):
        yield layer, layer.weight_quantizer


def quantized_layers(encoder: nn.Module) -> Iterator[tuple[str, Any]]:
    """Iterate over the layers with a quantized weight, each with its name."""
    for name, module in encoder.named_modules():
        if isinstance(module, _QuantizedWeight):
            yield name, module


def quantizer_slots(module: nn.Module) -> Iterator[tuple[nn.Module, str, Quantizer]]:
    """Iterate over owner, attribute and quantizer, so that a quantizer can be replaced."""
    for owner in module.modules():
        for slot in ("weight_quantizer", "input_quantizer", "output_quantizer"):
            if isinstance(quantizer := owner._modules.get(slot), Quantizer):
                yield owner, slot, quantizer


def activation_quantizers(encoder: nn.Module) -> Iterator[Quantizer]:
    """Iterate over the quantizers of activations, in the order of the modules."""
    for _, quantizer in named_activation_quantizers(encoder):
        yield quantizer


def named_activation_quantizers(encoder: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Iterate over the quantizers of activations, each with the name of its module."""
    for name, module in encoder.named_modules():
        if isinstance(module, _QuantizedWeight) and module.input_quantizer is not None:
            yield name, module.input_quantizer
        elif isinstance(module, _QuantizedOutput):
            yield name, module.output_quantizer


def parameter_of(layer: Any) -> Tensor:
    """Return the fp32 weight of a quantized layer."""
    parameter: Tensor = layer._parameters["weight"]
    return parameter


def make_encoder_quantizable(encoder: Any, policy: str) -> None:
    """Call `quantize_` and record the policy in the encoder, so that it is saved and loaded.

    Args:
        encoder: an `Encoder`; nothing happens if it is quantizable by this policy already.
        policy: name of the policy.

    Raises:
        ValueError: when the encoder is quantizable by another policy.
    """
    current = getattr(encoder, "quantization", None)
    if current is not None and current != policy:
        raise ValueError(
            f"`policy` must be {current!r}, by which the encoder is quantizable already, got "
            f"{policy!r}. Leave the policy out."
        )
    if current is None:
        quantize_(encoder, policy)
        encoder.quantization = policy
