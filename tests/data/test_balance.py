"""Samples drawn by the rarity of labels: right proportions, the same after a restart."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.augment.views import Transformed
from mezzotint.data.balance import Balance, Weighting
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.labeled import Labeled
from mezzotint.data.loader import BatchPlan, batches
from mezzotint.data.source import Source, Task
from mezzotint.seeding import weighted_order
from mezzotint.types import Input, Sample

RARE = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)


class Tagged(Source):
    """Samples that are their own number; the last is to be scored."""

    def __init__(self, tags: np.ndarray) -> None:
        self.tags, self.input = tags, Input((1,), (0.0,), (1.0,), "table")

    def __len__(self) -> int:
        return len(self.tags)

    def read(self, index: int) -> Sample:
        return {"x": torch.tensor([float(index)]), "id": str(index), "label": None}

    def fingerprint(self) -> str:
        return "tagged"

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        last = len(self.tags) - 1
        return self, [
            Task("tags", "tag", self.tags, np.arange(last), np.array([last]), ["a", "b", "c"])
        ]


def everything(labels: Tensor) -> Tensor:
    return torch.arange(len(labels))


def test_weights_are_the_sum_over_the_labels_of_one_over_their_count() -> None:
    tags = torch.tensor([[1, 0, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    found = Balance().weighting(tags, torch.tensor([0, 1, 2, 3]))  # of the four: 3, 1 and 1
    expected = [1 / 3.01 + 1 / 1.01, 1 / 3.01, 1 / 3.01 + 1 / 1.01, 0.0]
    assert found.weights.tolist() == pytest.approx(expected) and found.samples == 4
    assert Balance().weighting(RARE, everything(RARE)).weights[
        [0, 900, 990]
    ].tolist() == pytest.approx([1 / 900.01, 1 / 90.01, 1 / 10.01])


def test_classes_are_drawn_equally_often_with_replacement() -> None:
    drawn = Balance(samples=30_000).weighting(RARE, everything(RARE)).order(0, 0)
    counts = torch.bincount(RARE[drawn])
    assert (
        float(((counts - 10_000.0) ** 2 / 10_000.0).sum()) < 13.8
    )  # chi-square of 2 degrees of freedom, p = 0.001
    of_rarest = torch.bincount(drawn, minlength=1000)[990:].double()
    assert float(((of_rarest - of_rarest.mean()) ** 2 / of_rarest.mean()).sum()) < 27.9  # 9 degrees


def test_without_replacement_as_often_as_torch_draws_one_after_another() -> None:
    weights = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    trials = 4000
    ours = torch.stack(
        [weighted_order(weights, 3, 7, epoch, replacement=False) for epoch in range(trials)]
    )
    theirs = torch.multinomial(
        weights.expand(trials, -1), 3, generator=torch.Generator().manual_seed(0)
    )
    assert all(len(set(row)) == 3 and 5 not in row for row in ours.tolist())
    for position in range(3):  # the first drawn, the second, the third
        own, other = (
            torch.bincount(drawn[:, position], minlength=6)[:5].double() for drawn in (ours, theirs)
        )
        assert float(((own - other) ** 2 / (own + other)).sum()) < 18.5  # 4 degrees, p = 0.001


def test_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    once = Balance(samples=200, replacement=False).weighting(RARE, everything(RARE))
    copy: Weighting = pickle.loads(pickle.dumps(once))
    assert (
        torch.equal(once.order(3, 4), copy.order(3, 4))
        and len(set(once.order(3, 4).tolist())) == 200
    )
    assert not torch.equal(once.order(3, 4), once.order(3, 5)) and not torch.equal(
        once.order(3, 4), once.order(2, 4)
    )


def test_a_sample_without_a_tag_is_never_drawn_and_the_rest_is_as_without() -> None:
    tags = np.zeros((21, 3), np.bool_)
    tags[:16, 0] = tags[3, 1] = tags[20, 2] = True
    data = Labeled(source=Tagged(tags), balance=Balance(samples=12))
    plan = BatchPlan.of(data, 4, 0, 0, 1)
    views = Transformed(transforms=[], count=1)
    assert (plan.length, plan.samples, plan.steps_per_epoch, plan.epoch_of(3)) == (20, 12, 3, 1)
    seen = [batch.ids for batch in batches(data, views, plan, start=0, stop=30)]
    assert max(torch.cat(seen).tolist()) < 16
    assert float((torch.cat(seen) == 3).float().mean()) == pytest.approx(
        0.53, abs=0.15
    )  # the only one of its tag
    later = [
        batch.ids for batch in batches(data, views, plan, start=17, stop=30)
    ]  # what a resumed run sees
    assert all(torch.equal(a, b) for a, b in zip(seen[17:], later, strict=True))
    ranks = [BatchPlan.of(data, 4, 0, rank, 2) for rank in range(2)]
    for step in range(6):
        assert torch.equal(torch.cat([r.indices(step) for r in ranks]), plan.indices(step))
    assert BatchPlan.of(Labeled(source=Tagged(tags)), 4, 0, 0, 1).samples == 20


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="got samples=None and replacement=False. 200000"):
        Balance(replacement=False)
    with pytest.raises(ValueError, match=r"got samples=0"):
        Balance(samples=0)
    with pytest.raises(
        ValueError,
        match="must be at most 1000, the samples with labels, got 2000 without replacement",
    ):
        Balance(samples=2000, replacement=False).weighting(RARE, everything(RARE))
    data = Labeled(source=EmbeddedImages(name="digits"), balance=Balance(samples=10))
    with pytest.raises(
        ValueError, match="`run.batch_size` must be at most 10, the samples of an epoch, got 32"
    ):
        BatchPlan.of(data, 32, 0, 0, 1)
