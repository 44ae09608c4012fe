import math

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import HANDMADE, RAW, UNTRAINED, Baselines, interval, signed
from mezzotint.quant.bitwidth import Bits
from mezzotint.report.results import (
    compare_with_baselines,
    score,
    tables,
    task_words,
)


def row(
    probe: str,
    metric: str,
    value: float,
    *,
    seed: int = 0,
    bits: tuple[int, int] = (32, 32),
    k: int | None = None,
) -> Row:
    size = None if metric.startswith("all/") else 1911
    settings = () if k is None else (("k", k),)
    protocol = Protocol(probe=probe, settings=settings, train=size, test=size)
    return Row(
        probe=probe, metric=metric, value=value, bits=Bits(*bits), seed=seed, protocol=protocol
    )


TOP1 = "category/across-styles/top1"
ROWS = [
    row("knn", TOP1, 0.55),
    *[row("linear", TOP1, v, seed=s) for s, v in enumerate([0.60, 0.61, 0.62])],
    row("linear", "category/across-styles/penalty", 0.01),
    row("linear", TOP1, 0.58, bits=(8, 8)),
    row("rank", "all/rankme", 61.0),
    row("rank", "all/rank_ratio", 0.32),
    row("rank", "all/spread", 0.9),
]
BASELINES = Baselines(
    raw=[row("linear", TOP1, 0.155), row("rank", "all/rankme", 200.0)],
    handmade=[row("linear", TOP1, 0.3)],
    untrained=[row("linear", TOP1, v, seed=s) for s, v in enumerate([0.37, 0.38, 0.39])],
)


def test_mean_average_precision_is_the_main_metric_of_tags_alone() -> None:
    rows = [row(p, f"tag/{m}", v) for p, m, v in (("linear", "map", 0.4), ("linear", "auc", 0.8))]
    found = [row("retrieval", f"pair/{m}", 0.5) for m in ("top1", "map")]
    raw = [row("linear", "tag/map", 0.3), row("linear", "tag/auc", 0.9)]
    comparisons = compare_with_baselines([*rows, *found], Baselines(raw=raw))
    main = next(c for c in comparisons if c.main)
    assert main.rows[0].metric == "tag/map" and main.gain == pytest.approx(0.1)
    made = tables(comparisons)
    assert [(g["task"], [r["name"] for r in g["rows"]]) for g in made["groups"]] == [
        ("tag", ["Linear probe, mean average precision"]),
        ("pair", ["Retrieval"]),
    ]
    further = [r for group in made["further"] for r in group["rows"]]
    assert [(r["name"], r["gain"]) for r in further] == [
        ("Linear probe, area under the ROC curve, mean over labels", "−0.100"),
        ("Retrieval, mean average precision", "–"),
    ]


def test_tables_group_by_task_and_number_protocols() -> None:
    made = tables(compare_with_baselines(ROWS, BASELINES))
    assert [group["task"] for group in made["groups"]] == [
        "category, across styles",
        "label-free metrics",
    ]
    knn, linear, quantized = made["groups"][0]["rows"]
    assert made["notes"] == ["knn/1", "linear/1", "rank/1"], (
        "sizes of the split are left out, so a probe is one note"
    )
    assert made["baselines"] == [(RAW, "square"), (HANDMADE, "diamond"), (UNTRAINED, "circle")]
    keys = ("name", "value", "baselines", "gain", "note")
    assert tuple(linear[key] for key in keys) == (
        "Linear probe", "0.610", ["0.155", "0.300", "0.380"], "+0.230", 2
    )  # fmt: skip
    assert (
        linear["better"]
        and linear["interval"] == f"{interval(ROWS[1:4]).low:.3f} – {interval(ROWS[1:4]).high:.3f}"
    )
    assert (knn["baselines"], knn["gain"]) == (["–"] * 3, "–")
    assert quantized["name"] == "Linear probe, W8A8"
    beam = linear["beam"]
    (square, raw), (diamond, handmade), (circle, untrained) = beam["marks"]
    assert (square, diamond, circle) == ("square", "diamond", "circle")
    assert raw < handmade < untrained < beam["span"][0] < beam["value"] < beam["span"][1]
    rank = made["groups"][1]["rows"][0]
    assert rank["beam"] is None and rank["gain"] == "–" and rank["baselines"] == ["200", "–", "–"]
    [further] = made["further"]
    assert [r["name"] for r in further["rows"]] == [
        "Linear probe, L2 penalty chosen on training samples"
    ]


def test_the_same_probe_with_other_settings_is_another_row() -> None:
    rows = [row("knn", TOP1, 0.5, k=10), row("knn", TOP1, 0.6, k=50)]
    baselines = Baselines(raw=[row("knn", TOP1, 0.1, k=10), row("knn", TOP1, 0.2, k=50)])
    shown = tables(compare_with_baselines(rows, baselines))["groups"][0]["rows"]
    assert [(r["name"], r["value"], r["baselines"], r["note"]) for r in shown] == [
        ("kNN, k=10", "0.500", ["0.100"], 1),
        ("kNN, k=50", "0.600", ["0.200"], 2),
    ]


def test_a_setting_has_no_interval() -> None:
    rows = [row("linear", "a/penalty", v, seed=s) for s, v in enumerate([0.1, 0.3])]
    [group] = tables(compare_with_baselines(rows, Baselines()))["further"]
    assert [(r["value"], r["interval"]) for r in group["rows"]] == [("0.200", "–")]


def test_nan_is_shown_as_such() -> None:
    baselines = Baselines(raw=[row("knn", "a/top1", math.nan)])
    shown = tables(compare_with_baselines([row("knn", "a/top1", math.nan)], baselines))["groups"][
        0
    ]["rows"][0]
    assert (shown["value"], shown["interval"], shown["beam"]) == ("NaN", "–", None)
    assert shown["baselines"] == ["–"]


def test_a_metric_without_a_baseline_has_a_dash_in_its_column() -> None:
    """Columns are those of all metrics, in one order, whichever metric comes first."""
    rows = [row("attentive", TOP1, 0.5), row("knn", TOP1, 0.6)]
    baselines = Baselines(
        [row("knn", TOP1, 0.2)], [row("attentive", TOP1, 0.3)], [row("knn", TOP1, 0.4)]
    )
    comparisons = compare_with_baselines(rows, baselines)
    assert [(c.best_baseline, round(c.gain, 6)) for c in comparisons] == [
        (UNTRAINED, 0.2),
        (HANDMADE, 0.2),
    ]
    shown = tables(comparisons)
    assert [name for name, _ in shown["baselines"]] == [RAW, HANDMADE, UNTRAINED]
    assert [r["baselines"] for r in shown["groups"][0]["rows"]] == [
        ["–", "–", "0.300"],
        ["0.200", "0.400", "–"],
    ]


def test_words() -> None:
    assert task_words("category/across-styles") == "category, across styles"
    assert (signed(0.1), signed(-0.1), signed(math.nan)) == ("+0.100", "−0.100", "–")
    assert (score(0.5), score(0.0), score(61.31), score(math.nan)) == ("0.500", "0", "61.3", "NaN")
