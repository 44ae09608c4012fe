"""muP for methods and encoders of this package: from the recipe alone, without a change to either.

The recipe is built at two widths on the meta device. Dimensions that differ are widths, the roles
follow from them, and so does how far each parameter's initialization is from that of muP. Encoder,
projector and predictor are scaled together: `width`, `inner`, `hidden`, `hidden_dim`, and the `dim`
of a projector that is normalized by L2 alone. A projector that ends with a BatchNorm keeps its
`dim`, and its last layer becomes a readout. Of attention, either the number of `heads` grows, or
the size of each head; then logits are divided by the size of a head instead of its root.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from mezzotint.optim.mup.initialization import listen
from mezzotint.optim.mup.readout import multiply_input, multiply_output
from mezzotint.optim.mup.shapes import BaseShapes, Growth, attach, compare, growth
from mezzotint.recipe.component import Component
from mezzotint.recipe.schema import construct, resolve

M = TypeVar("M", bound=nn.Module)
Attention = Literal["more_heads", "larger_heads"]
_ENCODER_KEYS = ("width", "heads", "inner", "hidden")
_METHOD_KEYS = ("hidden_dim",)


class MuP(Component, kind="mup"):
    """Scale learning rates and initialization by muP, so that rates tuned at one width suit all.

    Args:
        base_width: `encoder.width` of the network that hyperparameters were tuned on; at this width
            nothing changes.
        base_depth: `encoder.depth` of that network; `None` leaves the depth unscaled. Residual
            branches are divided by the depth over it.
        attention: what of attention grows with the width: `more_heads` of one size, or
            `larger_heads` of one number, whose logits are divided by the size of a head.
    """

    def __init__(
        self,
        *,
        base_width: int,
        base_depth: int | None = None,
        attention: Attention = "more_heads",
    ) -> None:
        if base_width < 1:
            raise ValueError(f"`mup.base_width` must be at least 1, got {base_width}. Try 64.")
        if base_depth is not None and base_depth < 1:
            raise ValueError(f"`mup.base_depth` must be at least 1, got {base_depth}. Try 4.")
        if attention not in ("more_heads", "larger_heads"):
            raise ValueError(
                f"`mup.attention` must be more_heads or larger_heads, got {attention!r}. Choose "
                "more_heads if `encoder.heads` was scaled with `encoder.width`."
            )
        self.base_width, self.base_depth, self.attention = base_width, base_depth, attention

    def apply(self, method: M) -> M:
        """Put a freshly built method into muP, once; see `apply_mup`."""
        if growth(method):
            return method
        return apply_mup(
            method,
            base_width=self.base_width,
            base_depth=self.base_depth,
            attention=self.attention,
        )


def at_width(
    encoder: Mapping[str, Any],
    method: Mapping[str, Any],
    factor: float,
    attention: Attention = "more_heads",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Recipe sections of encoder and method at another width.

    Args:
        encoder: the section as it is.
        method: the section as it is.
        factor: width over the present one.
        attention: what of attention grows.

    Returns:
        Both sections, with everything scaled that grows with the width.

    Raises:
        ValueError: where a number would not be whole, or the encoder has no `width`.
    """
    if "width" not in encoder:
        raise ValueError(
            f"`encoder.kind: {encoder.get('kind')}` has no `width` that muP could scale. Choose an "
            "encoder of this package, or leave `mup` out."
        )
    own = _ENCODER_KEYS if attention == "more_heads" else ("width", "inner", "hidden")
    keys = (*own, *(("dim",) if encoder.get("kind") == "audio_ntt" else ()))
    return _scaled(encoder, keys, factor, "encoder"), _scaled_method(method, factor, own, "method")


