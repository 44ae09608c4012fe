"""The table of muP for optimizers: how learning rate, weight decay and eps of a parameter scale.

With m_in and m_out the sizes of a weight's input and output dimension over those of the base model,
and m the one of them that is a width (Yang et al. 2022, arXiv 2203.03466, table 8):

| role | example | Adam | SGD | LARS | Muon |
|---|---|---|---|---|---|
| input | stem, embedding, class token | 1 | m | 1 | √m / s |
| hidden | inner linears, convolutions | 1 / m_in | m_out / m_in | m_in^-½ | √(m_out / m_in) / s |
| output | readout, with 1 / m on its input | 1 | m | 1 | √m / s |
| vector | biases, gains of norms | 1 | m | m, without a trust ratio | as Adam |
| scalar | no dimension is a width | 1 | 1 | 1 | as Adam |

s is how much Muon's own scaling of the step grew. Decoupled weight decay scales by the inverse, so
that lr · decay does not depend on the width. Gradients shrink like 1 / m, so Adam's eps does too.
LARS is no part of the paper; its column was derived from the norms of weights and updates and then
measured. Its weight decay passes through the trust ratio, which grows like m for input and output
weights and like √m for hidden ones, and is scaled by what is left.

Parameters in residual branches that are scaled by 1 / depth get gradients that are smaller by that
factor: SGD's rate grows and eps shrinks by it (CompleteP: Dey et al. 2025, arXiv 2505.01618).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mezzotint.optim.mup.shapes import Growth, growth

Group = dict[str, Any]


@dataclass(frozen=True)
class Factors:
    """What is multiplied, for one parameter; all 1 at the base width."""

    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


Rule = Callable[[Growth, Group], Factors]


def adam(growth: Growth, group: Group) -> Factors:
    """Adam and its relatives, whose step is independent of the gradient's size."""
    lr = 1.0 / growth.fan_in if growth.role == "hidden" else 1.0
    eps = 1.0 if growth.role == "scalar" else 1.0 / growth.width
    return Factors(lr, 1.0 / lr, eps / growth.depth)


def sgd(growth: Growth, group: Group) -> Factors:
    """SGD and its relatives, whose step is proportional to the gradient."""
    if growth.role == "hidden":
        lr = growth.fan_out / growth.fan_in
    else:
        lr = 1.0 if growth.role == "scalar" else growth.width
    lr *= growth.depth
    return Factors(lr, 1.0 / lr)


def lars(growth: Growth, group: Group) -> Factors:
    """LARS; its excluded groups are plain SGD."""
    if group.get("excluded"):
        return sgd(growth, group)
    if growth.role == "hidden":
        return Factors(growth.fan_in**-0.5)
    return Factors(1.0, 1.0 / growth.width if growth.role in ("input", "output") else 1.0)


def muon(growth: Growth, group: Group) -> Factors:
    """Muon: the spectral norm of a step scales like √(m_out / m_in); the rest as Adam."""
    if not group.get("orthogonal", True):
        return adam(growth, group)
    now = _step_scale(group["scaling"], growth.rows, growth.columns)
    base = _step_scale(
        group["scaling"], growth.rows / growth.fan_out, growth.columns / growth.fan_in
    )
    # A readout's input is divided by m, and its weight moves m times as far for the same output.
    readout = growth.fan_in if growth.role == "output" else 1.0
    lr = readout * math.sqrt(growth.fan_out / growth.fan_in) * base / now
    return Factors(lr, 1.0 / lr)


def _step_scale(scaling: str, rows: float, columns: float) -> float:
    """Growth of Muon's own factor; constants cancel."""
    if scaling == "original":
        return math.sqrt(max(1.0, rows / columns))
    return math.sqrt(max(rows, columns))


def scaled_groups(
    groups: Sequence[Group], rule: Rule, of: Callable[[str | None, Tensor], Growth | None]
) -> list[Group]:
    """Split parameter groups so that the parameters of each scale alike.

    Args:
        groups: as `torch.optim` takes them; `params` are tensors or (name, tensor) pairs. `lr`,
            `base_lr`, `weight_decay` and `eps` are scaled where a group has them.
        rule: of the optimizer.
        of: growth of a parameter, by name and tensor; `None` where nothing is known of it, which
            counts as a parameter without a width.

    Returns:
        The groups themselves where nothing scales. Others carry `lr_factor` and
        `weight_decay_factor`, by which schedules of rates and decays can keep the ratios.
    """
    made: list[Group] = []
    for group in groups:
        parts: dict[Factors, list[Any]] = {}
        for item in group["params"]:
            name, parameter = item if isinstance(item, tuple) else (None, item)
            grown = of(name, parameter)
            factors = Factors() if grown is None else rule(grown, group)
            parts.setdefault(factors, []).append(item)
        for factors, items in parts.items():
            made.append(_scaled({**group, "params": items}, factors))
    return made


def _scaled(group: Group, factors: Factors) -> Group:
    if factors == Factors():
        return group
    for key in ("lr", "base_lr"):
        if key in group:
            group[key] = group[key] * factors.lr
    if "weight_decay" in group:
        group["weight_decay"] = group["weight_decay"] * factors.weight_decay
    if "eps" in group:
        group["eps"] = group["eps"] * factors.eps
    return {**group, "lr_factor": factors.lr, "weight_decay_factor": factors.weight_decay}


def scale_named_groups(model: nn.Module, groups: Sequence[Group], rule: Rule) -> list[Group]:
    """Scale the groups of a model that has base shapes; return those of any other as they are."""
    known = growth(model)
    if not known:
        return list(groups)
    return scaled_groups(groups, rule, lambda name, _: known.get(name or ""))
