"""What a recipe's optimiser builds."""

from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim.lars import LARSOptimizer
from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_sgd_passes_its_settings_on() -> None:
    built = SGD(lr=0.05, momentum=0.8, weight_decay=5e-4, nesterov=True).build(net(), 512)
    assert isinstance(built, torch.optim.SGD)
    (group,) = built.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.05, 0.8, 5e-4, True)


def test_adamw_passes_its_settings_on() -> None:
    built = AdamW(lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, exclude="norm_and_bias").build(net(), 64)
    assert isinstance(built, torch.optim.AdamW)
    decayed, excluded = built.param_groups
    assert (decayed["betas"], decayed["eps"], decayed["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.1)
    assert excluded["weight_decay"] == 0.0
    assert decayed["param_names"] == ["0.weight", "2.weight"]


def test_lars_passes_its_settings_on() -> None:
    built = LARS(lr=0.45, momentum=0.8, weight_decay=1e-6, trust=0.02, lr_in_buffer=True).build(net(), 256)
    assert isinstance(built, LARSOptimizer)
    decayed, excluded = built.param_groups
    for group in (decayed, excluded):
        assert (group["lr"], group["momentum"], group["trust"], group["lr_in_buffer"]) == (0.45, 0.8, 0.02, True)
    assert (decayed["weight_decay"], decayed["excluded"]) == (1e-6, False)
    assert (excluded["weight_decay"], excluded["excluded"]) == (0.0, True)


@pytest.mark.parametrize("kind", [SGD, AdamW, LARS])
def test_linear_scaling_is_per_256_samples(kind: type[Any]) -> None:
    plain = kind(lr=0.3).build(net(), 4096)
    scaled = kind(lr=0.3, lr_scaling="batch/256").build(net(), 4096)
    assert {g["base_lr"] for g in plain.param_groups} == {0.3}
    assert [g["base_lr"] for g in scaled.param_groups] == pytest.approx([4.8] * len(scaled.param_groups))
    assert all(g["lr"] == g["base_lr"] for g in scaled.param_groups)


def test_each_trains() -> None:
    optimizers: list[Optimizer] = [SGD(lr=0.05), AdamW(lr=0.01), LARS(lr=0.1, trust=0.1)]
    for settings in optimizers:
        torch.manual_seed(0)
        model = net()
        optimizer = settings.build(model, 16)
        x, y = torch.randn(16, 3), torch.randn(16, 2)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0], type(settings).__name__


def test_remembers_its_arguments_for_the_recipe() -> None:
    assert LARS(lr=0.3, exclude="none").config == {"kind": "lars", "lr": 0.3, "exclude": "none"}
    assert AdamW(lr=0.3, betas=(0.9, 0.95)).config == {"kind": "adamw", "lr": 0.3, "betas": [0.9, 0.95]}
    assert SGD(lr=0.3).config == {"kind": "sgd", "lr": 0.3}


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (SGD, {"lr": 0.0}),
        (SGD, {"lr": 0.1, "weight_decay": -1.0}),
        (SGD, {"lr": 0.1, "momentum": 1.0}),
        (SGD, {"lr": 0.1, "momentum": 0.0, "nesterov": True}),
        (AdamW, {"lr": 0.1, "betas": (0.9, 1.0)}),
        (LARS, {"lr": 0.1, "trust": 0.0}),
        (LARS, {"lr": 0.1, "momentum": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Any], bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=", got .*; "):
        kind(**bad)
