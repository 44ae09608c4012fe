"""Readouts: layers from a width to a fixed size, whose input is divided by the width multiplier m.

In muP an output stays of order 1 while its layer's inputs grow, because the sum over them is
divided by m. The multiplier is a number on the module, so that it survives whatever replaces
parameters.

A layer that exists already becomes a readout by `multiply_input`, and a residual branch is scaled
by `multiply_output`; both hook the module and leave its type and its parameters alone.
"""

from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class MuReadout(nn.Linear):
    """A linear from a width to a fixed size: y = W (output_mult · x / m) + b.

    A drop-in replacement for the last `nn.Linear` of a network; `set_base_shapes` sets m.

    Args:
        args: of `nn.Linear`.
        readout_zero_init: start with zeros, which is recommended.
        output_mult: a multiplier to be tuned; 1 leaves the output as it is.
        kwargs: of `nn.Linear`.
    """

    def __init__(
        self,
        *args: Any,
        readout_zero_init: bool = False,
        output_mult: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.output_mult = output_mult
        self.readout_zero_init = readout_zero_init
        super().__init__(*args, **kwargs)
        self.multiplier: float | None = None

    def reset_parameters(self) -> None:
        if not self.readout_zero_init:
            super().reset_parameters()
            return
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def width_mult(self) -> float:
        """The width multiplier m.

        Raises:
            ValueError: before `set_base_shapes`.
        """
        return _known(self.multiplier)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.output_mult * x / self.width_mult())


class MuSharedReadout(MuReadout):
    """A readout that shares its weight with an embedding.

    Args:
        weight: weight of an `nn.Embedding`, `[tokens, width]`.
        bias: whether there is a bias.
        kwargs: of `MuReadout`.
    """

    def __init__(self, weight: Tensor, bias: bool = True, **kwargs: Any) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias, **kwargs)
        assert isinstance(weight, nn.Parameter)
        self.weight = weight


def make_readout(module: M) -> M:
    """Turn a layer of any kind into a readout, such as the last convolution of a U-Net.

    Args:
        module: a linear or a convolution, transposed ones included, from a width to a fixed size.

    Returns:
        The module; `set_base_shapes` sets the factor 1 / m of its input.
    """
    module.register_forward_pre_hook(_scale_input, with_kwargs=True)
    module.input_multiplier = None  # type: ignore[assignment]
    return module


def is_readout(module: nn.Module) -> bool:
    """Whether a module divides its input by the width multiplier."""
    return isinstance(module, MuReadout) or "input_multiplier" in module.__dict__


def multiply_input(module: nn.Module, factor: float) -> None:
    """Multiply the first input of a module from now on; a second call replaces the factor."""
    if "input_multiplier" not in module.__dict__:
        module.register_forward_pre_hook(_scale_input, with_kwargs=True)
    module.input_multiplier = factor  # type: ignore[assignment]


def multiply_output(module: nn.Module, factor: float) -> None:
    """Multiply the output of a module from now on; a second call replaces the factor."""
    if "output_multiplier" not in module.__dict__:
        module.register_forward_hook(_scale_output)
    module.output_multiplier = factor  # type: ignore[assignment]


def _scale_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    factor = _known(module.__dict__["input_multiplier"])
    if args:
        return (args[0] * factor, *args[1:]), kwargs
    return args, {**kwargs, "input": kwargs["input"] * factor}


def _known(multiplier: float | None) -> float:
    if multiplier is None:
        raise ValueError(
            "A readout has no base shape yet. Call set_base_shapes(model, base) on the model that "
            "holds it, before its first use."
        )
    return multiplier


def _scale_output(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output * module.output_multiplier  # type: ignore[operator]
