"""`set_base_shapes`: put a freshly initialized model into muP, whatever its architecture.

The interface is that of the `mup` package (Yang et al. 2022, arXiv 2203.03466), for users who know
it. Differs from it in that nothing is kept on parameters, in that convolutions are checked too, in
that a base model as wide as the model itself is an error instead of the standard parametrization in
silence, and in that the weight which a `MuSharedReadout` shares with an embedding keeps the
embedding's initialization.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mezzotint.optim.mup.readout import MuReadout, MuSharedReadout, is_readout, multiply_input
from mezzotint.optim.mup.shapes import (
    BaseShapes,
    attach,
    base_of,
    compare,
    growth,
    save_base_shapes,
    shapes_of,
)

M = TypeVar("M", bound=nn.Module)
_WEIGHTED = (nn.Linear, _ConvNd, nn.RNNBase, nn.RNNCellBase)


def set_base_shapes(
    model: M,
    base: nn.Module | Mapping[str, Any] | str | Path | None,
    rescale_params: bool = True,
    delta: nn.Module | Mapping[str, Any] | None = None,
    savefile: str | Path | None = None,
    do_assert: bool = True,
) -> M:
    """Tell a model which of its dimensions are widths, and rescale its initialization to muP.

    Call it on a model that was just initialized as torch does it, before any initialization of your
    own and before the optimizer is made.

    Args:
        model: the model that is to be trained; changed in place.
        base: the base model, its shapes, the file of its base shapes, or `None` for the standard
            parametrization. Models may be on the meta device.
        rescale_params: multiply readouts and the biases of linears and convolutions, so that they
            start with the same standard deviation at every width. Pass `False` for a model that was
            loaded from a checkpoint.
        delta: the base model at another width, which tells the widths where `base` is a model.
        savefile: where to write the base shapes, if anywhere.
        do_assert: whether layers from a width to a fixed size must be a `MuReadout`.

    Returns:
        The model.

    Raises:
        ValueError: for base shapes of another architecture, a base as wide as the model without
            `delta`, a readout that is no `MuReadout`, or a second call that would rescale again.
    """
    shapes = _found(model, base, delta)
    attach(model, shapes)
    growth(model)  # refuses what has no role
    if do_assert:
        _require_readouts(model)
    if savefile is not None:
        save_base_shapes(shapes, savefile)
    for module in model.modules():
        if isinstance(module, MuReadout):
            module.multiplier = _ratio(module, 1)
        elif is_readout(module):
            multiply_input(module, 1.0 / _ratio(module, _input_axis(module)))
    if rescale_params:
        _rescale(model)
    return model


def _found(
    model: nn.Module,
    base: nn.Module | Mapping[str, Any] | str | Path | None,
    delta: nn.Module | Mapping[str, Any] | None,
) -> BaseShapes:
    if base is None:
        return BaseShapes({name: (None,) * len(dims) for name, dims in shapes_of(model).items()})
    first = shapes_of(base)
    if delta is not None:
        found = compare(first, delta)
        return compare(found, model)
    found = compare(first, model)
    widths = any(size is not None for dims in found.values() for size in dims)
    if not widths and not isinstance(first, BaseShapes):
        raise ValueError(
            "The base model is as wide as the model, so nothing tells which dimensions are widths. "
            "Pass `delta`, the same model at another width, or base shapes from make_base_shapes."
        )
    return found


def _ratio(module: nn.Module, axis: int, name: str = "weight") -> float:
    """Size of a dimension over that of the base model; 1 where it is no width."""
    if name not in base_of(module):
        raise ValueError(
            f"The {name} of a {type(module).__name__} is computed by a parametrization, such as "
            "weight_norm, and muP has no rule for it. Leave the parametrization out."
        )
    base = base_of(module)[name][axis]
    return 1.0 if base is None else module.get_parameter(name).shape[axis] / base


def _input_axis(module: nn.Module) -> int:
    """Dimension of a weight's inputs."""
    return 0 if isinstance(module, _ConvTransposeNd) else 1


def _require_readouts(model: nn.Module) -> None:
    grown = growth(model)
    for prefix, module in model.named_modules():
        if not isinstance(module, _WEIGHTED) or is_readout(module):
            continue
        for local in base_of(module):
            name = f"{prefix}.{local}" if prefix else local
            if name in grown and grown[name].role == "output":
                raise ValueError(
                    f"`{name}` leads from a width to a fixed size, and {type(module).__name__} is "
                    "no readout. Use a MuReadout there, make_readout for a convolution, or let its "
                    "output grow with the width."
                )


def _rescale(model: nn.Module) -> None:
    """Give readouts and biases, which torch draws by 1 / √fan_in, a width-free std."""
    if any("mup_rescaled" in module.__dict__ for module in model.modules()):
        raise ValueError(
            "The parameters of this model were rescaled by an earlier set_base_shapes. Pass "
            "`rescale_params=False` to change base shapes alone, or a freshly initialized model."
        )
    for module in model.modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            # What torch counts as the fan-in is dimension 1, of transposed convolutions too.
            _redraw(module, "weight", _ratio(module, 1))
            _multiply(module.bias, _ratio(module, 1) ** 0.5)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            names = list(base_of(module))
            for name in names:  # torch draws all of them by 1 / √hidden_size
                _redraw(module, name, _ratio(module, 0, names[0]))
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            _multiply(module.in_proj_bias, _ratio(module, 1, "in_proj_weight") ** 0.5)
        module.mup_rescaled = True  # type: ignore[assignment]


def _redraw(module: nn.Module, name: str, drawn: float) -> None:
    """Scale a parameter that torch drew by 1 / √drawn to its standard deviation in muP."""
    parameter, inward = module.get_parameter(name), _input_axis(module)
    hidden = parameter.ndim > 1 and base_of(module)[name][1 - inward] is not None
    if isinstance(module, MuSharedReadout) or not (
        hidden or parameter.ndim == 1 or is_readout(module)
    ):
        return
    _multiply(parameter, (drawn / (_ratio(module, inward, name) if hidden else 1.0)) ** 0.5)


@torch.no_grad()
def _multiply(parameter: Tensor | None, factor: float) -> None:
    if parameter is not None and factor != 1.0:  # at the base width nothing is touched
        parameter.mul_(factor)
