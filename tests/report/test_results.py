import math

import pytest

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Interval, interval, signed
from mezzotint.quant.bitwidth import Bits
from mezzotint.report.results import (
    Comparison,
    collapse_words,
    compare_with_baselines,
    gain_words,
    lead,
    main_comparison,
    score,
    standing_words,
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
    untrained=[row("linear", TOP1, v, seed=s) for s, v in enumerate([0.37, 0.38, 0.39])],
)


def test_headline_is_the_best_probe_of_the_first_task_against_both_baselines() -> None:
    comparisons = compare_with_baselines(ROWS, BASELINES)
    main = main_comparison(comparisons)
    assert main is not None
    assert main.rows[0].probe == "linear" and main.result == interval(ROWS[1:4])
    assert main.raw == 0.155 and main.untrained == pytest.approx(0.38)
    assert main.gain == pytest.approx(0.23)
    assert "".join(part for part, _ in lead(comparisons)) == (
        "A linear probe scores 0.610 on category, across styles, the best of 2 probes; "
        "raw input 0.155 (linear probe), untrained encoder 0.380 (linear probe)."
    )
    assert gain_words(main) == (
        "Gain over the untrained encoder: +0.230 (outside the 95 % interval).",
        False,
    )


def test_the_headline_never_takes_a_flattering_pair() -> None:
    rows = [row("linear", TOP1, 0.60), row("knn", TOP1, 0.62), row("sgd", "other/top1", 0.9)]
    baselines = Baselines(
        raw=[row("linear", TOP1, 0.2), row("knn", TOP1, 0.61)],
        untrained=[row("linear", TOP1, 0.65), row("knn", TOP1, 0.3)],
    )
    comparisons = compare_with_baselines(rows, baselines)
    assert "".join(part for part, _ in lead(comparisons)) == (
        "kNN scores 0.620 on category, across styles, the best of 2 probes; "
        "raw input 0.610 (kNN), untrained encoder 0.650 (linear probe)."
    )
    assert gain_words(main_comparison(comparisons)) == (
        "No gain over the untrained encoder: −0.030.",
        True,
    )


def test_mean_average_precision_is_the_main_metric_of_tags_alone() -> None:
    rows = [row(p, f"tag/{m}", v) for p, m, v in (("linear", "map", 0.4), ("linear", "auc", 0.8))]
    found = [row("retrieval", f"pair/{m}", 0.5) for m in ("top1", "map")]
    raw = [row("linear", "tag/map", 0.3), row("linear", "tag/auc", 0.9)]
    comparisons = compare_with_baselines([*rows, *found], Baselines(raw=raw))
    main = main_comparison(comparisons)
    assert main is not None and main.rows[0].metric == "tag/map"
    assert main.gain == pytest.approx(0.1)
    assert lead(comparisons)[0][0] == "Linear probe, mean average precision scores "
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


@pytest.mark.parametrize(
    ("value", "low", "raw", "untrained", "expected", "warns"),
    [
        (0.30, 0.2, 0.40, 0.35, "No gain over raw input: −0.100.", True),
        (0.30, 0.2, 0.20, 0.35, "No gain over the untrained encoder: −0.050.", True),
        (
            0.41,
            0.39,
            0.40,
            math.nan,
            "Gain over raw input: +0.010 (within the 95 % interval).",
            True,
        ),
        (0.41, math.nan, 0.30, 0.31, "Gain over the untrained encoder: +0.100.", False),
    ],
)
def test_gain_over_the_better_baseline(
    value: float, low: float, raw: float, untrained: float, expected: str, warns: bool
) -> None:
    comparison = Comparison(
        [row("linear", TOP1, value)], Interval(value, low, 2 * value - low), raw, untrained
    )
    assert gain_words(comparison) == (expected, warns)


@pytest.mark.parametrize(
    ("values", "expected", "warns"),
    [
        ([0.5, 0.6], "It beats both baselines in all 2 main metrics below.", False),
        ([0.5, 0.1, 0.1], "It beats both baselines in 1 of 3 main metrics below.", True),
        ([0.5, 0.5, 0.1], "It beats both baselines in 2 of 3 main metrics below.", True),
        ([0.1, 0.1], "It beats both baselines in 0 of 2 main metrics below.", True),
    ],
)
def test_the_headline_does_not_hide_the_other_tasks(
    values: list[float], expected: str, warns: bool
) -> None:
    rows = [row("knn", f"task{i}/top1", value) for i, value in enumerate(values)]
    baselines = Baselines(raw=[row("knn", f"task{i}/top1", 0.3) for i in range(len(values))])
    assert standing_words(compare_with_baselines(rows, baselines)) == (expected, warns)
    assert standing_words(compare_with_baselines(rows, Baselines())) is None


