"""`set_base_shapes`: put a freshly initialized model into muP, whatever its architecture.

The interface is that of the `mup` package (Yang et al. 2022, arXiv 2203.03466), for users who know
it. Differs from it in that nothing is kept on parameters, in that convolutions are checked too, in
that a base model as wide as the model itself is an error instead of the standard parametrization in
silence, and in that a weight which a readout shares with an embedding keeps the embedding's
initialization.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from mezzotint.optim.mup.readout import MuReadout, MuSharedReadout, is_readout, multiply_input
from mezzotint.optim.mup.shapes import (
    BaseShapes,
    attach,
    base_of,
    compare,
    growth,
    input_axis,
    role_in,
    save_base_shapes,
    shapes_of,
)

M = TypeVar("M", bound=nn.Module)
_DRAWN = ("weight", "bias")
_WEIGHTED = (nn.Linear, nn.Bilinear, _ConvNd, nn.RNNBase, nn.RNNCellBase)


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
        do_assert: whether layers from a width to a fixed size must be a `MuReadout`, and no others
            may be.

    Returns:
        The model.

    Raises:
        ValueError: for base shapes of another architecture, a base as wide as the model without
            `delta`, a readout that is no `MuReadout`, or a second call that would rescale again.
    """
    shapes = _found(model, base, delta)
    attach(model, shapes)
    _require_plain_weights(model)
    growth(model)  # refuses what has no role
    if do_assert:
        _require_readouts(model)
    if savefile is not None:
        save_base_shapes(shapes, savefile)
    for module in model.modules():
        if isinstance(module, MuReadout):
            module.multiplier = _ratio(module, 1)
        elif is_readout(module):
            axis = input_axis(module, base_of(module).get("weight", ()))
            multiply_input(module, 1.0 / _ratio(module, axis))
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
    if name not in base_of(module):  # computed by a parametrization, and standard
        return 1.0
    base = base_of(module)[name][axis]
    return 1.0 if base is None else module.get_parameter(name).shape[axis] / base


def _require_plain_weights(model: nn.Module) -> None:
    for prefix, module in model.named_modules():
        hooks = module._forward_pre_hooks.values()
        normed = any(isinstance(hook, (WeightNorm, SpectralNorm)) for hook in hooks)
        if not normed and not is_parametrized(module):
            continue
        parts = [module, *getattr(module, "parametrizations", {}).values()]
        if any(size is not None for p in parts for dims in base_of(p).values() for size in dims):
            raise ValueError(
                f"Weights of `{prefix or type(module).__name__}` are computed by a "
                "parametrization, such as weight_norm, and muP has no rule for it. Leave the "
                "parametrization out."
            )


def _require_readouts(model: nn.Module) -> None:
    """Refuse plain layers from a width to a fixed size, and readouts to a width."""
    for prefix, module in model.named_modules():
        if is_readout(module) and "weight" in base_of(module):
            if role_in(module, "weight") == "hidden":
                raise ValueError(
                    f"`{prefix or 'weight'}` is a readout, and its output differs between the "
                    "compared models as a width does. Compare models of the same output, or pass "
                    "`delta`, the base model at another width."
                )
        if not isinstance(module, _WEIGHTED) or is_readout(module):
            continue
        for local in base_of(module):
            if role_in(module, local) == "output":
                name = f"{prefix}.{local}" if prefix else local
                raise ValueError(
                    f"`{name}` leads from a width to a fixed size, and {type(module).__name__} is "
                    "no readout. Use a MuReadout there, a MuSharedReadout where an embedding has "
                    "the same weight, make_readout for a convolution, or let its output grow with "
                    "the width."
                )


def _rescale(model: nn.Module) -> None:
    """Give readouts and biases, which torch draws by 1 / √fan_in, a width-free std."""
    if any("mup_rescaled" in module.__dict__ for module in model.modules()):
        raise ValueError(
            "The parameters of this model were rescaled by an earlier set_base_shapes. Pass "
            "`rescale_params=False` to change base shapes alone, or a freshly initialized model."
        )
    embeddings = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    done = {id(p) for module in embeddings for p in module.parameters(recurse=False)}
    for module in model.modules():
        for name, factor in _factors(module).items():
            parameter = module.get_parameter(name)
            if id(parameter) not in done:  # shared ones once, embeddings never
                _multiply(parameter, factor)
            done.add(id(parameter))
        module.mup_rescaled = True  # type: ignore[assignment]


def _factors(module: nn.Module) -> dict[str, float]:
    """Factors by which parameters grow from the initialization of torch to the one of muP."""
    names = list(base_of(module))
    if isinstance(module, (nn.Linear, nn.Bilinear, _ConvNd)):
        # What torch counts as the fan-in is dimension 1, of transposed convolutions too.
        drawn = _ratio(module, 1)
        return {name: _redrawn(module, name, drawn) for name in names if name in _DRAWN}
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):  # all are drawn by 1 / √hidden_size
        drawn = _ratio(module, 0, names[0])
        return {name: _redrawn(module, name, drawn) for name in names}
    if isinstance(module, nn.MultiheadAttention):
        return {name: _xavier(module, name) for name in names}
    return {}


def _redrawn(module: nn.Module, name: str, drawn: float) -> float:
    """Factor of a parameter that torch drew by 1 / √drawn."""
    base = base_of(module)[name]
    inward, outward = input_axis(module, base), 1 if isinstance(module, _ConvTransposeNd) else 0
    if len(base) == 1:
        return math.sqrt(drawn)
    if isinstance(module, MuSharedReadout):
        return 1.0
    if base[outward] is not None:  # hidden, or an input of fixed size
        return math.sqrt(drawn / _ratio(module, inward, name))
    return math.sqrt(drawn) if is_readout(module) else 1.0


def _xavier(module: nn.MultiheadAttention, name: str) -> float:
    """Factor of a parameter of attention, which torch draws by Xavier, with keys of any size."""
    if name in ("bias_k", "bias_v"):
        return math.sqrt(_ratio(module, 2, name))
    if name == "in_proj_bias":
        return math.sqrt(_ratio(module, 0, name))
    drawn = module.get_parameter(name).shape
    base = [n if b is None else b for n, b in zip(drawn, base_of(module)[name], strict=True)]
    return math.sqrt(sum(drawn) / sum(base) / _ratio(module, 1, name))


@torch.no_grad()
def _multiply(parameter: Tensor, factor: float) -> None:
    if factor != 1.0:  # at the base width nothing is touched
        parameter.mul_(factor)
