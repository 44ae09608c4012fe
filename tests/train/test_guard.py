"""The guard against a naive count, and signals that set a flag and are restored."""

import math
import os
import signal

import pytest
import torch

from mezzotint.train.guard import Interrupted, NotFinite, StepGuard, catch_signals


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_guard_counts_bad_steps_in_a_row(patience: int) -> None:
    guard, device, in_a_row = StepGuard(patience), torch.device("cpu"), 0
    losses = [1.0, math.nan, 0.5, math.inf, -math.inf, 2.0, *[math.nan] * (patience + 1)]
    for step, loss in enumerate(losses):
        in_a_row = 0 if math.isfinite(loss) else in_a_row + 1
        if in_a_row > patience:
            with pytest.raises(NotFinite, match=f"step {step}, NaN or inf {in_a_row} times"):
                guard.allows(step, loss, 1.0, device)
            return
        assert guard.allows(step, loss, 1.0, device) == math.isfinite(loss)
        assert guard.in_a_row == in_a_row
    raise AssertionError("the guard never stopped the run")


def test_a_gradient_counts_like_a_loss() -> None:
    guard = StepGuard(5)
    assert not guard.allows(7, 1.0, math.nan, torch.device("cpu"))
    assert guard.skipped == [7]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_sets_the_flag_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with catch_signals() as flag:
        assert flag.number == 0
        os.kill(os.getpid(), number)
        assert flag.number == number
    assert signal.getsignal(number) is before


def test_an_interruption_exits_as_shells_do() -> None:
    assert Interrupted(signal.SIGTERM).exit_code == 143
    assert Interrupted(signal.SIGINT).exit_code == 130
