"""Files of results, their summary, and intervals against scipy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import (
    Baselines,
    Evaluation,
    Interval,
    add_evaluation,
    change,
    difference,
    interval,
    interval_words,
    main_metrics,
    paired,
    read_baselines,
    read_evaluation,
    read_input_bits,
    student,
    wilson,
    write_evaluation,
)
from mezzotint.quant.bitwidth import Bits

KEYS = {"probe", "metric", "value", "bits", "compute", "seed", "protocol"}


PROTOCOL = Protocol(probe="knn", train=9, test=100)


def row(
    value: float,
    seed: int = 0,
    metric: str = "class/top1",
    protocol: Protocol = PROTOCOL,
) -> Row:
    return Row(probe="knn", metric=metric, value=value, seed=seed, protocol=protocol)


def test_a_value_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    write_evaluation(tmp_path, Evaluation([row(math.nan), row(math.inf)], ""))
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert all(math.isnan(r.value) for r in read_evaluation(tmp_path))
    assert read_baselines(tmp_path) == Baselines()


def test_rows_of_input_bits_are_kept_apart_and_stay_when_others_are_measured(
    tmp_path: Path,
) -> None:
    plain, low = row(0.9), row(0.6).with_protocol(input_bits=4)
    add_evaluation(tmp_path, Evaluation([plain, low], ""), None, "same")
    assert read_evaluation(tmp_path) == [plain] and read_input_bits(tmp_path) == [low]
    again = row(0.8)
    add_evaluation(tmp_path, Evaluation([again], ""), None, "same")
    assert read_evaluation(tmp_path) == [again] and read_input_bits(tmp_path) == [low]


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('[{"probe": "knn", "value": 1}]')
    with pytest.raises(ValueError, match=r"rows have other keys.* `mezzotint evaluate RUN`\.$"):
        read_evaluation(tmp_path)
    text = row(0.5).as_json() | {"protocol": "knn/1 k=10"}
    (tmp_path / "evaluation.json").write_text(json.dumps([text]))
    with pytest.raises(ValueError, match="written by another version of mezzotint"):
        read_evaluation(tmp_path)


def test_a_setting_that_a_probe_chose_has_no_interval() -> None:
    for measure in ("penalty", "lr", "epochs", "gap"):
        found = interval([row(v, s, f"class/{measure}") for s, v in enumerate([0.1, 0.3])])
        assert found.mean == pytest.approx(0.2) and math.isnan(found.low) and math.isnan(found.high)
        assert interval_words(found) == ""


def test_bounds_are_written_only_where_something_varied() -> None:
    assert interval_words(Interval(0.5, 0.25, 0.75)) == "0.250 – 0.750"
    assert interval_words(Interval(0.5, 0.25, 0.75), "{:g}".format) == "0.25 – 0.75"
    assert interval_words(Interval(0.5, 0.5, 0.5)) == ""


def test_the_main_metric_is_accuracy_and_for_tags_mean_average_precision() -> None:
    metrics = ["t/top1", "t/map", "tags/map", "tags/auc", "all/spread"]
    assert main_metrics(row(0.5, metric=m) for m in metrics) == {
        ("knn", "t/top1"),
        ("knn", "tags/map"),
    }


def test_wilson_is_scipys() -> None:
    for hits, count in ((0, 20), (7, 20), (20, 20), (950, 1911)):
        theirs = stats.binomtest(hits, count).proportion_ci(0.95, "wilson")
        assert wilson(hits / count, count) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 11, 12, 20, 60])
def test_student_is_scipys(count: int) -> None:
    values = torch.rand(count, generator=torch.Generator().manual_seed(count)).tolist()
    expected = stats.t.ppf(0.975, count - 1) * stats.sem(values)
    assert student(values) == pytest.approx(expected, rel=1e-3)


def test_an_interval_holds_both_uncertainties() -> None:
    seeds = [row(0.4, 0), row(0.5, 1), row(0.6, 2)]
    over_seeds, (low, high) = student([0.4, 0.5, 0.6]), wilson(0.5, 100)
    found = interval(seeds)
    assert found.mean == pytest.approx(0.5)
    assert found.high - 0.5 == pytest.approx(math.hypot(high - 0.5, over_seeds))
    same = interval([row(0.5, seed) for seed in range(3)])
    assert (same.low, same.high) == pytest.approx(
        (low, high)
    )  # agreeing seeds do not make a result exact
    other = interval([row(v.value, v.seed, "class/mean_per_class") for v in seeds])
    assert other.high == pytest.approx(0.5 + over_seeds)  # not a fraction of samples
    assert math.isnan(interval([row(0.5, metric="all/rankme")]).low)


def test_the_interval_of_paired_fractions_is_agresti_and_mins() -> None:
    # The example in the manual of R's PropCIs, diffpropci.mp(b = 40, c = 20, n = 160), with the
    # sign turned.
    low, high = paired(40 / 160, 20 / 160, 160)
    assert (low, high) == pytest.approx((0.03089632, 0.21601726), abs=1e-7)
    assert paired(0.0, 0.0, 100)[1] > 0.0  # agreement on 100 samples is no certainty
    assert paired(1.0, 0.0, 3)[1] == 1.0


def test_the_interval_of_paired_fractions_holds_what_it_promises() -> None:
    """Exact coverage: all outcomes of n samples, where fractions p and q change either way."""
    n = 60
    for p, q in ((0.05, 0.05), (0.2, 0.05), (0.3, 0.3), (0.1, 0.02)):
        b, c = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
        chance = stats.multinomial.pmf(np.stack([b, c, n - b - c], axis=-1), n, [p, q, 1 - p - q])
        bounds = np.array([[paired(i / n, j / n, n) for j in range(n + 1)] for i in range(n + 1)])
        holds = (bounds[..., 0] <= p - q) & (p - q <= bounds[..., 1])
        assert 0.94 < float(chance[holds].sum()) < 0.98


def test_a_change_pairs_samples_and_seeds() -> None:
    def rows(name: str, values: Sequence[float]) -> list[Row]:
        return [
            Row(
                probe="knn",
                metric=f"t/{name}",
                value=v,
                bits=Bits(4, 4),
                seed=s,
                protocol=Protocol(probe="knn", test=400),
            )
            for s, v in enumerate(values)
        ]

    found = change(rows("lost", [0.03]), rows("gained", [0.01]))
    assert found.mean == pytest.approx(-0.02)
    assert (found.low, found.high) == pytest.approx(paired(0.01, 0.03, 400))
    several = change(rows("lost", [0.03, 0.04, 0.02]), rows("gained", [0.01, 0.01, 0.01]))
    low, _ = paired(0.01, 0.03, 400)
    assert several.mean - several.low == pytest.approx(
        math.hypot(-0.02 - low, student([-0.02, -0.03, -0.01]))
    )
    for lost, gained in (([], []), ([0.1], [0.1, 0.2])):
        with pytest.raises(ValueError, match="one row of `lost` and one of `gained` per seed"):
            change(rows("lost", lost), rows("gained", gained))


def test_rows_of_two_figures_are_refused() -> None:
    bad: list[list[Any]] = [[row(0.5), row(0.5, metric="class/top5")], []]
    for rows in bad:
        with pytest.raises(ValueError, match="An interval needs rows of one metric"):
            interval(rows)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """Newcombe (Statistics in Medicine 17:873, 1998), table II, (a): 56/70 − 48/80, method 10."""
    first, second = (
        Interval(hits / count, *wilson(hits / count, count)) for hits, count in ((56, 70), (48, 80))
    )
    found = difference(first, second)
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert math.isnan(difference(first, Interval(0.5, math.nan, math.nan)).low)
