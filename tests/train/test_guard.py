"""The guard against a naive count, and the state that an abandoned step must not move."""

import math

import pytest
import torch
from torch import nn

from mezzotint.train.guard import (
    ForwardState,
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


class Moving(nn.Module):
    """A module whose forward pass moves a BatchNorm, replaces a buffer and mirrors a third."""

    ranges: torch.Tensor
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("ranges", torch.full((1,), INF), persistent=False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.mirror = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.ranges = x.detach().amax(0)
        self.steps += 1
        self.mirror = int(self.steps)
        out: torch.Tensor = self.norm(x)
        return out

    def _load_from_state_dict(self, *args: object) -> None:
        super()._load_from_state_dict(*args)
        self.mirror = int(self.steps)


@pytest.mark.parametrize("value", [NAN, INF, 3e38, 1e30])
def test_what_a_forward_pass_moves_is_checked_and_put_back(value: float) -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module(torch.randn(8, 3))
    assert bool(before.is_finite(torch.device("cpu")))
    before.release()
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    assert module.mirror == 1

    before.keep()
    module(torch.randn(8, 3).index_fill(0, torch.tensor([2]), value))
    assert not bool(before.is_finite(torch.device("cpu")))
    before.abandon(1)
    found = dict(module.named_buffers())
    assert found.keys() == buffers.keys() and module.mirror == 1
    assert all(torch.equal(found[name], b) for name, b in buffers.items())


def test_a_step_that_counts_is_not_put_back() -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module(torch.randn(8, 3))
    moved = module.norm.running_mean.clone()  # type: ignore[union-attr]
    before.release()
    before.restore()
    assert torch.equal(module.norm.running_mean, moved)  # type: ignore[arg-type]


def test_an_update_that_made_weights_nan_stops_the_run() -> None:
    module = Moving()
    before = ForwardState(module)
    before.keep()
    module.norm.weight.data[1] = NAN
    with pytest.raises(NotFinite, match="update before step 4 made the weights norm.weight NaN"):
        before.abandon(4)


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
