"""MASSRL equals its published code: pairs of eight views, both heads, LARS, operations."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from mezzotint.augment.image.auto_augment import FAST_AUTO_AUGMENT
from mezzotint.augment.image.operations import NAMES, apply_operations
from mezzotint.methods.byol import BYOL
from mezzotint.methods.method import cosine_momentum
from mezzotint.methods.siamese import pairs
from mezzotint.optim.lars import LARSOptimizer
from tests.golden.networks import Flat, as_views
from tests.golden.values import check, check_digest, draw, fill, stored

EXPECTED = stored("massrl")
HEADS: dict[str, dict[str, Any]] = {"massl": {}, "massl_edit": {"layers": 3, "predictor_layers": 3}}
FACTORS = {"brightness", "color", "contrast", "sharpness"}
"""Operations whose magnitude is a factor there, and a factor minus 1 here."""


def our_name(published: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", published).lower()


@pytest.mark.parametrize("name", HEADS)
def test_two_steps_with_eight_views(name: str) -> None:
    method = BYOL(Flat(), hidden_dim=16, dim=8, **HEADS[name], momentum=0.9)
    trained = [p for p in method.parameters() if p.requires_grad]
    keys = [p for p in method.parameters() if not p.requires_grad]
    fill(trained, 100)
    with torch.no_grad():
        for key, parameter in zip(keys, trained, strict=False):  # a predictor has no copy
            key.copy_(parameter)
    expected = EXPECTED[name]
    optimizer = LARSOptimizer(
        [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim == 1], "excluded": True, "weight_decay": 0.0},
        ],
        lr=0.05,
        weight_decay=1e-6,
    )
    for step in range(2):
        views = as_views(*(draw(40 + 10 * step + view, 16, 3, 2, 2) for view in range(8)))
        assert len(pairs(views)) == 56
        optimizer.zero_grad()
        loss = method(views).loss
        loss.backward()
        if step == 0:
            gradients = [p.grad for p in trained if p.grad is not None]
            check_digest(gradients, expected["gradients"], 1e-5)
        optimizer.step()
        method.after_step(step / 8)
        check(loss, expected["losses"][step], 1e-5)
    check_digest(trained, expected["weights"], 1e-4)
    check_digest(keys, expected["keys"], 1e-4)


def test_momentum() -> None:
    values = [cosine_momentum(0.99, step / 100) for step in EXPECTED["tau"]["steps"]]
    check(torch.tensor(values, dtype=torch.float64), EXPECTED["tau"]["values"], 1e-8)


def test_lars_of_solo_learn() -> None:
    """Its trust ratio has |g| + λ |w| where ours has |g + λ w|: equal at its weight decay."""
    weights = [nn.Parameter(draw(10, 4, 3)), nn.Parameter(torch.zeros(2, 2))]
    optimizer = LARSOptimizer(weights, lr=0.4, weight_decay=1e-6)
    for step, lr in enumerate((0.4, 0.3, 0.1)):
        optimizer.param_groups[0]["lr"] = lr
        for index, parameter in enumerate(weights):
            parameter.grad = draw(20 + 10 * step + index, *parameter.shape)
        optimizer.step()
    for parameter, expected in zip(weights, EXPECTED["lars"], strict=True):
        check(parameter, expected, 1e-5)


@pytest.mark.parametrize("published", EXPECTED["ranges"])
def test_range_of_fast_auto_augments_operation(published: str) -> None:
    name = our_name(published)
    own = FAST_AUTO_AUGMENT[name]
    low, high = EXPECTED["ranges"][published]
    if name in ("auto_contrast", "invert", "equalize"):  # have no magnitude
        return
    shift = 1.0 if name in FACTORS else 0.0
    scale = 255.0 if name == "solarize" else 1.0
    assert (scale * own.low + shift, scale * own.high + shift) == pytest.approx((low, high))


@pytest.mark.parametrize("key", EXPECTED["operations"])
def test_operation_on_an_image(key: str) -> None:
    """Within one level of 255; theirs are Pillow's."""
    name, level = our_name(key.split(" ")[0]), float(key.split(" ")[1])
    pixels = (draw(5, 8, 8, 3) * 60 + 120).clamp(0, 255).to(torch.uint8)
    x = pixels.permute(2, 0, 1)[None].float() / 255.0
    magnitude = FAST_AUTO_AUGMENT[name].at(torch.tensor([[level]]), x.shape)
    y = apply_operations(
        x, torch.tensor([[NAMES.index(name)]]), magnitude.float(), torch.zeros(1, 1, 2),
        interpolation="nearest", fill=0.0,
    )  # fmt: skip
    expected = torch.tensor(EXPECTED["operations"][key]).permute(2, 0, 1)
    assert float((y[0] - expected).abs().max()) <= 1.0
