"""Muon against torch's own, the singular value decomposition and AdamW."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.optim.groups import LayerScales
from mezzotint.optim.muon import (
    Muon,
    MuonOptimizer,
    StepScaling,
    orthogonalize,
    step_scale,
    weight_matrices,
)
from mezzotint.recipe.schema import construct, resolve
from mezzotint.train.state import load_optimizer_state, optimizer_state


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward((model(x) - x[:, :3]).square().mean())
        optimizer.step()


def linears() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Tanh(),
        nn.Linear(16, 3, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_five_steps_are_those_of_torch(scaling: StepScaling, nesterov: bool) -> None:
    ours, theirs = linears(), linears()
    settings: dict[str, Any] = {
        "lr": 0.02,
        "momentum": 0.9,
        "weight_decay": 0.1,
        "nesterov": nesterov,
    }
    train(ours, MuonOptimizer(ours.parameters(), scaling=scaling, **settings), 5)
    train(theirs, torch.optim.Muon(theirs.parameters(), adjust_lr_fn=scaling, **settings), 5)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("shape", [(12, 12), (5, 40), (40, 5), (1, 9)])
def test_singular_values_become_about_one_and_singular_vectors_stay(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    made = orthogonalize(matrix, dtype=torch.float32)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ made @ right.T
    values = inner.diagonal()
    assert values.min() > 0.6 and values.max() < 1.3
    assert (inner - torch.diag(values)).abs().max() < 1e-3


def test_bfloat16_is_near_float32_and_zeros_stay_zeros() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(16, 24)
    exact, rounded = orthogonalize(matrix, dtype=torch.float32), orthogonalize(matrix)
    assert rounded.dtype == torch.bfloat16
    assert (exact - rounded.float()).norm() / exact.norm() < 0.03
    assert torch.equal(orthogonalize(torch.zeros(3, 4)).float(), torch.zeros(3, 4))


def test_the_published_scalings_in_closed_form() -> None:
    assert step_scale("original", 64, 16) == 2.0
    assert step_scale("original", 16, 64) == 1.0
    assert step_scale("match_rms_adamw", 16, 64) == pytest.approx(1.6)


def test_a_convolution_is_stepped_as_its_flattened_matrix() -> None:
    torch.manual_seed(0)
    kernel, gradient = torch.randn(8, 3, 3, 3), torch.randn(8, 3, 3, 3)
    conv, matrix = nn.Parameter(kernel.clone()), nn.Parameter(kernel.flatten(1).clone())
    conv.grad, matrix.grad = gradient, gradient.flatten(1)
    for p in (conv, matrix):
        MuonOptimizer([p], lr=0.1).step()
    assert torch.equal(conv.flatten(1), matrix)


def test_everything_else_is_trained_by_adamw() -> None:
    def norms() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.LayerNorm(6), nn.Tanh(), nn.LayerNorm(6), nn.AdaptiveAvgPool1d(3))

    ours, theirs = norms(), norms()
    rest = [{"params": list(ours.parameters()), "orthogonal": False}]
    train(ours, MuonOptimizer(rest, lr=0.01, weight_decay=0.1), 5)
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1), 5)
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-7)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.cls = nn.Parameter(torch.zeros(1, 1, 4))
        self.conv = nn.Conv1d(4, 4, 3)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 2)


def test_weight_matrices_are_the_weights_of_linears_and_convolutions() -> None:
    assert weight_matrices(Mixed()) == {"conv.weight", "out.weight"}


def test_groups_are_named_and_keep_decay_layers_and_rates_apart() -> None:
    settings = Muon(
        lr=0.02, adamw_lr=0.001, weight_decay=0.1, exclude="norm_and_bias",
        scales=LayerScales(head=2.0),
    )  # fmt: skip
    groups = settings.build(Mixed(), 256).param_groups
    rows = {
        (g["orthogonal"], g["excluded"]): (g["base_lr"], g["weight_decay"], g["param_names"])
        for g in groups
    }
    assert rows[True, False][1:] == (0.1, ["conv.weight", "out.weight"])
    assert rows[False, False][1:] == (0.1, ["cls", "table.weight"])
    assert rows[False, True][1] == 0.0
    assert rows[True, False][0] == pytest.approx(0.04)
    assert rows[False, True][0] == pytest.approx(0.002)
    assert all(g["lr"] == g["base_lr"] for g in groups)


def test_a_schedule_keeps_the_ratio_of_both_rates() -> None:
    settings = Muon(lr=0.02, adamw_lr=0.005)
    optimizer = settings.build(Mixed(), 256)
    settings.set_rates(optimizer, 0.5, 0.5)
    assert {g["orthogonal"]: g["lr"] for g in optimizer.param_groups} == {
        True: pytest.approx(0.01),
        False: pytest.approx(0.0025),
    }


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


@pytest.mark.parametrize("through", ["torch", "checkpoint"])
def test_state_goes_round_and_training_goes_on_bit_for_bit(through: str) -> None:
    settings = Muon(lr=0.02)
    whole, half = network(), network()
    train(whole, one := settings.build(whole, 8), 3)
    train(half, two := settings.build(half, 8), 3)
    train(whole, one, 2)
    again = network()
    again.load_state_dict(half.state_dict())
    third = settings.build(again, 8)
    if through == "torch":
        third.load_state_dict(two.state_dict())
    else:
        load_optimizer_state(third, optimizer_state(two))
    train(again, third, 2)
    for own, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)


def test_bfloat16_weights_and_float32_arithmetic_train() -> None:
    for dtype, arithmetic in ((torch.bfloat16, "bf16"), (torch.float32, "fp32")):
        model = network().to(dtype)
        optimizer = Muon(lr=0.02, arithmetic=arithmetic).build(model, 8)  # type: ignore[arg-type]
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            loss = (model(x) - x[:, :3]).float().square().mean()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.3 * losses[0] and math.isfinite(losses[-1])


def test_a_recipe_can_name_it() -> None:
    config = resolve({"kind": "muon", "lr": 0.02, "scaling": "original"}, "Optimizer", "optimizer")
    built: Any = construct(config, "Optimizer", {})
    assert isinstance(built, Muon) and built.config["scaling"] == "original"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"adamw_lr": 0.0}, "`optimizer.adamw_lr` must be positive, got 0.0"),
        ({"momentum": 1.0}, r"`optimizer.momentum` must be in \[0, 1\), got 1.0"),
        ({"betas": (0.9, 1.0)}, r"`optimizer.betas` must be in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Muon(lr=0.1, **settings)


def test_a_vector_cannot_be_orthogonalized() -> None:
    with pytest.raises(ValueError, match=r"parameter of shape \(3,\)"):
        MuonOptimizer([nn.Parameter(torch.zeros(3))])


def test_parameters_without_gradients_stay() -> None:
    model = network()
    before: list[Tensor] = [p.detach().clone() for p in model.parameters()]
    Muon(lr=1.0).build(model, 8).step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("tokens", [16, 64, 128])
def test_the_layer_above_passes_on_less_of_a_step_of_many_tokens(tokens: int) -> None:
    """How far n outputs change: by √(2 − T / n) for T tokens, and by √2 for a plain gradient.

    Gradients that came down through a layer W lie where W is large. An orthogonal step moves all of
    their T directions alike, and T = n directions are all there are, on which W is 1 on average.
    """
    torch.manual_seed(0)
    width = 128
    above = torch.randn(width, width) / width**0.5
    down = above.T @ torch.randn(width, tokens)
    orthogonal = orthogonalize(down, steps=10, dtype=torch.float32)
    for step, expected in ((orthogonal, 2.0 - tokens / width), (down, 2.0)):
        passed = float((above @ step).square().sum() / step.square().sum())
        assert passed == pytest.approx(expected, rel=0.1)
