"""The guard against a naive count, and the search for tensors that are not finite."""

import math

import pytest
import torch

from mezzotint.train.guard import (
    NotFinite,
    SentScalars,
    StepGuard,
    StepScalars,
    first_not_finite,
)

NAN, INF = math.nan, math.inf


def scalars(loss: float, norm: float = 1.0, *, moved_finite: bool = True) -> StepScalars:
    return StepScalars(loss, norm, moved_finite, {})


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_guard_counts_bad_steps_in_a_row(patience: int) -> None:
    guard, in_a_row = StepGuard(patience), 0
    losses = [1.0, NAN, 0.5, INF, -INF, 2.0, *[NAN] * (patience + 1)]
    for step, loss in enumerate(losses):
        in_a_row = 0 if math.isfinite(loss) else in_a_row + 1
        if in_a_row > patience:
            with pytest.raises(NotFinite, match=f"step {step}: NaN or inf {in_a_row} times"):
                guard.allows(step, scalars(loss))
            return
        assert guard.allows(step, scalars(loss)) == math.isfinite(loss)
        assert guard.in_a_row == in_a_row
    raise AssertionError("the guard never stopped the run")


def test_a_gradient_and_running_statistics_count_like_a_loss() -> None:
    guard = StepGuard(5)
    assert not guard.allows(7, scalars(1.0, NAN))
    assert guard.allows(8, scalars(1.0, INF), overflow=True)
    assert not guard.allows(9, scalars(1.0, moved_finite=False))
    assert guard.skipped == [7, 9]
    with pytest.raises(NotFinite, match="running statistics NaN or inf at step 3"):
        StepGuard(0).allows(3, scalars(1.0, moved_finite=False))


def test_scalars_are_those_of_the_step() -> None:
    read = SentScalars(
        torch.tensor(2.0),
        torch.tensor(0.5),
        torch.tensor(True),
        {"alignment": torch.tensor(0.25), "std": torch.tensor(0.75, dtype=torch.float64)},
    ).read()
    assert read == StepScalars(2.0, 0.5, True, {"alignment": 0.25, "std": 0.75})
    assert not SentScalars(read_of(1), read_of(1), torch.tensor(False), {}).read().moved_finite


def read_of(value: float) -> torch.Tensor:
    return torch.tensor(float(value))


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    good, bad = torch.ones(3), torch.tensor([1.0, INF])
    assert first_not_finite([("a", good), ("n", torch.tensor(3))]) is None
    assert first_not_finite([("a", good), ("b", bad), ("c", bad)]) == "b"
    assert first_not_finite([]) is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_finite_although_their_sum_is_not(dtype: torch.dtype) -> None:
    largest = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)
    mixed = torch.cat([largest, -largest])
    assert first_not_finite([("a", largest), ("b", mixed), ("c", torch.arange(3))]) is None
    for bad in (math.nan, math.inf, -math.inf):
        broken = mixed.clone()
        broken[4] = bad
        assert first_not_finite([("a", largest), ("b", broken), ("c", broken)]) == "b"
    opposite = torch.tensor([math.inf, -math.inf], dtype=dtype)
    assert first_not_finite([("a", opposite)]) == "a"
