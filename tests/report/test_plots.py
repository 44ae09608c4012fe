import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.report.plots import chart, number, run_charts, ticks

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@given(FINITE, st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_spaced_and_cover_the_interval(low: float, width: float) -> None:
    values = ticks(low, low + width)
    steps = {round(b - a, 9) for a, b in zip(values, values[1:], strict=False)}
    slack = 1e-9 * (1.0 + abs(low) + width)
    assert values[0] <= low + slack and values[-1] >= low + width - slack
    assert 2 <= len(values) <= 8
    step = min(steps)
    assert max(steps) - step <= 1e-6 * max(1.0, abs(low))
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-6)
    assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2


def test_ticks_of_a_constant_leave_room_around_it() -> None:
    values = ticks(3.0, 3.0)
    assert values[0] < 3.0 < values[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.61234, "0.612"),
        (-0.5, "−0.5"),
        (0.0005, "0.0005"),
        (0.00001234, "1.23e−5"),
        (12345.6, "12\u202f346"),
        (3.0e7, "3e7"),
        (0.0, "0"),
        (math.nan, "NaN"),
        (None, "NaN"),
        (-math.inf, "−∞"),
    ],
)
def test_number_reads_well(value: float | None, text: str) -> None:
    assert number(value) == text


def coordinates(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_line_maps_values_linearly_between_the_axes() -> None:
    pairs = [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)]
    drawn = chart("Loss", pairs)
    assert drawn is not None
    low, high = drawn.y_ticks[0], drawn.y_ticks[-1]
    for (x, y), (cx, cy) in zip(pairs, coordinates(drawn.line), strict=True):
        assert cx == pytest.approx(drawn.left + x / 10 * (drawn.right - drawn.left), abs=0.06)
        share = (y - float(low.text)) / (float(high.text) - float(low.text))
        assert cy == pytest.approx(low.at + share * (high.at - low.at), abs=0.06)
    assert drawn.summary == "1 → 2"
    assert drawn.points[1][2] == "epoch 5: 3"


def test_values_that_are_no_numbers_leave_a_gap_and_are_counted() -> None:
    drawn = chart(
        "Loss", [(0.0, 1.0), (1.0, 2.0), (2.0, None), (3.0, math.inf), (4.0, 3.0), (5.0, math.nan)]
    )
    assert drawn is not None
    assert drawn.line.count("M") == 2 and len(coordinates(drawn.line)) == 3
    assert drawn.summary == "1 → 3 (3 values are NaN or inf)"
    assert len(drawn.dots) == 3, "the lone point after the gap can only be seen as a dot"


def test_one_point_is_drawn_inside_the_axes() -> None:
    drawn = chart("Loss", [(7.0, 0.25)])
    assert drawn is not None
    assert drawn.summary == "0.25"
    [(x, y)] = drawn.dots
    assert drawn.left < x < drawn.right and drawn.top < y < drawn.bottom


@pytest.mark.parametrize("pairs", [[], [(0.0, None)], [(0.0, math.nan), (1.0, math.inf)]])
def test_nothing_to_draw_is_no_chart(pairs: list[tuple[float, float | None]]) -> None:
    assert chart("Loss", pairs) is None


def test_long_series_are_averaged_with_a_band_around_all_values() -> None:
    values = [math.sin(i / 50) + (0.5 if i == 1234 else 0.0) for i in range(10_000)]
    drawn = chart("Loss", list(enumerate(values)))
    assert drawn is not None
    points = coordinates(drawn.line)
    assert len(points) <= 240
    size = math.ceil(10_000 / 240)
    low, high = drawn.y_ticks[0], drawn.y_ticks[-1]

    def value_at(y: float) -> float:
        return float(low.text.replace("−", "-")) + (y - low.at) / (high.at - low.at) * (
            float(high.text) - float(low.text.replace("−", "-"))
        )

    for i in (0, 29, 100):
        part = values[i * size : (i + 1) * size]
        assert value_at(points[i][1]) == pytest.approx(sum(part) / size, abs=0.02)
    band = coordinates(drawn.band)
    spike = value_at(min(y for x, y in band if abs(x - points[1234 // size][0]) < 0.2))
    assert spike == pytest.approx(max(values[1218:1260]), abs=0.02)


def test_run_charts_put_loss_and_knn_first_and_leave_counters_out() -> None:
    metrics: list[dict[str, Any]] = [
        {
            "step": 1,
            "epoch": 0.5,
            "seconds": 1.0,
            "skipped": 0,
            "unreadable": 0,
            "loss": 2.0,
            "lr": 0.1,
            "own": None,
        },
        {
            "step": 2,
            "epoch": 1.0,
            "seconds": 2.0,
            "skipped": 0,
            "unreadable": 0,
            "loss": 1.0,
            "lr": 0.1,
            "knn/a/b": 0.5,
        },
    ]
    first, rest = run_charts(metrics)
    assert [c.title for c in first] == ["Loss", "Online kNN, a/b"]
    assert [c.title for c in rest] == ["Learning rate"], (
        "a series without a finite value is not drawn"
    )
    assert first[1].points[0][2] == "epoch 1: 0.5"


def test_run_charts_take_steps_where_epochs_are_missing() -> None:
    metrics: list[dict[str, Any]] = [
        {"step": 3, "loss": 1.0},
        {"step": 6, "epoch": 1.0, "loss": 0.5},
    ]
    first, _ = run_charts(metrics)
    assert first[0].points[-1][2] == "step 6: 0.5"


def test_run_charts_survive_values_of_other_types() -> None:
    odd: list[dict[str, Any]] = [
        {"step": 1, "loss": "diverged", "note": "<b>"},
        {"step": 2, "loss": 1.0, "flag": True},
    ]
    first, rest = run_charts(odd)
    assert first[0].summary == "1 (1 value is NaN or inf)"
    assert rest == []
