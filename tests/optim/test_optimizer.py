"""What a recipe's optimizer builds."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.optim.lars import LARSOptimizer
from mezzotint.optim.optimizer import LARC, LARS, SGD, AdamW, Optimizer


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_sgd_passes_its_settings_on() -> None:
    built = SGD(lr=0.05, momentum=0.8, weight_decay=5e-4, nesterov=True).build(net(), 512)
    assert isinstance(built, torch.optim.SGD)
    (group,) = built.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (
        0.05,
        0.8,
        5e-4,
        True,
    )


def test_adamw_passes_its_settings_on() -> None:
    built = AdamW(
        lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, exclude="norm_and_bias"
    ).build(net(), 64)
    assert isinstance(built, torch.optim.AdamW)
    decayed, excluded = built.param_groups
    assert (decayed["betas"], decayed["eps"], decayed["weight_decay"]) == ((0.8, 0.95), 1e-6, 0.1)
    assert excluded["weight_decay"] == 0.0
    assert decayed["param_names"] == ["0.weight", "2.weight"]


def test_lars_passes_its_settings_on() -> None:
    built = LARS(lr=0.45, momentum=0.8, weight_decay=1e-6, trust=0.02, lr_in_buffer=True).build(
        net(), 256
    )
    assert isinstance(built, LARSOptimizer)
    decayed, excluded = built.param_groups
    for group in (decayed, excluded):
        assert (group["lr"], group["momentum"], group["trust"], group["lr_in_buffer"]) == (
            0.45,
            0.8,
            0.02,
            True,
        )
    assert (decayed["weight_decay"], decayed["excluded"]) == (1e-6, False)
    assert (excluded["weight_decay"], excluded["excluded"]) == (0.0, True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_reads_memory_once_and_steps_as_torch_does(dtype: torch.dtype) -> None:
    """Also for gradients of another memory format, and for those without memory of their own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(5, 7, 3), nn.Linear(4, 3)).to(dtype)
    model.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    settings = AdamW(lr=0.01, weight_decay=0.1, eps=1e-6, exclude="norm_and_bias")
    built = settings.build(model, 8)
    expected = torch.optim.AdamW(settings.groups(twin, 8), eps=1e-6, foreach=False)
    assert all(group["fused"] for group in built.param_groups)
    for _ in range(20):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad = q.grad = torch.randn(p.shape, dtype=dtype)
        model[1].bias.grad = twin[1].bias.grad = torch.ones(1, dtype=dtype).expand(3)
        versions = [p._version for p in model.parameters()]
        built.step()
        expected.step()
        # Caches and autograd notice a change by the version.
        assert all(p._version > v for p, v in zip(model.parameters(), versions, strict=True))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=20 * torch.finfo(dtype).eps, atol=1e-7)


def test_adamw_takes_weights_that_are_no_block_of_memory() -> None:
    model = nn.Linear(4, 6)
    model.weight = nn.Parameter(torch.randn(6, 8)[:, ::2])
    assert model.weight.stride() == (8, 2)
    built = AdamW(lr=0.1, weight_decay=0.0).build(model, 8)
    assert not built.param_groups[0]["fused"]
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones(6, 4)
    built.step()
    torch.testing.assert_close(model.weight.detach(), before - 0.1)


@pytest.mark.parametrize("kind", [SGD, AdamW, LARS, LARC])
def test_linear_scaling_is_per_256_samples(kind: type[Any]) -> None:
    plain = kind(lr=0.3).build(net(), 4096)
    scaled = kind(lr=0.3, lr_scaling="batch/256").build(net(), 4096)
    assert {g["base_lr"] for g in plain.param_groups} == {0.3}
    assert [g["base_lr"] for g in scaled.param_groups] == pytest.approx(
        [4.8] * len(scaled.param_groups)
    )
    assert all(g["lr"] == g["base_lr"] for g in scaled.param_groups)


def test_weight_decay_follows_half_a_cosine_and_spares_what_is_excluded() -> None:
    settings = AdamW(lr=1.0, weight_decay=0.04, final_weight_decay=0.4, exclude="norm_and_bias")
    built = settings.build(net(), 64)
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    logged = [settings.set_rates(built, 0.5, share) for share in shares]
    half = math.sqrt(0.5)
    expected = [
        0.04,
        0.22 - 0.18 * half,
        0.22,
        0.22 + 0.18 * half,
        0.4,
    ]  # 0.4 − 0.36 · (1 + cos π share) / 2
    assert [line["weight_decay"] for line in logged] == pytest.approx(expected)
    assert [group["weight_decay"] for group in built.param_groups] == [pytest.approx(0.4), 0.0]
    assert {line["lr"] for line in logged} == {group["lr"] for group in built.param_groups} == {0.5}


def test_what_decays_is_the_weight_times_rate_and_the_decay_of_the_step() -> None:
    """Without a gradient AdamW multiplies a weight by 1 − lr · decay."""
    model = nn.Linear(1, 1, bias=False)
    settings = AdamW(lr=0.1, weight_decay=0.0, final_weight_decay=1.0)
    built, expected = settings.build(model, 64), float(model.weight.detach())
    for step in range(8):
        settings.set_rates(built, 1.0, step / 8)
        model.weight.grad = torch.zeros_like(model.weight)
        built.step()
        expected *= 1.0 - 0.1 * (1.0 - math.cos(math.pi * step / 8)) / 2.0
    assert float(model.weight.detach()) == pytest.approx(expected)


def test_weight_decay_that_stays_is_neither_set_nor_logged() -> None:
    settings = SGD(lr=0.2, weight_decay=5e-4)
    built = settings.build(net(), 64)
    assert settings.set_rates(built, 0.5, 0.9) == {"lr": 0.1}
    assert {group["weight_decay"] for group in built.param_groups} == {5e-4}


def test_each_trains() -> None:
    optimizers: list[Optimizer] = [SGD(lr=0.05), AdamW(lr=0.01), LARS(lr=0.1, trust=0.1)]
    optimizers += [LARC(lr=0.1, trust=0.1), LARC(lr=0.5, trust=0.1, clip=False)]
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
    assert AdamW(lr=0.3, betas=(0.9, 0.95)).config == {
        "kind": "adamw",
        "lr": 0.3,
        "betas": [0.9, 0.95],
    }
    assert SGD(lr=0.3).config == {"kind": "sgd", "lr": 0.3}


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (SGD, {"lr": 0.0}),
        (SGD, {"lr": 0.1, "weight_decay": -1.0}),
        (SGD, {"lr": 0.1, "momentum": 1.0}),
        (SGD, {"lr": 0.1, "momentum": 0.0, "nesterov": True}),
        (AdamW, {"lr": 0.1, "betas": (0.9, 1.0)}),
        (AdamW, {"lr": 0.1, "final_weight_decay": -0.1}),
        (LARS, {"lr": 0.1, "trust": 0.0}),
        (LARC, {"lr": 0.1, "trust": 0.0}),
        (LARS, {"lr": 0.1, "momentum": -0.1}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Any], bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`(optimizer|schedule)\.\w+` .*, got .*\."):
        kind(**bad)
