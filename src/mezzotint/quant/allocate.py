"""Mixed precision: choose the bits of each layer within a budget, by an integer program.

HAWQ-V2 and V3 (arXiv 1911.03852, 2011.10680): the cost of running a layer at b bits is its mean
curvature times the squared error of its weight, `trace / n · ‖Q_b(w) − w‖²`. An integer program
chooses the bits of each layer so that the total cost is minimal within budgets of size and of bit
operations.

Differs from SSQL's source, whose budgets default to 10^10 times the available ones and so never
bind. Here a budget is required, an infeasible one is an error, and the program is solved to
optimality.
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
    """Bits of each layer.

    Attributes:
        bits: bits of each layer's weight, by name.
        mean_bits: mean over all weights.
        bops: bit operations per sample: multiplications × weight bits × activation bits.
        cost: minimized sum of curvature × squared rounding error.
        sensitivity: curvature of each layer.
    """

    bits: dict[str, int]
    mean_bits: float
    bops: float
    cost: float
    sensitivity: dict[str, float]

    def __str__(self) -> str:
        head = (
            f"{self.mean_bits:.3f} bits per weight, {self.bops:.3e} bit operations per sample, "
            f"cost {self.cost:.3e}"
        )
        return "\n".join([head, *(f"  {bits} bits  {name}" for name, bits in self.bits.items())])


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
    """Fix the weight bits of each layer within budgets; `bits` no longer changes them.

    Layers with fixed bits (such as SSQL's first) keep them and count toward the budgets.

    Args:
        encoder: quantizable network.
        batches: normalized inputs to measure the curvature on.
        mean_bits: largest mean bits over all weights; `None` sets no limit.
        bops: largest number of bit operations, as a fraction of those with every weight at 8 bits;
            `None` sets no limit.
        choices: bits to choose from.
        activation: bits of the activations, for counting operations.
        criterion: mean trace (HAWQ-V2) or largest eigenvalue (HAWQ) of the Hessian.
        loss: loss whose Hessian is used; by default the label-free squared error of the features.
        probes: number of probes of the trace, or of power iterations of the eigenvalue.
        seed: seed of the probes.

    Raises:
        ValueError: without a budget, or for an infeasible one.
    """
    if mean_bits is None and bops is None:
        raise ValueError(
            "`mean_bits` or `bops` must be given. Without a budget every layer gets the most bits."
        )
    data = list(batches)
    layers = dict(quantized_layers(encoder))
    if criterion == "trace":
        curvature = hessian_trace(encoder, data, loss=loss, probes=probes, seed=seed)
    else:
        curvature = hessian_eigenvalue(encoder, data, loss=loss, steps=probes, seed=seed)
    options, costs = _costs(encoder, layers, choices, curvature)
    sizes = np.array([parameter_of(layer).numel() for layer in layers.values()], dtype=np.float64)
    operations = _multiplications(encoder, data[0][:1], layers)
    budgets = [
        (sizes / sizes.sum(), mean_bits, "mean_bits"),
        (operations / (8.0 * operations.sum()), bops, "bops"),
    ]
    chosen = solve(
        costs, options, [(each, limit, name) for each, limit, name in budgets if limit is not None]
    )
    for layer, number in zip(layers.values(), chosen, strict=True):
        layer.weight_quantizer.fix(number)
    picked = np.array(chosen, dtype=np.float64)
    return Allocation(
        dict(zip(layers, chosen, strict=True)),
        float((sizes * picked).sum() / sizes.sum()),
        float((operations * picked).sum() * activation),
        float(sum(c[w.index(b)] for c, w, b in zip(costs, options, chosen, strict=True))),
        curvature,
    )


def _costs(
    encoder: nn.Module, layers: dict[str, Any], choices: Sequence[int], curvature: dict[str, float]
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the bits that each layer may have and their costs; fixed bits are free."""
    errors = {number: _errors(encoder, layers, number) for number in sorted(choices)}
    options, costs = [], []
    for name, layer in layers.items():
        fixed = layer.weight_quantizer.fixed_bits
        options.append([fixed] if fixed else sorted(choices))
        costs.append(
            [0.0]
            if fixed
            else [max(curvature[name], 0.0) * errors[b][name] for b in sorted(choices)]
        )
    return options, costs


def solve(
    costs: list[list[float]], options: list[list[int]], limits: list[tuple[Floats, float, str]]
) -> list[int]:
    """Solve the integer program.

    Args:
        costs: cost of each layer at each of its options.
        options: bits that each layer may have.
        limits: `Σ weight_i · bits_i ≤ limit`, each with a name for the message.

    Returns:
        Bits of each layer; ties go to fewer bits.

    Raises:
        ValueError: when even the fewest bits exceed a limit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    least = np.array([min(w) for w in options], dtype=np.float64)
    for weights, limit, name in limits:
        if (weights * least).sum() > limit * (1.0 + 1e-9):
            raise ValueError(
                f"`{name}` must be at least {(weights * least).sum():g}, which the fewest bits of "
                f"each layer need, got {limit:g}. Raise it, or add fewer bits to `choices`."
            )
    owner = np.array([layer for layer, w in enumerate(options) for _ in w])
    number = np.array([b for w in options for b in w], dtype=np.float64)
    flat = np.array([c for cost in costs for c in cost], dtype=np.float64)
    scale = float(flat.max()) or 1.0
    one_each = (owner[None, :] == np.arange(len(options))[:, None]).astype(np.float64)
    constraints = [LinearConstraint(one_each, 1.0, 1.0)]
    for weights, limit, _ in limits:
        constraints.append(
            LinearConstraint((weights[owner] * number)[None, :], -np.inf, limit * (1.0 + 1e-9))
        )
    answer = milp(
        flat / scale + 1e-12 * number,  # the second term breaks ties
        constraints=constraints,
        integrality=np.ones_like(flat),
        bounds=Bounds(0.0, 1.0),
        options={"mip_rel_gap": 0.0},
    )
    if answer.x is None:
        raise ValueError(
            f"The solver found no allocation within the budgets: {answer.message}. Raise them."
        )
    return [
        int(number[owner == layer][answer.x[owner == layer].argmax()])
        for layer in range(len(options))
    ]


@torch.no_grad()
def _errors(encoder: nn.Module, layers: dict[str, Any], number: int) -> dict[str, float]:
    """Return ‖Q_b(w) − w‖² of each layer."""
    with bits(encoder, weight=number, activation=32):
        return {
            name: float((layer.weight - parameter_of(layer)).square().sum())
            for name, layer in layers.items()
        }


@torch.no_grad()
def _multiplications(encoder: nn.Module, x: Tensor, layers: dict[str, nn.Module]) -> Floats:
    """Count the multiplications of one sample in each layer."""
    counts = dict.fromkeys(layers, 0.0)
    names = {module: name for name, module in layers.items()}

    def count(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        counts[names[module]] += out.numel() * parameter_of(module)[0].numel() / len(x)

    with (
        hooked([module.register_forward_hook(count) for module in layers.values()]),
        evaluating(encoder),
        off(encoder),
    ):
        encoder(x)
    return np.array(list(counts.values()))
