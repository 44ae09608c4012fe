"""MuSGD, MuAdam and MuAdamW: what they take and refuse, and schedules that keep the ratios."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR

from mezzotint.optim import Muon
from mezzotint.optim.mup import MuAdam, MuAdamW, MuSGD, keep_ratios, set_base_shapes
from mezzotint.optim.schedules import Cosine
from tests.optim.mup.models import MLP


def model(width: int = 32) -> MLP:
    torch.manual_seed(0)
    return set_base_shapes(MLP(width), MLP(8), delta=MLP(16))


def rates(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(p)]: (g["lr"], g["weight_decay"])
        for g in optimizer.param_groups
        for p in g["params"]
    }


@pytest.mark.parametrize(
    "of",
    [
        lambda m: m,
        lambda m: m.parameters(),
        lambda m: m.named_parameters(),
        lambda m: [{"params": m.parameters()}],
        lambda m: [{"params": [p]} for p in m.parameters()],
        lambda m: [{"params": p} for p in m.parameters()],
    ],
)
def test_models_parameters_and_groups_give_the_same_rates(of: Any) -> None:
    net = model()
    expected = rates(MuAdam(net, lr=0.8), net)
    assert rates(MuAdam(of(net), lr=0.8), net) == expected
    assert expected["second.weight"][0] == pytest.approx(0.2)
    assert expected["readout.weight"] == expected["first.bias"] == (0.8, 0.0)


def test_groups_of_ones_own_keep_their_settings() -> None:
    net = model()
    groups: list[dict[str, Any]] = [
        {"params": [net.second.weight], "lr": 0.4, "weight_decay": 0.1, "eps": 1e-6},
        {"params": [net.third.weight, net.third.bias]},
    ]
    optimizer = MuAdamW(groups, lr=0.8, betas=(0.8, 0.9))
    assert [(g["lr"], g["weight_decay"], g["eps"]) for g in optimizer.param_groups] == [
        (pytest.approx(0.1), pytest.approx(0.4), pytest.approx(2.5e-7)),
        (pytest.approx(0.2), pytest.approx(0.04), pytest.approx(2.5e-9)),
        (0.8, 0.01, pytest.approx(2.5e-9)),
    ]
    assert {g["betas"] for g in optimizer.param_groups} == {(0.8, 0.9)}
    assert groups[0]["lr"] == 0.4  # what was passed stays as it was


def test_defaults_of_the_optimizer_hold() -> None:
    """The package sets AdamW's weight decay to 0 in silence."""
    net = model()
    adamw, adam = rates(MuAdamW(net), net), rates(MuAdam(net), net)
    assert adamw["readout.bias"] == (1e-3, 0.01) and adam["readout.bias"] == (1e-3, 0.0)
    products = {round(lr * decay, 12) for lr, decay in adamw.values()}
    assert products == {1e-5}


def test_a_rate_without_its_name() -> None:
    net = model()
    assert rates(MuAdamW(net, 0.8), net) == rates(MuAdamW(net, lr=0.8), net)
    with pytest.raises(TypeError, match="`impl` must be the class of an optimizer, got 0.8"):
        MuAdam(net, 0.8)  # type: ignore[arg-type]


def test_another_optimizer_and_decoupled_decay() -> None:
    net = model()
    rmsprop = MuAdam(net, impl=torch.optim.RMSprop, lr=0.1)
    assert isinstance(rmsprop, torch.optim.RMSprop)
    sgd = rates(MuSGD(net, lr=0.1, weight_decay=0.5, decoupled_wd=True), net)
    assert {decay for _, decay in sgd.values()} == {0.5}
    assert sgd["first.weight"][0] == pytest.approx(0.4) and sgd["second.weight"][0] == 0.1


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}, {"amsgrad": True}])
def test_options_of_torch_and_tensor_rates_work(options: dict[str, Any]) -> None:
    net = model()
    optimizer = MuAdam(net, lr=0.01, **options)
    torch.autograd.backward(net(torch.randn(4, 20)).square().mean())
    optimizer.step()
    capturable = MuAdam(net, lr=torch.tensor(0.8))
    found = {round(float(g["lr"]), 6) for g in capturable.param_groups}
    assert found == {0.8, 0.2}


def test_copies_are_known_through_the_model_and_refused_as_parameters() -> None:
    net = model()
    twin = copy.deepcopy(net)
    assert rates(MuAdam(twin, lr=0.8), twin) == rates(MuAdam(net, lr=0.8), net)
    with pytest.raises(ValueError, match=r"pass the model itself: MuAdam\(model, lr=…\)"):
        MuAdam(twin.parameters(), lr=0.8)
    with pytest.raises(ValueError, match="has no base shapes"):
        MuAdam(MLP(8), lr=0.8)
    with pytest.raises(ValueError, match="empty parameter list"):
        MuAdam([], lr=0.1)


def test_frozen_parameters_are_left_out_and_later_layers_are_standard() -> None:
    net = model()
    net.first.requires_grad_(False)
    net.added = nn.Linear(10, 3)
    found = rates(MuSGD(net, lr=0.1), net)
    assert "first.weight" not in found and found["added.weight"] == (0.1, 0.0)