def test_without_baselines_nothing_is_claimed() -> None:
    comparisons = compare_with_baselines(ROWS, Baselines())
    assert gain_words(main_comparison(comparisons)) is None
    assert "".join(part for part, _ in lead(comparisons)).endswith(
        "on category, across styles, the best of 2 probes."
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([], "Not evaluated yet"), ([row("rank", "all/rankme", 3.0)], "without labels")],
)
def test_without_scores_the_headline_says_so(rows: list[Row], expected: str) -> None:
    comparisons = compare_with_baselines(rows, Baselines())
    assert main_comparison(comparisons) is None and gain_words(None) is None
    assert expected in lead(comparisons)[0][0]


def test_knn_is_the_headline_without_a_linear_probe() -> None:
    assert lead(compare_with_baselines(ROWS[:1], Baselines()))[0][0] == "kNN scores "
    retrieval = compare_with_baselines(
        [row("retrieval", "identity/across-styles/top1", 0.5)], Baselines()
    )
    assert lead(retrieval)[0][0] == "Retrieval scores "


@pytest.mark.parametrize(
    ("spread", "ratio", "begins", "warns"),
    [
        (0.9, 0.32, "Healthy:", False),
        (0.001, 0.9, "Complete collapse:", True),
        (0.9, 0.01, "Dimensional collapse:", True),
    ],
)
def test_collapse(spread: float, ratio: float, begins: str, warns: bool) -> None:
    rows = [row("rank", "all/spread", spread), row("rank", "all/rank_ratio", ratio)]
    verdict = collapse_words(compare_with_baselines(rows, Baselines()))
    assert (
        verdict is not None
        and verdict[0].startswith(begins)
        and verdict[0].endswith(".")
        and verdict[1] == warns
    )
    assert collapse_words(compare_with_baselines(ROWS[:3], Baselines())) is None


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
    keys = ("name", "value", "raw", "untrained", "gain", "note")
    assert tuple(linear[key] for key in keys) == (
        "Linear probe", "0.610", "0.155", "0.380", "+0.230", 2
    )  # fmt: skip
    assert (
        linear["better"]
        and linear["interval"] == f"{interval(ROWS[1:4]).low:.3f} – {interval(ROWS[1:4]).high:.3f}"
    )
    assert (knn["raw"], knn["gain"]) == ("–", "–")
    assert quantized["name"] == "Linear probe, W8A8"
    beam = linear["beam"]
    assert beam["raw"] < beam["untrained"] < beam["span"][0] < beam["value"] < beam["span"][1]
    rank = made["groups"][1]["rows"][0]
    assert rank["beam"] is None and rank["gain"] == "–" and rank["raw"] == "200"
    [further] = made["further"]
    assert [r["name"] for r in further["rows"]] == [
        "Linear probe, L2 penalty chosen on training samples"
    ]


def test_the_same_probe_with_other_settings_is_another_row() -> None:
    rows = [row("knn", TOP1, 0.5, k=10), row("knn", TOP1, 0.6, k=50)]
    baselines = Baselines(raw=[row("knn", TOP1, 0.1, k=10), row("knn", TOP1, 0.2, k=50)])
    shown = tables(compare_with_baselines(rows, baselines))["groups"][0]["rows"]
    assert [(r["name"], r["value"], r["raw"], r["note"]) for r in shown] == [
        ("kNN, k=10", "0.500", "0.100", 1),
        ("kNN, k=50", "0.600", "0.200", 2),
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
    assert (shown["value"], shown["interval"], shown["raw"], shown["beam"]) == (
        "NaN",
        "–",
        "–",
        None,
    )


def test_words() -> None:
    assert task_words("category/across-styles") == "category, across styles"
    assert (signed(0.1), signed(-0.1), signed(math.nan)) == ("+0.100", "−0.100", "–")
    assert (score(0.5), score(0.0), score(61.31), score(math.nan)) == ("0.500", "0", "61.3", "NaN")
