"""The integer program against all allocations, and budgets that bind."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.allocate import allocate_, solve
from mezzotint.quant.convert import QuantizationPolicy, parameter_of, quantized_layers

Digits = tuple[Tensor, Tensor]


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_best_of_all_allocations(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    choices = [2, 3, 4, 8]
    sizes, operations = numbers.random(5), numbers.random(5)
    costs = [(numbers.random() * 4.0 ** -np.array(choices)).tolist() for _ in range(5)]
    limits = [(sizes / sizes.sum(), 3.7, "mean_bits"), (operations / operations.sum(), 3.9, "bops")]
    allowed = [
        sum(c[choices.index(b)] for c, b in zip(costs, widths, strict=True))
        for widths in itertools.product(choices, repeat=5)
        if all((w * np.array(widths)).sum() <= limit for w, limit, _ in limits)
    ]
    found = solve(costs, [choices] * 5, limits)
    assert all((w * np.array(found)).sum() <= limit * (1 + 1e-6) for w, limit, _ in limits)
    assert sum(c[choices.index(b)] for c, b in zip(costs, found, strict=True)) == pytest.approx(
        min(allowed), rel=1e-6
    )


def test_budgets_bind(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    x = digits[0][:64]
    layers = dict(quantized_layers(trained))
    sizes = {name: parameter_of(layer).numel() for name, layer in layers.items()}

    def free() -> None:
        for name, layer in layers.items():
            layer.weight_quantizer.fix(8 if name == "conv1" else None)

    costs = []
    for budget in (8.0, 5.0, 4.0, 3.0):
        free()
        found = allocate_(trained, [x], mean_bits=budget, probes=4)
        assert found.bits["conv1"] == 8 and found.mean_bits <= budget + 1e-6
        assert found.bits == {
            name: layer.weight_quantizer.fixed_bits for name, layer in layers.items()
        }
        mean = sum(sizes[n] * b for n, b in found.bits.items()) / sum(sizes.values())
        assert found.mean_bits == pytest.approx(mean)
        costs.append(found.cost)
        for name, width in found.bits.items():  # nothing more fits
            if width < 8:
                step = {2: 2, 4: 4}[width] * sizes[name] / sum(sizes.values())
                assert (
                    found.mean_bits + step > budget
                    or found.sensitivity[name] <= 0.0
                    or budget < 8.0
                )
    assert (
        costs == sorted(costs)
        and costs[0] < costs[-1]
        and f"{found.mean_bits:.3f} bits per weight" in str(found)
    )
    free()
    by_operations = allocate_(trained, [x], bops=0.5, activation=4, probes=4)
    total = by_operations.bops / 4
    free()
    most = allocate_(trained, [x], mean_bits=8.0, probes=4)
    assert set(most.bits.values()) == {8}
    assert total <= 0.5 * most.bops / 8 * (1 + 1e-6)


def test_is_better_than_one_width_for_all(trained: ResNet, digits: Digits) -> None:
    x, unseen = digits[0][:64], digits[0][512:]
    exact = trained(unseen).detach()
    quant.quantize_(trained)
    with quant.bits(trained, weight=4, activation=32), torch.no_grad():
        uniform = (trained(unseen) - exact).square().mean()
    found = allocate_(trained, [x], mean_bits=4.05, choices=(2, 3, 4, 5, 6, 8), probes=20)
    with (
        quant.bits(trained, weight=4, activation=32),
        torch.no_grad(),
    ):  # each layer at its own width
        mixed = (trained(unseen) - exact).square().mean()
    assert len(set(found.bits.values())) > 2 and mixed < uniform


def test_multiplications_are_counted() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.Flatten(), nn.Linear(6 * 25, 10)
    )
    quant.quantize_(net, QuantizationPolicy("weights", placement="none"))
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    found = allocate_(net, [x], mean_bits=8.0, choices=(8,), probes=1, activation=4)
    assert found.bops == (6 * 25 * 2 * 9 + 150 * 10) * 8 * 4
    by_eigenvalue = allocate_(net, [x], mean_bits=8.0, criterion="eigenvalue", probes=3)
    assert min(by_eigenvalue.sensitivity.values()) > 0.0


def test_bad_budgets(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    with pytest.raises(ValueError, match="Without a budget every layer gets the most bits"):
        allocate_(trained, [digits[0][:8]])
    with pytest.raises(ValueError, match="`mean_bits` must be at least 2.*got 1.5"):
        allocate_(trained, [digits[0][:8]], mean_bits=1.5, probes=1)
