"""Make a network quantizable once, then run the same weights at any width.

    quantize_(encoder, "ssql")
    calibrate(encoder, batches)
    with bits(encoder, weight=4, activation=4):
        features = encoder(x)

A layer keeps its class, its parameters and their names: its class is replaced by a subclass of it
in which `weight` is the parameter seen through a quantizer. Nothing is wrapped and no weight is
copied, so optimizers, state dicts and `isinstance` see the network they knew.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from mezzotint.quant.fake import Quantizer
from mezzotint.quant.qconfig import QuantizationPolicy, policy_of

_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish,
)  # fmt: skip
_RESIDUAL = ("BasicBlock", "Bottleneck")


class _QuantizedWeight:
    """Mixed into a convolution or linear."""

    weight_quantizer: Quantizer
    input_quantizer: Quantizer | None

    @property
    def weight(self) -> Tensor:
        """The parameter, through its quantizer."""
        parameter = parameter_of(self)
        return (
            parameter
            if self.weight_quantizer.mode != "quantize"
            else self.weight_quantizer(parameter)
        )

    @property
    def bias(self) -> Tensor | None:
        """The parameter, with what bias correction adds at the present width."""
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
        """As the layer's own, with its input quantized where the policy says so."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        out: Tensor = super().forward(x, *args, **keywords)  # type: ignore[misc]
        return out


class _QuantizedOutput:
    """Mixed into an activation function."""

    output_quantizer: Quantizer

    def forward(self, x: Tensor) -> Tensor:
        """As the function's own, then quantized."""
        out: Tensor = self.output_quantizer(super().forward(x))  # type: ignore[misc]
        return out


@functools.cache
def _subclass(mixin: type[Any], cls: type[Any]) -> type[Any]:
    return type(f"Quantized{cls.__name__}", (mixin, cls), {"__doc__": cls.__doc__})


@dataclass(frozen=True)
class Conversion:
    """What `quantize_` did.

    Attributes:
        policy: its name.
        weights: converted layers, by name, with what is quantized of each.
        activations: converted activation functions.
        skipped: layers left float, with the reason.
    """

    policy: str
    weights: dict[str, str] = field(default_factory=dict)
    activations: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [
            f"policy {self.policy}: {len(self.weights)} weights, {len(self.activations)} activations quantized"
        ]
        for title, names in (
            ("weight", self.weights),
            ("activation", self.activations),
            ("left float", self.skipped),
        ):
            lines += [f"  {title:<10} {name}: {what}" for name, what in names.items()]
        return "\n".join(lines)


def quantize_(
    encoder: nn.Module,
    policy: str | QuantizationPolicy = "ssql",
    *,
    show: Callable[[str], None] | None = None,
) -> Conversion:
    """Make a network quantizable, in place. It computes as before until `bits` is entered.

    Args:
        encoder: with convolutions or linears.
        policy: by name (`ssql`, `all`, `first_last_8`), or one of your own.
        show: called with a table of what was converted and what was not; `print` for the terminal.

    Returns:
        The same as data.

    Raises:
        ValueError: when nothing can be quantized, or the network is quantizable already.
    """
    policy = policy_of(policy)
    if any(isinstance(module, Quantizer) for module in encoder.modules()):
        raise ValueError(
            "the network is quantizable already; allowed is one quantize_; use bits() to choose a width"
        )
    done = Conversion(policy.name)
    usable = _usable(encoder, policy, done)
    placement = policy.placement if policy.placement != "auto" else _placement(encoder)
    for place, (name, layer) in enumerate(usable.items()):
        fixed = (
            policy.first_bits
            if place == 0
            else policy.last_bits
            if place == len(usable) - 1
            else None
        )
        inputs = placement == "inputs" and (place > 0 or policy.network_input)
        _convert_weighted(layer, policy, fixed, inputs)
        width = f"{fixed} bits" if fixed else "any width"
        done.weights[name] = f"{width}, input too" if inputs else width
    if placement == "outputs":
        units = {
            name: module
            for name, module in encoder.named_modules()
            if isinstance(module, _ACTIVATIONS)
        }
        device = next(iter(encoder.parameters())).device
        for place, (name, unit) in enumerate(units.items()):
            fixed = policy.first_bits if place == 0 else None
            quantize_output_(unit, _fixed(policy.activation(), fixed).to(device))
            done.activations[name] = f"{fixed} bits" if fixed else "any width"
    if show is not None:
        show(str(done))
    return done


def _usable(
    encoder: nn.Module, policy: QuantizationPolicy, done: Conversion
) -> dict[str, nn.Module]:
    """The layers to convert; what is left float is written down with its reason."""
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
            done.skipped[name] = f"{type(module).__name__} is neither a convolution nor a linear"
    if not usable:
        raise ValueError(
            f"nothing to quantize in {type(encoder).__name__}: got {len(layers)} convolutions and linears, "
            "all of them skipped; give a network that has some, or another policy"
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
    """Quantize what a module without weights returns, such as an activation function, in place."""
    module.__class__ = _subclass(_QuantizedOutput, module.__class__)
    module.output_quantizer = quantizer


def _fixed(quantizer: Quantizer, bits: int | None) -> Quantizer:
    if bits is not None:
        quantizer.fix(bits)
    return quantizer


def weight_quantizers(encoder: nn.Module) -> Iterator[tuple[Any, Quantizer]]:
    """Every quantized layer with the quantizer of its weight."""
    for _, layer in quantized_layers(encoder):
        yield layer, layer.weight_quantizer


def quantized_layers(encoder: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every convolution and linear whose weight is quantized, with its name."""
    for name, module in encoder.named_modules():
        if isinstance(module, _QuantizedWeight):
            yield name, module


def quantizer_places(module: nn.Module) -> Iterator[tuple[nn.Module, str, Quantizer]]:
    """Every quantizer with the module that has it and its name there, so that it can be exchanged."""
    for owner in module.modules():
        for place in ("weight_quantizer", "input_quantizer", "output_quantizer"):
            if isinstance(quantizer := owner._modules.get(place), Quantizer):
                yield owner, place, quantizer


def activation_quantizers(encoder: nn.Module) -> Iterator[Quantizer]:
    """Every quantizer of an activation, in the order of the modules."""
    for _, quantizer in named_activation_quantizers(encoder):
        yield quantizer


def named_activation_quantizers(encoder: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """The same, each with the name of the module that it sits on."""
    for name, module in encoder.named_modules():
        if isinstance(module, _QuantizedWeight) and module.input_quantizer is not None:
            yield name, module.input_quantizer
        elif isinstance(module, _QuantizedOutput):
            yield name, module.output_quantizer


def parameter_of(layer: Any) -> Tensor:
    """The float weight of a quantized layer."""
    parameter: Tensor = layer._parameters["weight"]
    return parameter


def make_encoder_quantizable(encoder: Any, policy: str) -> None:
    """`quantize_`, remembered in the encoder, so that it is saved and loaded as a quantizable one.

    Args:
        encoder: an `Encoder`; one that is quantizable by this policy already is left as it is.
        policy: by name.

    Raises:
        ValueError: when it is quantizable by another policy.
    """
    found = getattr(encoder, "quantization", None)
    if found is not None and found != policy:
        raise ValueError(
            f"the encoder is quantizable by policy {found!r}; allowed is the same, got {policy!r}"
        )
    if found is None:
        quantize_(encoder, policy)
        encoder.quantization = policy
