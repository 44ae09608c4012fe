"""DINO: targets, warm-up, center and prototypes, compared with closed forms."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.methods.dino import DINO
from tests.methods.pair_masks import PAIRS, WEIGHTS, build, make_views, masked


def dino(**keywords: Any) -> DINO:
    method = build(DINO, prototypes=20, **keywords)
    assert isinstance(method, DINO)
    return method


def test_dino_is_the_cross_entropy_of_centered_and_sharpened_targets() -> None:
    method, views = dino(), masked()
    method.center.copy_(torch.linspace(-0.2, 0.2, 20))
    found = method(views).loss
    student: list[Tensor] = [method.projector(method.encoder(x))[1] for x in views.x]
    teacher = [method.teacher_projector(method.teacher_encoder(x))[1] for x in views.x[:2]]
    targets = [torch.softmax((t - method.center) / 0.07, dim=1) for t in teacher]
    total = sum(
        w * -(targets[t] * torch.log_softmax(student[p] / 0.1, dim=1)).sum(1).mean()
        for (p, t), w in zip(PAIRS, WEIGHTS, strict=True)
    )
    torch.testing.assert_close(found, total / sum(WEIGHTS))


def test_dino_warms_the_teacher_up_and_freezes_the_prototypes() -> None:
    method, views = dino(teacher_warmup_epochs=10, frozen_epochs=2), make_views(2, 6)
    gradients = []
    for epoch in (0.0, 1.0, 2.0):
        method.zero_grad()
        method(replace(views, epoch=torch.tensor(epoch))).loss.backward()
        grad = method.projector.directions.grad
        assert grad is not None
        gradients.append(bool(grad.any()))
    assert gradients == [False, False, True]
    spread = [
        float(-(t * t.log()).sum(1).mean())
        for epoch in (0.0, 5.0, 10.0, 50.0)
        for t in [method.targets(replace(views, epoch=torch.tensor(epoch)), [])[0]]
    ]
    assert spread[0] < spread[1] < spread[2] == pytest.approx(spread[3])


def test_dino_moves_its_center_after_the_step() -> None:
    method, views = dino(center_momentum=0.75), make_views(2, 6)
    method(views)
    assert not method.center.any()
    logits = [method.teacher_projector(method.teacher_encoder(x))[1] for x in views.x]
    method.after_step(0.5)
    torch.testing.assert_close(method.center, 0.25 * torch.stack(logits).mean(dim=(0, 1)).detach())
    method(views)
    method.before_step()  # the step was left out
    center = method.center.clone()
    method.after_step(0.5)
    assert torch.equal(method.center, center)


def test_dino_prototypes_have_length_one_or_learn_it() -> None:
    z, logits = dino().projector(torch.randn(4, 12))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    assert logits.abs().max() <= 1.0
    lengths = dino(norm_last_layer=False).projector.lengths
    assert lengths is not None and lengths.requires_grad


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"momentum": 1.5},
        {"prototypes": 1},
        {"teacher_temperature": (0.0, 0.1)},
    ],
)
def test_dino_refuses_in_three_parts(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be .*, got .*"):
        build(DINO, **{"prototypes": 20, **wrong})
