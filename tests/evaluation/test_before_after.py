"""Before → after: on test samples, and on training samples with all labels and with few."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source, Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import before_after
from mezzotint.evaluation.before_after import (
    changes,
    compare_on_training_samples,
    read_changes,
    write_changes,
)
from mezzotint.evaluation.features import Extraction, extract_readable
from mezzotint.evaluation.metrics import Accuracy
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import paired
from mezzotint.types import Input


def row(probe: str, correct: list[int], metric: str = "kind/test/top1", seed: int = 0) -> Row:
    value = Accuracy(torch.tensor(correct, dtype=torch.bool))
    made = Row(probe=probe, metric=metric, value=value, protocol=Protocol.of(probe), seed=seed)
    return made.with_protocol(test=len(correct))


def test_the_best_probes_of_both_sides_are_paired_sample_by_sample() -> None:
    before = [row("knn", [1, 1, 0, 0, 0, 0, 0, 0]), row("linear", [1, 1, 1, 0, 0, 0, 0, 0])]
    after = [row("knn", [0, 1, 1, 1, 1, 1, 0, 0]), row("linear", [1, 0, 0, 0, 0, 0, 0, 0])]
    (one,) = changes(before, after)
    assert one.probes == ("linear", "knn") and one.samples == 8
    assert (one.before, one.after) == (0.375, 0.625)
    assert (one.low, one.high) == pytest.approx(paired(3 / 8, 1 / 8, 8))
    assert "kind/test (linear and knn): 0.375 before, 0.625 after training (+0.250, 95 %" in str(
        one
    )
    assert "0.375 after training (−0.250, 95 % interval −0." in str(changes(after, before)[0])


def test_a_probe_without_seeds_is_paired_with_every_seed_of_the_other() -> None:
    before = [row("linear", [1, 0, 0, 0], seed=seed) for seed in range(2)]
    after = [row("linear", [1, 1, 0, 0], seed=0), row("linear", [1, 1, 1, 0], seed=1)]
    (one,) = changes(before, after)
    assert one.after - one.before == pytest.approx(0.375)
    assert one.low < 0.375 < one.high
    (other,) = changes([row("knn", [1, 0, 0, 0])], after)
    assert other.low == pytest.approx(one.low) and other.high == pytest.approx(one.high)


def test_other_metrics_and_low_bits_are_left_out() -> None:
    rows = [row("knn", [1, 0], metric="kind/test/top5")]
    assert changes(rows, rows) == []


def test_mean_average_precision_has_no_interval() -> None:
    rows = [Row(probe="linear", metric="tags/test/map", value=0.4, protocol=Protocol.of("linear"))]
    (one,) = changes(rows, rows)
    assert math.isnan(one.low) and "interval" not in str(one) and "linear mAP" in str(one)


def test_the_file_is_read_back_and_a_changed_one_refused(tmp_path: Path) -> None:
    found = changes([row("knn", [1, 0, 0])], [row("knn", [1, 1, 0])])
    assert read_changes(tmp_path) == []
    write_changes(tmp_path, found)
    assert read_changes(tmp_path) == found
    (tmp_path / "before_after.json").write_text("[]")
    with pytest.raises(ValueError, match="changed after it was written"):
        read_changes(tmp_path)


class Points(InMemory):
    """Clusters of eight dimensions, in the order of their classes, and eight of noise.

    Args:
        counts: samples of each class.
        test: samples to score, which training never sees.
        validation: samples of the validation part.
    """

    def __init__(self, *, counts: Sequence[int], test: int = 50, validation: int = 0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = np.repeat(np.arange(len(counts)), counts)
        means = torch.eye(8)[torch.from_numpy(self.labels) % 8] * 4.0
        noise = torch.randn(len(self.labels), 16, generator=generator)
        noise[:, :8] += means
        self.images, self.input = noise.view(-1, 1, 1, 16), Input((1, 1, 16), (0.0,), (1.0,))
        self.ids = "points"
        order = np.random.default_rng(0).permutation(len(self.labels))
        parts = np.split(order, [test, test + validation])
        self.test, self.validation = np.sort(parts[0]), np.sort(parts[1])
        self.train = np.sort(order[test:])

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return one task."""
        names = [str(label) for label in np.unique(self.labels)]
        splits = (self.labels, self.train, self.test, names, self.validation)
        return self, [Task("kind/test", "classify", *splits)]


class Scaled(Encoder, kind="scaled"):
    """The samples themselves, with the noise scaled: the more, the more labels a probe needs.

    Args:
        noise: factor.
    """

    def __init__(self, input: Input, *, noise: float = 0.0) -> None:
        super().__init__(input, 16)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1)[:, :8], x.flatten(1)[:, 8:] * self.noise], dim=1)


def both(data: Points, before: float, after: float) -> tuple[Encoder, Encoder]:
    """A start and a trained encoder, by the factors of their noise."""
    return Scaled(data.input, noise=before), Scaled(data.input, noise=after)


def test_few_labels_show_what_all_labels_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before_after, "_DRAWS", 8)  # to save time
    data = Points(counts=[100] * 4)
    task, (every, few) = compare_on_training_samples(*both(data, 0.0, 2.5), data)
    assert task == "kind/test" and (every.labels, few.labels) == (None, 10)
    assert every.low < 0.0 < every.high and few.high < 0.0
    assert few.after < few.before < every.before


