import math
from typing import Any

import pytest
from scipy import stats

from mezzotint.report.results import (
    Comparison,
    Figure,
    compare,
    gain_words,
    lead,
    main_comparison,
    signed,
    table,
    task_words,
    wilson,
)


def row(
    probe: str, metric: str, value: float | None, *, seed: int = 0, bits: tuple[int, int] = (32, 32)
) -> dict[str, Any]:
    return {
        "probe": probe,
        "metric": metric,
        "value": value,
        "weight_bits": bits[0],
        "activation_bits": bits[1],
        "compute": "float32",
        "seed": seed,
        "protocol": f"{probe}-v1",
    }


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (61, 100), (1169, 1911), (1, 2)])
def test_wilson_equals_scipy(right: int, count: int) -> None:
    reference = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx((reference.low, reference.high), abs=1e-6)


@pytest.mark.parametrize("values", [[0.5, 0.52], [1.0, 2.0, 4.0], [float(i) for i in range(11)]])
def test_interval_over_seeds_equals_students_t(values: list[float]) -> None:
    figure = Figure("rank", "rankme", (32, 32), values)
    reference = stats.t.interval(0.95, len(values) - 1, loc=figure.mean, scale=stats.sem(values))
    assert figure.interval(None) == pytest.approx(reference, rel=1e-3)


def test_interval_of_a_fraction_adds_seeds_to_test_sampling() -> None:
    one, many = Figure("linear", "a/top1", (32, 32), [0.6]), Figure("linear", "a/top1", (32, 32), [0.59, 0.60, 0.61])
    low, high = one.interval(1000) or (0.0, 0.0)
    assert (low, high) == pytest.approx(wilson(0.6, 1000))
    wider = many.interval(1000) or (0.0, 0.0)
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert wider[1] - 0.6 == pytest.approx(math.hypot(high - 0.6, half), rel=1e-3)
    assert Figure("linear", "a/top1", (32, 32), [0.6]).interval(None) is None
    assert Figure("linear", "a/top1", (32, 32), [math.nan]).interval(1000) is None


ROWS = [
    row("knn", "category/across-styles/top1", 0.55),
    *[row("linear", "category/across-styles/top1", v, seed=s) for s, v in enumerate([0.60, 0.61, 0.62])],
    row("linear", "category/across-styles/top1", 0.58, bits=(8, 8)),
    row("rank", "rankme", 61.0),
]
BASELINES = {
    "raw": [row("linear", "category/across-styles/top1", 0.155), row("rank", "rankme", 200.0)],
    "untrained": [row("linear", "category/across-styles/top1", 0.38)],
}


def test_headline_is_the_linear_probe_of_the_first_task_against_both_baselines() -> None:
    main = main_comparison(compare(ROWS, BASELINES, {"category/across-styles": 1911}))
    assert main is not None
    assert main.figure.probe == "linear" and main.figure.mean == pytest.approx(0.61)
    assert (main.raw, main.untrained) == (0.155, 0.38)
    assert main.gain == pytest.approx(0.23)
    text = "".join(part for part, _ in lead(main))
    assert text == (
        "A linear probe scores 0.610 on category, across styles; raw input 0.155, the same encoder untrained 0.380."
    )
    words = gain_words(main)
    assert words is not None
    assert words[0].startswith("That is +0.230 over the untrained encoder, more than") and not words[1]


@pytest.mark.parametrize(
    ("value", "raw", "untrained", "expected", "warns"),
    [
        (0.30, 0.40, 0.35, "It is no better than raw input there: −0.100.", True),
        (0.30, 0.20, 0.35, "It is no better than the untrained encoder there: −0.050.", True),
        (0.41, 0.40, math.nan, "That is +0.010 over raw input, within the 95 % interval of chance.", False),
    ],
)
def test_gain_is_said_plainly(value: float, raw: float, untrained: float, expected: str, warns: bool) -> None:
    figure = Figure("linear", "a/top1", (32, 32), [value])
    assert gain_words(Comparison(figure, raw, untrained, figure.interval(200))) == (expected, warns)


def test_without_baselines_nothing_is_claimed() -> None:
    main = main_comparison(compare(ROWS, {}, {}))
    assert gain_words(main) is None
    assert "".join(part for part, _ in lead(main)).endswith("on category, across styles.")


def test_without_rows_the_headline_says_so() -> None:
    assert main_comparison([]) is None
    assert "without an evaluation" in lead(None)[0][0]


def test_table_groups_by_task_and_numbers_protocols() -> None:
    made = table(compare(ROWS, BASELINES, {"category/across-styles": 1911}))
    assert [group["task"] for group in made["groups"]] == ["category, across styles", "features as they are"]
    knn, linear, quantized = made["groups"][0]["rows"]
    assert made["notes"] == ["knn-v1", "linear-v1", "rank-v1"]
    assert (linear["value"], linear["raw"], linear["untrained"], linear["gain"]) == (
        "0.610",
        "0.155",
        "0.380",
        "+0.230",
    )
    assert linear["note"] == "2" and linear["better"]
    assert (knn["raw"], knn["gain"]) == ("–", "–")
    assert quantized["name"].endswith("8/8 bits")
    beam = linear["beam"]
    assert beam["raw"] < beam["untrained"] < beam["span"][0] < beam["value"] < beam["span"][1]
    rank = made["groups"][1]["rows"][0]
    assert rank["beam"] is None and rank["gain"] == "–" and rank["raw"] == "200"


def test_nan_is_shown_as_such() -> None:
    made = table(compare([row("knn", "a/top1", None)], {"raw": [row("knn", "a/top1", None)]}, {"a": 10}))
    shown = made["groups"][0]["rows"][0]
    assert (shown["value"], shown["interval"], shown["raw"], shown["beam"]) == ("NaN", "–", "–", None)


def test_words() -> None:
    assert task_words("category/across-styles") == "category, across styles"
    assert (signed(0.1), signed(-0.1), signed(math.nan)) == ("+0.100", "−0.100", "–")