SCHEDULES: list[tuple[Any, dict[str, Any]]] = [
    (CosineAnnealingLR, {"T_max": 10, "eta_min": 0.02}),
    (OneCycleLR, {"max_lr": 0.3, "total_steps": 20}),
    (LinearLR, {"start_factor": 0.1, "total_iters": 5}),
]


@pytest.mark.parametrize(("schedule", "keywords"), SCHEDULES)
@pytest.mark.parametrize("make", [MuSGD, MuAdam])
def test_any_schedule_of_torch_keeps_the_ratios(
    schedule: Any, keywords: dict[str, Any], make: Any
) -> None:
    net = model()
    extra = {"momentum": 0.9} if make is MuSGD else {}
    optimizer = make(net, lr=0.1, **extra)
    alone = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    reference = schedule(alone, **keywords)
    expected = {name: lr / 0.1 for name, (lr, _) in rates(make(net, lr=0.1), net).items()}
    kept = keep_ratios(optimizer, schedule, **keywords)
    for step in range(10):
        found = rates(optimizer, net)
        now = reference.get_last_lr()[0]
        for name, factor in expected.items():
            assert found[name][0] == pytest.approx(now * factor), (name, step)
        optimizer.step()
        alone.step()
        kept.step()
        reference.step()
    again = keep_ratios(make(net, lr=0.1, **extra), schedule, **keywords)
    again.load_state_dict(copy.deepcopy(kept.state_dict()))
    assert again.get_last_lr() == pytest.approx(kept.get_last_lr())
    key = "momentum" if make is MuSGD else "betas"  # which OneCycleLR moves
    moved = [group[key] for group in again.optimizer.param_groups]
    assert moved == [group[key] for group in optimizer.param_groups]


def test_a_schedule_of_rates_leaves_momentum_and_tensor_rates_as_they_are() -> None:
    net = model()
    body, head = list(net.parameters())[:-1], list(net.parameters())[-1:]
    groups = [{"params": body, "betas": (0.8, 0.9)}, {"params": head, "betas": (0.5, 0.6)}]
    optimizer = MuAdam(groups, lr=torch.tensor(0.1), capturable=False, foreach=False)
    tensors = [group["lr"] for group in optimizer.param_groups]
    kept = keep_ratios(optimizer, lr_scheduler.StepLR, step_size=1)
    optimizer.step()
    kept.step()
    assert [g["lr"] for g in optimizer.param_groups] == tensors  # the tensors themselves
    assert {g["mup_group"]: g["betas"] for g in optimizer.param_groups} == {
        0: (0.8, 0.9),
        1: (0.5, 0.6),
    }
    assert float(tensors[0]) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="The learning rate is 0, so the groups have no ratios"):
        keep_ratios(MuAdam(net, lr=0.0), lr_scheduler.StepLR, step_size=1)


def test_optimizers_with_rules_of_their_own_are_refused() -> None:
    net = model()
    matrices = [p for p in net.parameters() if p.ndim == 2]
    for impl in (torch.optim.Muon, type("Lamb", (torch.optim.Adam,), {})):
        with pytest.raises(ValueError, match="must step like SGD or Adam, and"):
            MuAdam(matrices, impl=impl, lr=0.1)
    factors = [g.get("lr_factor", 1.0) for g in Muon(lr=0.1).build(net, 256).param_groups]
    assert min(factors) < 1.0  # the remedy scales


@pytest.mark.parametrize("by", ["add_param_group", "load_state_dict"])
def test_groups_without_rates_of_mup_are_refused(by: str) -> None:
    net = model()
    first, *rest = net.parameters()
    optimizer = MuAdam([first], lr=0.1)
    if by == "add_param_group":
        optimizer.add_param_group({"params": rest})
    else:
        optimizer.load_state_dict(torch.optim.Adam([first]).state_dict())
    with pytest.raises(ValueError, match=r"Make a new optimizer of all groups"):
        optimizer.step()


def test_an_absolute_minimum_rate_is_noticed_at_the_next_step() -> None:
    net = model()
    optimizer = MuAdam(net, lr=0.1)
    cosine = CosineAnnealingLR(optimizer, T_max=4, eta_min=0.05)
    optimizer.step()
    cosine.step()
    with pytest.raises(ValueError, match="no longer in muP's ratios.*keep_ratios"):
        optimizer.step()


def test_a_factor_of_each_rate_is_fine() -> None:
    net = model()
    optimizer = MuAdam(net, lr=0.1)
    factor = Cosine(warmup_epochs=2, final=0.1)
    rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
    assert len(set(rates.tolist())) > 1
    for schedule in (
        LambdaLR(optimizer, lambda step: factor(step, 10, 1)),
        lr_scheduler.ExponentialLR(optimizer, 0.5),
    ):
        for _ in range(3):
            optimizer.step()
            schedule.step()
            now = torch.tensor([group["lr"] for group in optimizer.param_groups])
            torch.testing.assert_close(now / now[0], rates / rates[0])


def test_state_goes_round() -> None:
    net = model()
    optimizer = MuAdam(net, lr=0.1)
    torch.autograd.backward(net(torch.randn(4, 20)).square().mean())
    optimizer.step()
    twin = copy.deepcopy(net)
    again = MuAdam(twin, lr=0.5)
    again.load_state_dict(optimizer.state_dict())
    assert rates(again, twin) == rates(optimizer, net)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(optimizer.state[p]["exp_avg"], again.state[q]["exp_avg"])
