"""Initializers that scale by muP; drop-in replacements of those of `torch.nn.init`.

At the base width each draws what torch's function of the same name draws. At any other width the
standard deviation of hidden weights scales like 1 / √fan_in, and that of all other parameters
stays. Call them after `set_base_shapes`, on parameters of that model.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mezzotint.optim.mup.shapes import Dims, Growth, by_identity

Mode = Literal["fan_in", "fan_out"]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Draw from U(a, b), bounds that must not depend on the width."""
    grown, _ = _known(tensor)
    _require_centered(grown, a == -b)
    scale = _scale(grown)
    return nn.init.uniform_(tensor, a * scale, b * scale)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Draw from N(mean, std²), numbers that must not depend on the width."""
    grown, _ = _known(tensor)
    _require_centered(grown, mean == 0.0)
    return nn.init.normal_(tensor, mean, std * _scale(grown))


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Draw from N(mean, std²) within [a, b], numbers that must not depend on the width."""
    grown, _ = _known(tensor)
    _require_centered(grown, mean == 0.0 and a == -b)
    scale = _scale(grown)
    return nn.init.trunc_normal_(tensor, mean, std * scale, a * scale, b * scale)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0, at any width."""
    return nn.init.zeros_(tensor)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1; not for hidden weights."""
    _require_centered(_known(tensor)[0], False)
    return nn.init.ones_(tensor)


def eye_(tensor: Tensor) -> Tensor:
    """Fill with the identity; not for hidden weights."""
    _require_centered(_known(tensor)[0], False)
    return nn.init.eye_(tensor)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Xavier's uniform distribution; `gain` must not depend on the width."""
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return nn.init.uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Xavier's normal distribution; `gain` must not depend on the width."""
    return nn.init.normal_(tensor, 0.0, _xavier_std(tensor, gain))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Kaiming's uniform distribution; `a` must not depend on the width."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return nn.init.uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: Mode = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Kaiming's normal distribution; `a` must not depend on the width."""
    return nn.init.normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def _known(tensor: Tensor) -> tuple[Growth, Dims]:
    known = by_identity().get(id(tensor))
    if known is None:
        raise ValueError(
            f"A tensor of shape {tuple(tensor.shape)} has no base shape. Call set_base_shapes on "
            "the model that holds it before its initialization, and copy the model afterwards."
        )
    return known


def _scale(grown: Growth) -> float:
    return grown.fan_in**-0.5 if grown.role == "hidden" else 1.0


def _require_centered(grown: Growth, centered: bool) -> None:
    if grown.role == "hidden" and not centered:
        raise ValueError(
            "A hidden weight (a width in and a width out) must start with mean 0. Choose symmetric "
            "bounds, or a mean of 0."
        )


def _fans_and_ratios(tensor: Tensor) -> tuple[float, float, float, float]:
    """Fan in and fan out as torch counts them, and their ratios to those of the base model."""
    _, base = _known(tensor)
    with torch.no_grad():
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(tensor)
    ratios = [1.0 if b is None else n / b for n, b in zip(tensor.shape, base, strict=True)]
    return fan_in, fan_out, ratios[1], ratios[0]


def _xavier_std(tensor: Tensor, gain: float) -> float:
    fan_in, fan_out, ratio_in, ratio_out = _fans_and_ratios(tensor)
    base = gain * math.sqrt(2.0 / (fan_in / ratio_in + fan_out / ratio_out))
    return base * _scale(_known(tensor)[0])


def _kaiming_std(tensor: Tensor, a: float, mode: Mode, nonlinearity: str) -> float:
    fan_in, fan_out, ratio_in, ratio_out = _fans_and_ratios(tensor)
    fan = fan_in / ratio_in if mode == "fan_in" else fan_out / ratio_out
    gain = nn.init.calculate_gain(nonlinearity, a)  # type: ignore[arg-type]
    return gain / math.sqrt(fan) * _scale(_known(tensor)[0])