def _scaled_method(
    method: Mapping[str, Any], factor: float, encoder_keys: tuple[str, ...], path: str
) -> dict[str, Any]:
    ends_with_norm = method.get("last_norm", False) or method.get("kind") == "mocov3"
    keys = _METHOD_KEYS if ends_with_norm else (*_METHOD_KEYS, "dim")
    made = _scaled(method, keys, factor, path)
    for name in ("base", "decoder"):
        if isinstance(made.get(name), Mapping):
            inner = made[name]
            own = f"{path}.{name}"
            made[name] = (
                _scaled_method(inner, factor, encoder_keys, own)
                if name == "base"
                else _scaled(inner, encoder_keys, factor, own)
            )
    return made


def _scaled(
    section: Mapping[str, Any], keys: tuple[str, ...], factor: float, path: str
) -> dict[str, Any]:
    made = dict(section)
    for key in keys:
        value = made.get(key)
        if not isinstance(value, int):
            continue
        scaled = value * factor
        if abs(scaled - round(scaled)) > 1e-9 or round(scaled) < 1:
            raise ValueError(
                f"`{path}.{key}` of {value} would be {scaled:g} at {factor:g} times the width, and "
                f"must be a whole number. Choose a `{path}.{key}` that is a multiple of "
                f"{math.ceil(1 / factor)}."
            )
        made[key] = round(scaled)
    return made


def build(encoder: Mapping[str, Any], method: Mapping[str, Any], input: Any) -> nn.Module:
    """Build a method from sections of a recipe."""
    made = construct(resolve(encoder, "Encoder", "encoder"), "Encoder", {"Encoder": (input,)})
    whole: nn.Module = construct(resolve(method, "Method", "method"), "Method", {"Method": (made,)})
    return whole


def apply_mup(
    method: M,
    *,
    base_width: int,
    base_depth: int | None = None,
    attention: Attention = "more_heads",
) -> M:
    """Put a freshly built method into muP.

    Args:
        method: method with its encoder, as the recipe builds it; changed in place.
        base_width: `encoder.width` of the network that hyperparameters were tuned on.
        base_depth: its `encoder.depth`; `None` leaves the depth unscaled.
        attention: what of attention grows with the width.

    Returns:
        The method. At the base width all its weights are what they were.

    Raises:
        ValueError: when a parameter has no role; the message names it.
    """
    encoder: Any = method.encoder
    own: dict[str, Any] = method.config  # type: ignore[assignment]
    width = encoder.config.get("width")
    factor = 1.0 if width is None else base_width / width
    sections = at_width(encoder.config, own, factor, attention)
    # Any other width tells the widths; a multiple of the base always exists.
    other = at_width(*sections, 2.0 if factor == 1.0 else 1.0 / factor, attention)
    base, before = listen(lambda: build(*sections, encoder.input))
    twin, after = listen(lambda: build(*other, encoder.input))
    shapes = compare(base, twin)
    attach(method, shapes)
    grown = growth(method)
    _require_one_ratio(grown, 1.0 / factor)
    _make_readouts(method, grown)
    if factor != 1.0:
        _rescale(method, grown, before, after)
        if attention == "larger_heads":
            _scale_logits(method, grown)
    if base_depth is not None:
        _scale_depth(method, encoder, base_depth)
    return method


def _require_one_ratio(grown: Mapping[str, Growth], ratio: float) -> None:
    """Widths that grow faster than the encoder's, such as a predicted matrix, have no rule."""
    for name, one in grown.items():
        for part in (one.fan_in, one.fan_out):
            if abs(part - 1.0) > 1e-9 and abs(part - ratio) > 1e-9 * ratio:
                raise ValueError(
                    f"`{name}` grows {part:g} times where the width grows {ratio:g} times, and muP "
                    "has no rule for it. Choose an encoder without it, or leave `mup` out."
                )


