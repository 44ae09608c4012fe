"""Batches in an order of (seed, epoch) alone: across processes, workers and restarts."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mezzotint.augment.image.views import OneView
from mezzotint.data import loader
from mezzotint.data.balance import Weighting
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.loader import BatchPlan, TooManyUnreadable, batches
from mezzotint.data.source import Source
from mezzotint.seeding import sample_order
from mezzotint.types import Input, Sample, Unreadable


class Numbers(Source):
    """Samples that hold their own number; some cannot be read."""

    def __init__(self, count: int = 20, unreadable: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, unreadable
        self.input = Input((1, 2, 2), (0.5,), (0.5,))

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Sample:
        if index in self.broken:
            raise Unreadable(f"number/{index}", "broken: a test")
        x = torch.full((1, 2, 2), index, dtype=torch.uint8)
        return {"x": x, "id": f"number/{index}", "label": None}

    def fingerprint(self) -> str:
        return "numbers"


def test_the_steps_of_an_epoch_are_its_order_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    balance = Weighting(torch.ones(1000), 900, replacement=True)
    monkeypatch.setattr(loader, "_PART", 1)
    for weighting, whole in ((None, sample_order(1000, 3, 1)), (balance, balance.order(3, 1))):
        plan = BatchPlan(1000, 18, 3, weighting=weighting)
        steps = range(plan.steps_per_epoch, 2 * plan.steps_per_epoch)
        assert len({plan.part_of(step)[0] for step in steps}) > 10
        seen = torch.cat([plan.indices(step) for step in steps])
        assert torch.equal(seen, whole[: len(seen)])
        assert torch.equal(plan.indices(steps[7]), whole[7 * 18 : 8 * 18])


class OnceOnly(BatchPlan):
    """A plan whose order is asked for in the main process alone, as it takes seconds for millions.

    A worker gets the samples of its steps instead.
    """

    def indices(self, step: int) -> Tensor:
        assert get_worker_info() is None
        return super().indices(step)


def read(source: Source, start: int, stop: int, workers: int = 0) -> list[list[int]]:
    plan = OnceOnly(len(source), 4, seed=3)
    found = batches(source, OneView(), plan, start=start, stop=stop, workers=workers)
    return [batch.x[0][:, 0, 0, 0].tolist() for batch in found]


def test_an_epoch_visits_each_sample_once() -> None:
    plan = BatchPlan(20, 4, seed=0)
    epochs = [[plan.indices(step).tolist() for step in range(5 * e, 5 * e + 5)] for e in range(2)]
    for epoch in epochs:
        assert sorted(itertools.chain(*epoch)) == list(range(20))
    assert epochs[0] != epochs[1] and plan.epoch_of(4) == 0 and plan.epoch_of(5) == 1


def test_processes_share_a_batch() -> None:
    whole = BatchPlan(30, 6, seed=1)
    ranks = [BatchPlan(30, 6, seed=1, rank=rank, world_size=3) for rank in range(3)]
    for step in range(7):
        parts = [plan.indices(step) for plan in ranks]
        assert torch.equal(torch.cat(parts), whole.indices(step))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_goes_on_where_it_was(workers: int) -> None:
    whole = read(Numbers(), 0, 10)
    assert read(Numbers(), 3, 10, workers) == whole[3:]


def test_data_in_memory_is_indexed() -> None:
    source = EmbeddedImages(name="digits")
    plan = BatchPlan.of(source, 32, seed=0, rank=0, world_size=1)
    (batch,) = batches(source, OneView(), plan, start=2, stop=3)
    assert torch.equal(batch.x[0], source.images[plan.indices(2)]) and batch.labels is None


def test_an_unreadable_sample_is_replaced_by_the_next_and_reported() -> None:
    source, plan = Numbers(unreadable=(5, 6)), BatchPlan(20, 20, seed=0)
    (batch,) = batches(source, OneView(), plan, start=0, stop=1)
    values = dict(zip(batch.ids.tolist(), batch.x[0][:, 0, 0, 0].tolist(), strict=True))
    assert values[5] == values[6] == 7 and values[4] == 4
    assert sorted(error.id for error in batch.bad) == ["number/5", "number/6"]
    with pytest.raises(Unreadable, match="number/"):
        list(batches(source, OneView(), plan, start=0, stop=1, on_unreadable="error"))


def test_nothing_but_unreadable_samples_is_an_error() -> None:
    source = Numbers(8, unreadable=tuple(range(8)))
    with pytest.raises(TooManyUnreadable, match="8 samples in a row are unreadable, from sample"):
        list(batches(source, OneView(), BatchPlan(8, 4, seed=0), start=0, stop=1))


def test_batches_that_cannot_be_filled_or_divided_are_refused() -> None:
    with pytest.raises(ValueError, match="`run.batch_size` must be at most 3, .*, got 4. Lower it"):
        BatchPlan(3, 4, seed=0)
    with pytest.raises(ValueError, match="must be a multiple of the 3 processes, got 4"):
        BatchPlan(30, 4, seed=0, world_size=3)
