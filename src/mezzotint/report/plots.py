"""Geometry of small charts: coordinates, ticks and paths, which the template draws as inline SVG.

User units are about as large as CSS pixels on a phone, so that labels stay readable there; wide
screens show several charts in a row. Colors come from the style sheet of the page, for light and
dark mode. NaN and inf leave a gap in the line and are counted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 28
_MOST_POINTS, _DOTTED_UP_TO = 240, 16

TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "weight_decay": "Weight decay",
    "images_per_second": "Samples per second",
    "data_wait": "Time waiting for data (fraction)",
    "augment_share": "Time making views (fraction)",
    "alignment": "Alignment of positive pairs",
    "feature_std": "Standard deviation of the projections",
    "features/std": "Standard deviation of the features",
    "features/rank": "Effective rank of the features",
    "accuracy": "Accuracy within the batch",
}
_NOT_CHARTED = {"step", "epoch", "seconds", "skipped", "unreadable", "collapsed"}


@dataclass(frozen=True)
class Tick:
    """Tick of an axis: position in user units, and label."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """Chart of one series.

    Attributes:
        title: title of the chart.
        summary: first and last value, and the number of values that are NaN or inf.
        line: SVG path of the values, with gaps.
        band: SVG path around all values that the line averages over; empty if each point is a
            single value.
        dots: `(x, y)` of marked points: all of a short series, and isolated points.
        x_ticks: ticks of the horizontal axis.
        y_ticks: ticks of the vertical axis.
        x_label: label of the horizontal axis.
        points: `[x, y, text]` of each point, for the tooltip.
    """

    title: str
    summary: str
    line: str
    band: str
    dots: Sequence[tuple[float, float]]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    points: Sequence[tuple[float, float, str]]

    width, height = WIDTH, HEIGHT
    left, right, top, bottom = _LEFT, WIDTH - _RIGHT, _TOP, HEIGHT - _BOTTOM


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with significant digits and a typographic minus; NaN and ∞ as such."""
    if value is None or math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        text = f"{float(mantissa):g}e{int(power)}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}".replace(",", "\u202f")
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten) that cover an interval.

    The first is at or below `low`, the last at or above `high`.
    """
    if high <= low:
        room = abs(low) * 0.5 or 1.0
        low, high = low - room, high + room
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12 - math.floor(math.log10(step))) for i in range(first, last + 1)]


def _buckets(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Average to at most `_MOST_POINTS` points `(x, mean, lowest, highest)`; NaN without values."""
    size = math.ceil(len(pairs) / _MOST_POINTS)
    points = []
    for start in range(0, len(pairs), max(1, size)):
        part = pairs[start : start + size]
        values = [y for _, y in part if math.isfinite(y)]
        x = part[len(part) // 2][0]
        mean = sum(values) / len(values) if values else math.nan
        points.append((x, mean, min(values, default=math.nan), max(values, default=math.nan)))
    return points


def chart(
    title: str, pairs: Sequence[tuple[float, float | None]], *, x_label: str = "epoch"
) -> Chart | None:
    """Lay out the chart of one series.

    Args:
        title: title of the chart.
        pairs: `(x, y)` in order of x; `None`, NaN and inf are gaps.
        x_label: label of the horizontal axis.

    Returns:
        The chart, or `None` if the series has no finite value.
    """
    values = [(x, math.nan if y is None else float(y)) for x, y in pairs if math.isfinite(x)]
    finite = [y for _, y in values if math.isfinite(y)]
    if not finite:
        return None
    points = _buckets(values)
    xs = ticks(points[0][0], points[-1][0]) if len(points) > 1 else [points[0][0]]
    ys = ticks(min(finite), max(finite))
    # The horizontal axis ends with the data; ticks beyond it are left out.
    x_low, x_high = (points[0][0], points[-1][0]) if len(points) > 1 else (xs[0] - 1, xs[0] + 1)
    if x_low <= 0.1 * x_high:
        x_low = min(0.0, x_low)

    def across(x: float) -> float:
        return round(_LEFT + (x - x_low) / ((x_high - x_low) or 1.0) * (WIDTH - _LEFT - _RIGHT), 1)

    def down(y: float) -> float:
        return round(
            HEIGHT - _BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (HEIGHT - _TOP - _BOTTOM), 1
        )

    drawn = [
        (across(x), down(y), down(lo), down(hi)) if math.isfinite(y) else None
        for x, y, lo, hi in points
    ]
    return Chart(
        title=title,
        summary=_summary(finite, len(values) - len(finite)),
        line=_line([None if p is None else p[:2] for p in drawn]),
        band=_band(drawn) if len(points) < len(values) else "",
        dots=_dots([None if p is None else p[:2] for p in drawn]),
        x_ticks=[Tick(across(x), number(x, 4)) for x in xs if x_low <= x <= x_high],
        y_ticks=[Tick(down(y), number(y)) for y in ys],
        x_label=x_label,
        points=[
            (*point[:2], f"{x_label} {number(x, 4)}: {number(y, 4)}")
            for point, (x, y, _, _) in zip(drawn, points, strict=True)
            if point is not None
        ],
    )


def _summary(finite: Sequence[float], missing: int) -> str:
    text = f"{number(finite[0])} → {number(finite[-1])}" if len(finite) > 1 else number(finite[0])
    if missing:
        text += f" ({missing} {'value is' if missing == 1 else 'values are'} NaN or inf)"
    return text


def _line(points: Sequence[tuple[float, ...] | None]) -> str:
    parts, pen_down = [], False
    for point in points:
        if point is not None:
            parts.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = point is not None
    return "".join(parts)


def _band(points: Sequence[tuple[float, float, float, float] | None]) -> str:
    solid = [p for p in points if p is not None]
    upper = [f"{x:g} {high:g}" for x, _, _, high in solid]
    lower = [f"{x:g} {low:g}" for x, _, low, _ in reversed(solid)]
    return "M" + "L".join(upper + lower) + "Z"


def _dots(points: Sequence[tuple[float, ...] | None]) -> list[tuple[float, float]]:
    """Return all points of a short series, else the isolated ones, which no line would show."""
    around = [None, *points, None]
    return [
        (point[0], point[1])
        for i, point in enumerate(points)
        if point is not None
        and (len(points) <= _DOTTED_UP_TO or (around[i] is None and around[i + 2] is None))
    ]


def run_charts(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[Chart], list[Chart]]:
    """Make the charts of a run.

    Args:
        metrics: lines of `metrics.jsonl`.

    Returns:
        Charts of loss, online kNN and drift, and charts of all other logged values.
    """
    keys = dict.fromkeys(key for line in metrics for key in line)
    first = [key for key in keys if key == "loss" or key.startswith(("knn/", "drift/"))]
    rest = [
        key
        for key in keys
        if key not in first and key not in _NOT_CHARTED and not key.startswith("time/")
    ]
    return _charts(metrics, first), _charts(metrics, rest)


def charts_of_runs(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[Chart], list[Chart]]:
    """Make the charts of several runs, with the runs' names in the titles.

    Args:
        runs: lines of `metrics.jsonl` by name, which ends in the seed: `scratch-0`.

    Returns:
        Charts of loss and online kNN of seed 0, and all others.
    """
    main: list[Chart] = []
    rest: list[Chart] = []
    for name, metrics in runs.items():
        first, others = (
            [replace(c, title=f"{c.title}, {name}") for c in charts]
            for charts in run_charts(metrics)
        )
        (main if name.endswith("-0") else rest).extend(first)
        rest += others
    return main, rest


def _charts(metrics: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Chart]:
    x_name = "epoch" if all("epoch" in line for line in metrics) else "step"
    made = []
    for key in keys:
        pairs = [
            (line[x_name], line[key])
            for line in metrics
            if key in line and _is_number(line[x_name])
        ]
        pairs = [(x, y if _is_number(y) else None) for x, y in pairs]
        title = TITLES.get(
            key, f"Online kNN, {key.removeprefix('knn/')}" if key.startswith("knn/") else key
        )
        if drawn := chart(title, pairs, x_label=x_name):
            made.append(drawn)
    return made


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