def test_equal_encoders_differ_in_nothing_and_test_samples_are_never_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(before_after, "_DRAWS", 6)
    data, read = Points(counts=[70] * 3), []

    def noting(encoder: Encoder, source: Source, *, indices: Tensor) -> Extraction:
        read.append(indices.tolist())
        return extract_readable(encoder, source, indices=indices)

    monkeypatch.setattr(before_after, "extract_readable", noting)
    _, found = compare_on_training_samples(*both(data, 1.0, 1.0), data)
    for one in found:
        assert one.low < 0.0 < one.high and one.before == one.after
        assert one.samples == len(data.train) == 160  # each fifth is held out once
    assert len(found) == 2 and len(read) == 2  # features are computed once for both comparisons
    assert all(sorted(indices) == data.train.tolist() for indices in read)


def test_a_fifth_of_many_samples_is_held_out_once() -> None:
    folds = [before_after._folds(torch.arange(n), torch.empty(0)) for n in (2495, 2500)]
    assert [len(one) for one in folds] == [5, 1] and len(folds[1][0][1]) == 500
    held_out = torch.cat([side for _, side in folds[0]])
    assert sorted(held_out.tolist()) == list(range(2495))
    assert all(not set(a.tolist()) & set(b.tolist()) for a, b in folds[0])


def test_the_validation_part_of_the_data_is_scored_and_nothing_is_fitted_to_it() -> None:
    data = Points(counts=[70] * 4, validation=40)
    task = data.evaluation()[1][0]
    pool, validation = before_after._parts(task)
    number, draws = before_after._few_labels(task, pool, validation)
    assert (
        number == 10
        and len(draws) == 20
        and before_after._folds(pool, validation) == [(pool, validation)]
    )
    for ((fitted, scored),) in draws:
        assert np.bincount(data.labels[fitted]).tolist() == [10] * 4
        assert scored is validation and sorted(scored.tolist()) == data.validation.tolist()
        assert set(fitted.tolist()) <= set(data.train.tolist()) - set(scored.tolist())
    assert len({tuple(fitted.tolist()) for ((fitted, _),) in draws}) == 20


def test_many_files_in_the_order_of_their_classes_give_samples_of_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(before_after, "_MOST", 60)
    data = Points(counts=[100] * 4, validation=100)
    for part in before_after._parts(data.evaluation()[1][0]):
        assert len(part) == 60 and len(np.unique(data.labels[part])) == 4


@pytest.mark.parametrize(
    ("counts", "labels"),
    [
        ([30] * 8, []),  # ten of each class would be more than a quarter
        ([60, 60, 60, 3, 1], [10]),  # half of three, and the only one, which is never scored
        ([10] * 150, []),
        ([40] * 120, [8]),  # 1,000 labels in all
    ],
)
def test_few_labels_are_left_out_where_labels_are_few(counts: list[int], labels: list[int]) -> None:
    task = Points(counts=counts, test=0).evaluation()[1][0]
    pool, validation = before_after._parts(task)
    number, draws = before_after._few_labels(task, pool, validation)
    assert ([number] if draws else []) == labels
    for ((fitted, scored),) in draws:
        wanted = [min(number, max(1, count // 2)) for count in counts]
        assert np.bincount(np.asarray(task.labels)[fitted]).tolist() == wanted
        assert sorted([*fitted.tolist(), *scored.tolist()]) == list(range(sum(counts)))


@pytest.mark.parametrize("counts", [[9, 1], [6, 6], [11, 1, 1], [1] * 12])
def test_the_smallest_tasks_are_compared_as_far_as_they_go(counts: list[int]) -> None:
    data = Points(counts=counts, test=0)
    task, found = compare_on_training_samples(*both(data, 0.0, 1.0), data)
    assert [one.labels for one in found] == [None] and task
    assert all(math.isfinite(v) for v in (found[0].before, found[0].low, found[0].high))


def test_without_labels_nothing_is_compared() -> None:
    for data in (Points(counts=[3, 3], test=0), Points(counts=[40, 1], test=0)):
        data.labels = np.full(len(data.labels), -1)
        assert compare_on_training_samples(*both(data, 0.0, 1.0), data) == ("", ())


def test_the_interval_covers_samples_and_draws() -> None:
    before, after = torch.zeros(1, 40), torch.zeros(1, 40)
    before[0, :9], after[0, 5:8] = 1.0, 1.0
    one = before_after._compared(before, after, None)
    assert (one.low, one.high) == pytest.approx(paired(0.0, 6 / 40, 40))
    again = before_after._compared(before.expand(10, -1), after.expand(10, -1), 10)
    assert (again.low, again.high) == pytest.approx((one.low, one.high))  # draws that agree
    rng, inside = np.random.default_rng(0), 0
    for _ in range(300):  # a difference of −0.1, which varies over samples and over draws
        chance = 0.5 + 0.1 * rng.standard_normal((10, 1)) + 0.2 * rng.standard_normal((1, 100))
        start = torch.from_numpy(rng.random((10, 100)) < 0.6).float()
        trained = torch.from_numpy(rng.random((10, 100)) < chance).float()
        one = before_after._compared(start, trained, 10)
        inside += one.low < -0.1 < one.high
    assert 0.94 < inside / 300 < 0.995
