"""MoCo v3 equals its published code: loss, schedules, LARS, and steps with both heads."""

import pytest
import torch
from torch import nn

from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import cosine_momentum
from mezzotint.methods.mocov3 import MoCoV3, contrast
from mezzotint.modality.patches import grid_positions
from mezzotint.optim.lars import LARSOptimizer
from mezzotint.optim.schedules import Cosine
from mezzotint.types import Input
from tests.golden.networks import Flat, as_views
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED, VIT = stored("mocov3"), stored("mocov3_vit")


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_and_its_gradient(temperature: float) -> None:
    q = draw(1, 6, 5).requires_grad_()
    loss, _ = contrast(q, draw(2, 6, 5), temperature)
    (gradient,) = torch.autograd.grad(loss, q)
    expected = EXPECTED[f"loss T={temperature}"]
    check(loss, expected["loss"], 1e-6)
    check(gradient, expected["gradient"], 2e-6)


def test_learning_rate_by_step() -> None:
    """A step is a quarter of an epoch."""
    schedule = Cosine(warmup_epochs=10)
    rates = [9.6 * schedule(int(4 * epoch), 400, 4) for epoch in EXPECTED["lr"]["epochs"]]
    check(torch.tensor(rates, dtype=torch.float64), EXPECTED["lr"]["values"], 1e-8)


def test_momentum_of_the_keys() -> None:
    values = [cosine_momentum(0.99, epoch / 100) for epoch in EXPECTED["momentum"]["epochs"]]
    check(torch.tensor(values, dtype=torch.float64), EXPECTED["momentum"]["values"], 1e-8)


def test_lars_with_a_changing_rate() -> None:
    """A matrix, a vector, which gets neither trust ratio nor decay, and a matrix of norm 0."""
    weights = [nn.Parameter(draw(10, 4, 3)), nn.Parameter(torch.zeros(2, 2))]
    bias = nn.Parameter(draw(11, 4))
    groups = [{"params": weights}, {"params": [bias], "excluded": True, "weight_decay": 0.0}]
    optimizer = LARSOptimizer(groups, lr=0.4, weight_decay=0.1)
    ordered = [weights[0], bias, weights[1]]
    for step, lr in enumerate((0.4, 0.3, 0.1)):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for index, parameter in enumerate(ordered):
            parameter.grad = draw(20 + 10 * step + index, *parameter.shape)
        optimizer.step()
    for parameter, expected in zip(ordered, EXPECTED["lars"], strict=True):
        check(parameter, expected, 1e-6)


@pytest.mark.parametrize("head", ["resnet", "vit"])
def test_three_steps(head: str) -> None:
    torch.manual_seed(0)
    method = MoCoV3(
        Flat(), head=head, hidden_dim=16, dim=8, temperature=0.2 if head == "vit" else 1.0,  # type: ignore[arg-type]
        momentum=0.9,
    )  # fmt: skip
    trained = [*method.encoder.parameters(), *method.projector.parameters()]
    keys = [*method.key_encoder.parameters(), *method.key_projector.parameters()]
    online = [*trained, *method.predictor.parameters()]
    fill(online, 100)
    with torch.no_grad():
        for key, parameter in zip(keys, trained, strict=True):
            key.copy_(parameter)
    optimizer = LARSOptimizer(
        [
            {"params": [p for p in online if p.ndim > 1]},
            {"params": [p for p in online if p.ndim == 1], "excluded": True, "weight_decay": 0.0},
        ],
        lr=0.0,
        weight_decay=1e-2,
    )
    expected = EXPECTED[f"{head} steps"]
    schedule, losses = Cosine(warmup_epochs=1), []
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 0.6 * schedule(step + 1, 8, 2)
        if step > 0:
            method.after_step((step + 1) / 8)  # the published code updates before the next keys
        optimizer.zero_grad()
        loss = method(as_views(draw(40 + step, 32, 3, 2, 2), draw(50 + step, 32, 3, 2, 2))).loss
        loss.backward()
        if step == 0:
            check_digest(
                [p.grad for p in online if p.grad is not None], expected["gradients"], 1e-5
            )
        optimizer.step()
        losses.append(loss.detach())
    check(torch.stack(losses), expected["losses"], 1e-5)
    check_digest(online, expected["weights"], 1e-4)
    check_digest(keys, expected["keys"], 1e-4)


def vit() -> ViT:
    torch.manual_seed(0)
    image = Input((3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    return ViT(image, width=24, depth=2, heads=3, patch=4, pool="cls", initialization="mocov3")


def test_positions_and_features_of_the_vit() -> None:
    encoder = vit().eval()
    positions = encoder.places(grid_positions((4, 4), torch.device("cpu")))[0]
    check(positions, VIT["positions"], 1e-6)
    assert encoder.cls is not None
    parts = (encoder.patches, encoder.blocks, encoder.norm)
    fill([encoder.cls, *(p for part in parts for p in part.parameters())], 300, 0.2)
    features = encoder(draw(6, 3, 3, 16, 16))
    check(features[0], VIT["first"], 1e-5)
    check_digest([features], VIT["features"], 1e-5)


def test_limits_of_the_vits_initialization() -> None:
    """Queries, keys and values are three matrices; the class token is almost 0."""
    encoder = vit()
    for name, key in (("blocks.0.attn.qkv.weight", "qkv"), ("patches.project.weight", "patch")):
        largest = float(encoder.get_parameter(name).detach().abs().max())
        assert 0.98 * VIT["bounds"][key] < largest <= VIT["bounds"][key] * (1 + 1e-6)
    assert encoder.cls is not None and float(encoder.cls.detach().abs().max()) < 1e-5
