"""The siamese methods of revisitAIRL (ECCV 2022) equal its published code."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mezzotint.detection.detectron2 import to_detectron2
from mezzotint.interop.norm_rescale import norm_rescale
from mezzotint.methods.byol import BYOL, squared_distance
from mezzotint.methods.method import Method, cosine_momentum
from mezzotint.methods.moco import MoCo
from mezzotint.optim.lars import LARSOptimizer
from mezzotint.optim.schedules import Cosine, MultiStep, Schedule
from tests.golden.networks import ConvNorm, Flat, as_views
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED = stored("airl")
PLUS = {"symmetric": True, "temperature": 0.2, "momentum": 0.99, "momentum_schedule": "cosine"}
METHODS: dict[str, dict[str, Any]] = {
    "moco_v1": {"head": "linear", "temperature": 0.07},
    "moco_v2": {"head": "mlp", "temperature": 0.2},
    "moco_v2plus": {"head": "byol", **PLUS},
    "smoco_v2plus": {"head": "symmetric", **PLUS},
}


def build(name: str) -> tuple[Method, list[nn.Parameter], list[nn.Parameter]]:
    """Return the method with its weights set, its trained parameters and those of its keys."""
    if name == "byol":
        method: Any = BYOL(Flat(), hidden_dim=16, dim=8)
        copies = (method.target_encoder, method.target_projector)
    else:
        method = MoCo(Flat(), hidden_dim=16, dim=8, queue_size=64, **METHODS[name])
        method.queue.copy_(normalize(draw(77, 64, 8), dim=1))
        copies = (method.key_encoder, method.key_projector)
    parts = (method.encoder, method.projector, method.predictor)
    trained = [p for part in parts for p in part.parameters()]
    keys = [p for part in copies for p in part.parameters()]
    fill(trained, 100)
    with torch.no_grad():
        for key, parameter in zip(keys, trained, strict=False):  # a predictor has no copy
            key.copy_(parameter)
    return method, trained, keys


@pytest.mark.parametrize("name", [*METHODS, "byol"])
def test_three_steps(name: str) -> None:
    method, trained, keys = build(name)
    expected = EXPECTED[name]
    optimizer = torch.optim.SGD(trained, lr=0.4, momentum=0.9, weight_decay=1e-2)
    schedule: Schedule = Cosine(warmup_epochs=1, warmup_start=1e-6 / 0.4)
    if name == "moco_v1":
        schedule = MultiStep(milestones=[0.6, 0.8])
    losses = []
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.4 * schedule(step, 8, 2)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected["rates"][step], rel=1e-6)
        optimizer.zero_grad()
        loss = method(as_views(draw(40 + step, 32, 3, 2, 2), draw(50 + step, 32, 3, 2, 2))).loss
        loss.backward()
        if step == 0:
            gradients = [p.grad for p in trained if p.grad is not None]
            check_digest(gradients, expected["gradients"], 1e-5)
        optimizer.step()
        method.after_step((step + 1) / 8)
        losses.append(loss.detach())
    check(torch.stack(losses), expected["losses"], 5e-6)
    check_digest(trained, expected["weights"], 5e-5)
    check_digest(keys, expected["keys"], 1e-5)
    if name != "byol":
        check_digest([method.get_buffer("queue")], expected["queue"], 1e-5)
        assert int(method.get_buffer("pointer")) == expected["pointer"]


def test_loss_of_byol() -> None:
    q = draw(1, 6, 5).requires_grad_()
    loss = squared_distance(q, draw(2, 6, 5))
    (gradient,) = torch.autograd.grad(loss, q)
    check(loss, EXPECTED["byol loss"]["loss"], 1e-6)
    check(gradient, EXPECTED["byol loss"]["gradient"], 2e-6)


def test_schedule_with_warm_up_and_momentum() -> None:
    expected = EXPECTED["warmcos"]
    schedule = Cosine(warmup_epochs=10, warmup_start=1e-6 / 0.03)
    rates = [0.03 * schedule(i, 2000, 10) for i in expected["iterations"]]
    check(torch.tensor(rates, dtype=torch.float64), expected["rates"], 1e-8)
    momenta = [cosine_momentum(0.99, i / 2000) for i in expected["iterations"]]
    check(torch.tensor(momenta, dtype=torch.float64), expected["momenta"], 1e-8)


def test_schedule_of_moco_v1() -> None:
    expected = EXPECTED["multistep"]
    schedule = MultiStep(milestones=[0.6, 0.8])
    rates = [0.03 * schedule(i, 2000, 10) for i in expected["iterations"]]
    check(torch.tensor(rates, dtype=torch.float64), expected["rates"], 1e-8)


def test_lars_with_the_rate_inside_the_buffer() -> None:
    weights = [nn.Parameter(draw(10, 4, 3)), nn.Parameter(torch.zeros(2, 2))]
    bias = nn.Parameter(draw(11, 4))
    groups = [{"params": weights}, {"params": [bias], "excluded": True, "weight_decay": 0.0}]
    optimizer = LARSOptimizer(groups, lr=0.4, weight_decay=0.1, lr_in_buffer=True)
    ordered = [*weights, bias]
    for step, lr in enumerate((0.4, 0.3, 0.1)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for index, parameter in enumerate(ordered):
            parameter.grad = draw(20 + 10 * step + index, *parameter.shape)
        optimizer.step()
    for parameter, wanted in zip(ordered, EXPECTED["lars"], strict=True):
        check(parameter, wanted, 1e-6)


def test_norm_rescale_of_every_tensor() -> None:
    encoder, anchor = ConvNorm(), ConvNorm()
    expected = EXPECTED["norm_rescale"]
    for seed, scale, own in ((600, 3.0, anchor), (700, 1.0, encoder)):
        tensors = own.state_dict()
        fill([tensors[name] for name in expected], seed, scale)
    norm_rescale(encoder, anchor, everything=True)
    for name, wanted in expected.items():
        check(encoder.state_dict()[name], wanted, 1e-6)


def test_names_for_detectron2() -> None:
    for ours, theirs in EXPECTED["detectron2 names"].items():
        assert to_detectron2(ours) == theirs