def _make_readouts(method: nn.Module, grown: Mapping[str, Growth]) -> None:
    for prefix, module in method.named_modules():
        name = f"{prefix}.weight" if prefix else "weight"
        if name not in grown or grown[name].role != "output" or grown[name].fan_in == 1.0:
            continue
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"`{name}` leads from a width to a fixed size, and {type(module).__name__} cannot "
                "be a readout. Choose an encoder without it, or leave `mup` out."
            )
        multiply_input(module, 1.0 / grown[name].fan_in)


@torch.no_grad()
def _rescale(
    method: nn.Module,
    grown: Mapping[str, Growth],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    """Scale the drawn weights to the standard deviations of muP."""
    for name, p in method.named_parameters():
        if name not in before or not after.get(name):
            continue
        wanted = before[name]
        if grown[name].role == "hidden":
            wanted /= math.sqrt(grown[name].fan_in)
        factor = wanted / after[name]
        if abs(factor - 1.0) > 1e-9:
            p.mul_(factor)


def _scale_logits(method: nn.Module, grown: Mapping[str, Growth]) -> None:
    """Divide logits by the size of a head instead of its root; at the base width they stay."""
    for prefix, module in method.named_modules():
        if hasattr(module, "logit_factor"):
            module.logit_factor = grown[f"{prefix}.qkv.weight"].fan_out ** -0.5


def _scale_depth(method: Any, encoder: Any, base_depth: int) -> None:
    depth = encoder.config.get("depth")
    if depth is None:
        raise ValueError(
            f"`encoder.kind: {encoder.config.get('kind')}` has no `depth` that muP could scale. "
            "Choose vit or domain_agnostic, or leave `mup.base_depth` out."
        )
    ratio = depth / base_depth
    encoders = {id(branch.encoder): branch.encoder for branch in method.branches().values()}
    # Heads and decoders have a depth of their own, which stays.
    parts = [part for one in encoders.values() for part in one.modules()]
    blocks = [part for part in parts if hasattr(part, "residual_ends")]
    if not blocks:
        raise ValueError(
            f"`encoder.kind: {encoder.config.get('kind')}` does not say where its residual "
            "branches end, so muP cannot scale its depth. Choose vit or domain_agnostic, or leave "
            "`mup.base_depth` out."
        )
    for module in blocks:
        ends: tuple[str, ...] = module.residual_ends
        for part in module.modules():
            part.mup_depth = ratio
        for end in ends:
            if ratio != 1.0:
                multiply_output(module.get_submodule(end), 1.0 / ratio)


def roles_of(module: nn.Module) -> dict[str, Any] | None:
    """Roles and multipliers of a module as plain data; `None` for the standard parametrization."""
    keys = {"input": "input_multiplier", "output": "output_multiplier", "depth": "mup_depth",
            "logits": "logit_factor"}  # fmt: skip
    own: dict[str, Any] = {"base_shapes": {}, **{name: {} for name in keys}}
    for prefix, part in module.named_modules():
        for local, dims in part.__dict__.get("mup_base_shapes", {}).items():
            own["base_shapes"][f"{prefix}.{local}" if prefix else local] = list(dims)
        for name, key in keys.items():
            if part.__dict__.get(key, 1.0) != 1.0:
                own[name][prefix] = part.__dict__[key]
    return own if own["base_shapes"] else None


def restore_roles(module: nn.Module, roles: Mapping[str, Any]) -> None:
    """Give a module that was built again what `roles_of` told of it.

    Raises:
        ValueError: when the roles are of another architecture.
    """
    shapes = BaseShapes({name: tuple(dims) for name, dims in roles["base_shapes"].items()})
    compare(shapes, module)
    attach(module, shapes)
    for prefix, factor in roles["input"].items():
        multiply_input(module.get_submodule(prefix), factor)
    for prefix, factor in roles["output"].items():
        multiply_output(module.get_submodule(prefix), factor)
    for prefix, ratio in roles["depth"].items():
        module.get_submodule(prefix).mup_depth = ratio
    for prefix, factor in roles["logits"].items():
        module.get_submodule(prefix).logit_factor = factor
