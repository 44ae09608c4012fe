"""Schedules against closed forms, the papers' figures, and torch's schedulers."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mezzotint.optim.schedules import Constant, Cosine, MultiStep, Polynomial, Schedule


def test_cosine_at_quarters() -> None:
    schedule = Cosine()
    found = [schedule(step, 100, 10) for step in (0, 25, 50, 75, 100)]
    assert found == pytest.approx(
        [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0]
    )


def test_cosine_equals_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.02)
    ours = Cosine(final=0.1)
    for step in range(50):
        assert 0.2 * ours(step, 50, 5) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        theirs.step()


def test_warmup_of_mocov3() -> None:
    """Linear warm-up by iteration, then half a cosine over the rest (rule of main_moco.py)."""
    schedule = Cosine(warmup_epochs=10)
    for step in range(0, 1000, 7):
        epoch = step / 10
        expected = epoch / 10 if epoch < 10 else 0.5 * (1 + math.cos(math.pi * (epoch - 10) / 90))
        assert schedule(step, 1000, 10) == pytest.approx(expected)


def test_warmup_of_revisit_airl_starts_at_1e_6() -> None:
    """Linear from 1e-6 to lr over 10 epochs; the first step uses 1e-6."""
    lr = 0.03
    schedule = Cosine(warmup_epochs=10, warmup_start=1e-6 / lr)
    assert lr * schedule(0, 2000, 10) == pytest.approx(1e-6)
    assert lr * schedule(50, 2000, 10) == pytest.approx((1e-6 + lr) / 2)
    assert lr * schedule(100, 2000, 10) == pytest.approx(lr)


def test_per_epoch_cosine_of_ssql() -> None:
    """0.5 · lr · (1 + cos(π e / E)) for whole epochs e, as SSQL trains."""
    schedule = Cosine(per_epoch=True)
    for step in range(400):
        expected = 0.5 * (1 + math.cos(math.pi * (step // 10) / 40))
        assert schedule(step, 400, 10) == pytest.approx(expected)


def test_per_epoch_rise_of_solo_learn() -> None:
    """A scheduler that is stepped after each epoch, as Lightning does by default.

    lightning-bolts' LinearWarmupCosineAnnealingLR, which solo-learn and MASSRL use: the first epoch
    has `warmup_start_lr`, each next of the warm-up adds (lr - start) / (warmup_epochs - 1), and the
    cosine begins after `warmup_epochs`. MASSRL: 2.4 at a batch of 2048, from 3e-5, 10 of 300.
    """
    schedule, lr, start = Cosine(warmup_epochs=10, warmup_start=1.25e-5, per_epoch=True), 2.4, 3e-5
    rate = 0.0
    for epoch in range(300):
        if epoch < 10:
            rate = start if epoch == 0 else rate + (lr - start) / 9
        else:
            rate = lr * (1 + math.cos(math.pi * (epoch - 10) / 290)) / 2
        for step in (0, 1, 624):
            found = lr * schedule(625 * epoch + step, 300 * 625, 625)
            assert found == pytest.approx(rate, rel=1e-9)
    assert lr * schedule(9 * 625, 300 * 625, 625) == pytest.approx(2.4)
    assert lr * schedule(4 * 625, 300 * 625, 625) == pytest.approx(1.0666833333)


def test_one_epoch_of_per_epoch_rise_is_all_at_the_start() -> None:
    schedule = Cosine(warmup_epochs=1, warmup_start=0.1, per_epoch=True)
    assert [schedule(step, 8, 2) for step in range(3)] == pytest.approx([0.1, 0.1, 1.0])


def test_a_run_shorter_than_its_warmup_ends_within_it() -> None:
    schedule = Cosine(warmup_epochs=10)
    assert [schedule(step, 4, 2) for step in range(4)] == pytest.approx([0.0, 0.05, 0.1, 0.15])


def test_multi_step_of_mocov1() -> None:
    """A tenth at 60 % and again at 80 % of training."""
    schedule = MultiStep(milestones=[0.6, 0.8])
    found = [schedule(step, 10, 1) for step in range(10)]
    assert found == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)


def test_multi_step_and_constant_warm_up() -> None:
    for schedule in (MultiStep(milestones=[0.5], warmup_epochs=2), Constant(warmup_epochs=2)):
        assert [schedule(step, 100, 2) for step in range(5)] == pytest.approx(
            [0.0, 0.25, 0.5, 0.75, 1.0]
        )
    assert Constant()(0, 10, 1) == Constant()(9, 10, 1) == 1.0


@given(
    total=st.integers(1, 500),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 20),
    final=st.floats(0, 1),
    start=st.floats(0, 1),
    whole=st.booleans(),
)
def test_cosine_stays_in_range_rises_and_falls(
    total: int, per_epoch: int, warmup: float, final: float, start: float, whole: bool
) -> None:
    schedule = Cosine(warmup_epochs=warmup, final=final, warmup_start=start, per_epoch=whole)
    values = [schedule(step, total, per_epoch) for step in range(total + 1)]
    assert all(min(final, start) - 1e-9 <= v <= 1.0 + 1e-9 for v in values)
    peak = math.ceil(warmup) * per_epoch if whole else math.ceil(warmup * per_epoch)
    rising, falling = values[:peak], values[peak:]
    assert all(a <= b + 1e-9 for a, b in zip(rising, rising[1:], strict=False))
    assert all(a >= b - 1e-9 for a, b in zip(falling, falling[1:], strict=False))


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Cosine, {"warmup_epochs": -1.0}),
        (Cosine, {"final": 2.0}),
        (Cosine, {"warmup_start": -0.1}),
        (MultiStep, {"milestones": [0.8, 0.6]}),
        (MultiStep, {"milestones": [60.0]}),
        (MultiStep, {"milestones": [0.5], "factor": 0.0}),
    ],
)
def test_values_out_of_range_are_refused(kind: type[Schedule], bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`(optimizer|schedule)\.\w+` .*, got .*\."):
        kind(**bad)


def test_polynomial_equals_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.2)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=0.9)
    ours = Polynomial()
    for step in range(40):
        assert 0.2 * ours(step, 40, 5) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert [Polynomial(warmup_epochs=2)(step, 40, 5) for step in (0, 5)] == [0.0, 0.5]
    with pytest.raises(ValueError, match="power` must be positive, got 0"):
        Polynomial(power=0)
