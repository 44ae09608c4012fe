"""Mixed precision: as few bits as a budget asks for, where they hurt least.

HAWQ-V2 and V3 (arXiv 1911.03852, 2011.10680): the cost of running a layer at b bits is its mean
curvature times the squared error of its weight, `trace / n · ‖Q_b(w) − w‖²`; an integer program
chooses a width for each layer so that the sum is least within budgets of size and of bit
operations.

Differs from SSQL's source: its budgets default to 10^10 times what is available, and so never bind;
here one must be given, one that cannot be met is an error, and the program is solved to the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from mezzotint.quant.bitwidth import bits, off
from mezzotint.quant.convert import parameter_of, quantized_layers
from mezzotint.quant.hooks import evaluating, hooked
from mezzotint.quant.sensitivity import Loss, feature_loss, hessian_eigenvalue, hessian_trace

Criterion = Literal["trace", "eigenvalue"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Allocation:
    """Which layer has how many bits.

    Attributes:
        bits: width of each layer's weight, by name.
        mean_bits: over all weights.
        bops: bit operations of one sample: multiplications times bits of the weight times bits of
            the activation.
        cost: what was minimized.
        sensitivity: curvature of each layer.
    """

    bits: dict[str, int]
    mean_bits: float
    bops: float
    cost: float
    sensitivity: dict[str, float]

    def __str__(self) -> str:
        head = f"{self.mean_bits:.3f} bits a weight, {self.bops:.3e} bit operations a sample, cost {self.cost:.3e}"
        return "\n".join([head, *(f"  {width} bits  {name}" for name, width in self.bits.items())])


def allocate_(
    encoder: nn.Module,
    batches: Iterable[Tensor],
    *,
    mean_bits: float | None = None,
    bops: float | None = None,
    choices: Sequence[int] = (2, 4, 8),
    activation: int = 8,
    criterion: Criterion = "trace",
    loss: Loss = feature_loss,
    probes: int = 50,
    seed: int = 0,
) -> Allocation:
    """Give each layer's weight a width of its own, within budgets; `bits` then no longer changes it.

    Layers that have a fixed width already (SSQL's first) keep it, and count toward the budgets.

    Args:
        encoder: quantizable.
        batches: normalized inputs to measure curvature on.
        mean_bits: most bits a weight, over all weights; `None` sets no limit.
        bops: most bit operations, as a share of those with every weight at 8 bits; `None` sets no
            limit.
        choices: widths to choose from.
        activation: bits of the activations that operations are counted with.
        criterion: mean trace (HAWQ-V2) or largest eigenvalue (HAWQ) of the Hessian.
        loss: whose Hessian it is; by default the squared error of the features, without labels.
        probes: for the trace, or steps for the eigenvalue.
        seed: of the probes.

    Returns:
        What was chosen.

    Raises:
        ValueError: without a budget, or for one that cannot be met.
    """
    if mean_bits is None and bops is None:
        raise ValueError(
            "got neither mean_bits nor bops; without a budget every layer gets the most bits: give one"
        )
    data = list(batches)
    layers = dict(quantized_layers(encoder))
    if criterion == "trace":
        curvature = hessian_trace(encoder, data, loss=loss, probes=probes, seed=seed)
    else:
        curvature = hessian_eigenvalue(encoder, data, loss=loss, steps=probes, seed=seed)
    widths, costs = _costs(encoder, layers, choices, curvature)
    sizes = np.array([parameter_of(layer).numel() for layer in layers.values()], dtype=np.float64)
    operations = _multiplications(encoder, data[0][:1], layers)
    budgets = [
        (sizes / sizes.sum(), mean_bits, "mean_bits"),
        (operations / (8.0 * operations.sum()), bops, "bops"),
    ]
    chosen = solve(
        costs, widths, [(each, limit, name) for each, limit, name in budgets if limit is not None]
    )
    for layer, width in zip(layers.values(), chosen, strict=True):
        layer.weight_quantizer.fix(width)
    picked = np.array(chosen, dtype=np.float64)
    return Allocation(
        dict(zip(layers, chosen, strict=True)),
        float((sizes * picked).sum() / sizes.sum()),
        float((operations * picked).sum() * activation),
        float(sum(c[w.index(b)] for c, w, b in zip(costs, widths, chosen, strict=True))),
        curvature,
    )


def _costs(
    encoder: nn.Module, layers: dict[str, Any], choices: Sequence[int], curvature: dict[str, float]
) -> tuple[list[list[int]], list[list[float]]]:
    """The widths that each layer may have, and what each costs; a fixed width costs nothing, since it is no choice."""
    errors = {width: _errors(encoder, layers, width) for width in sorted(choices)}
    widths, costs = [], []
    for name, layer in layers.items():
        fixed = layer.weight_quantizer.fixed_bits
        widths.append([fixed] if fixed else sorted(choices))
        costs.append(
            [0.0]
            if fixed
            else [max(curvature[name], 0.0) * errors[b][name] for b in sorted(choices)]
        )
    return widths, costs


def solve(
    costs: list[list[float]], widths: list[list[int]], limits: list[tuple[Floats, float, str]]
) -> list[int]:
    """The integer program.

    Args:
        costs: of each layer at each of its widths.
        widths: that each layer may have.
        limits: `Σ weight_i · bits_i ≤ limit`, each with a name for the message.

    Returns:
        A width for each layer; of equal cost, the one of fewer bits.

    Raises:
        ValueError: when even the least widths exceed a limit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    least = np.array([min(w) for w in widths], dtype=np.float64)
    for weights, limit, name in limits:
        if (weights * least).sum() > limit * (1.0 + 1e-9):
            raise ValueError(
                f"got {name}={limit:g}, and the least widths need {(weights * least).sum():g}; allowed is that much or "
                "more: raise the budget, or add a smaller width to choices"
            )
    owner = np.array([place for place, w in enumerate(widths) for _ in w])
    width = np.array([b for w in widths for b in w], dtype=np.float64)
    flat = np.array([c for cost in costs for c in cost], dtype=np.float64)
    scale = float(flat.max()) or 1.0
    one_each = (owner[None, :] == np.arange(len(widths))[:, None]).astype(np.float64)
    constraints = [LinearConstraint(one_each, 1.0, 1.0)]
    for weights, limit, _ in limits:
        constraints.append(
            LinearConstraint((weights[owner] * width)[None, :], -np.inf, limit * (1.0 + 1e-9))
        )
    answer = milp(
        flat / scale + 1e-12 * width,
        constraints=constraints,
        integrality=np.ones_like(flat),
        bounds=Bounds(0.0, 1.0),
        options={"mip_rel_gap": 0.0},
    )
    if answer.x is None:
        raise ValueError(
            f"no allocation was found: {answer.message}; allowed are budgets that leave one: raise them"
        )
    return [
        int(width[owner == place][answer.x[owner == place].argmax()])
        for place in range(len(widths))
    ]


@torch.no_grad()
def _errors(encoder: nn.Module, layers: dict[str, Any], width: int) -> dict[str, float]:
    """‖Q_b(w) − w‖² of each layer."""
    with bits(encoder, weight=width, activation=32):
        return {
            name: float((layer.weight - parameter_of(layer)).square().sum())
            for name, layer in layers.items()
        }


@torch.no_grad()
def _multiplications(encoder: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> Floats:
    """Of one sample, by layer."""
    found = dict.fromkeys(layers, 0.0)
    names = {module: name for name, module in layers.items()}

    def leaving(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        found[names[module]] += out.numel() * parameter_of(module)[0].numel() / len(x)

    with (
        hooked([module.register_forward_hook(leaving) for module in layers.values()]),
        evaluating(encoder),
        off(encoder),
    ):
        encoder(x)
    return np.array(list(found.values()))
