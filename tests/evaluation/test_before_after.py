"""Before → after: the best probes, and the interval of paired proportions."""

import math
from pathlib import Path

import pytest
import torch

from mezzotint.evaluation.before_after import changes, read_changes, write_changes
from mezzotint.evaluation.metrics import Accuracy
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import paired


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
