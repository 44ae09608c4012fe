"""Files of results, their summary, and intervals against scipy."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol
from mezzotint.evaluation.results import (
    Baselines,
    Evaluation,
    change,
    interval,
    paired,
    read_baselines,
    read_evaluation,
    student,
    summary,
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


def test_files_of_another_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text('[{"probe": "knn", "value": 1}]')
    with pytest.raises(ValueError, match=r"rows have other keys.* `mezzotint evaluate RUN`\.$"):
        read_evaluation(tmp_path)
    text = row(0.5).as_json() | {"protocol": "knn/1 k=10"}
    (tmp_path / "evaluation.json").write_text(json.dumps([text]))
    with pytest.raises(ValueError, match="written by another version of mezzotint"):
        read_evaluation(tmp_path)


def test_the_summary_has_headlines_with_their_baselines(tmp_path: Path) -> None:
    compared = Baselines([row(0.3)], [row(0.4, seed) for seed in range(3)])
    write_evaluation(tmp_path, Evaluation([row(0.5), row(0.9, metric="class/top5")], ""), compared)
    assert summary(tmp_path) == [("class", "knn", "0.500 (0.404 – 0.596)", "0.400", "0.300")]
    write_evaluation(
        tmp_path / ".", Evaluation([row(0.5, protocol=Protocol(probe="knn"))], ""), Baselines()
    )
    assert summary(tmp_path) == [("class", "knn", "0.500", "–", "–")]
    ptq = PTQ(method="min_max", policy="ssql")
    how = Protocol(probe="knn", test=100, ptq=ptq, branch="target")
    low = [
        row(0.46, protocol=how),
        row(0.07, metric="class/lost", protocol=how),
        row(0.03, metric="class/gained", protocol=how),
    ]
    low = [replace(entry, bits=Bits(4, 8)) for entry in low]
    write_evaluation(tmp_path, Evaluation([row(0.5), *low], ""), Baselines())
    half = (paired(0.03, 0.07, 100)[1] - paired(0.03, 0.07, 100)[0]) / 2
    line = ("class", "knn W4A8 min_max", f"0.460 (−0.040 ± {half:.3f})", "", "")
    assert summary(tmp_path)[1:] == [line]


def test_without_labels_the_summary_has_what_tells_a_collapse(tmp_path: Path) -> None:
    metrics = ("all/rankme", "all/rank_ratio", "all/alpha", "all/spread")

    def free(value: float) -> list[Row]:
        return [
            replace(row(value, metric=metric, protocol=Protocol(probe="rank")), probe="rank")
            for metric in metrics
        ]

    write_evaluation(tmp_path, Evaluation(free(0.25), ""), Baselines(free(0.5), free(0.125)))
    assert summary(tmp_path) == [
        ("all", name, "0.250", "0.125", "0.500") for name in ("rank_ratio", "spread")
    ]
    write_evaluation(
        tmp_path,
        Evaluation([row(0.5, protocol=Protocol(probe="knn")), *free(0.25)], ""),
        Baselines(),
    )
    assert [line[1] for line in summary(tmp_path)] == ["knn"]
    kept = Row(
        probe="neighbors",
        metric="all/knn_overlap",
        value=0.75,
        bits=Bits(4, 8),
        protocol=Protocol(probe="neighbors", ptq=PTQ(method="min_max", policy="ssql")),
    )
    write_evaluation(tmp_path, Evaluation([*free(0.25), kept], ""), Baselines())
    assert summary(tmp_path)[2:] == [("all", "kNN overlap W4A8 min_max", "0.750", "", "")]


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
