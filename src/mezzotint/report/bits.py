"""The figures at low bits: one chart for each probe of each task, and a table of what is lost against float.

In a chart the settings stand side by side as they are in the grid, from float on the left; a line's
color says whose encoder it is, its strokes say how the encoder was quantized. The thin level is
the encoder's own float figure, and the band the 95 % interval of each unbroken line.

Layers at low bits: what each loses when it alone is quantized, and the shape of its weights and
inputs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import Interval, change, interval, ptq_of, signed, signed_interval
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.report.plots import HEIGHT, WIDTH, Tick, number, ticks
from mezzotint.report.results import PROBES, score, task_words

_Key = tuple[str, str, str, str]

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 30
_STROKES = {
    "plain": "",
    "strong": "6 3",
    "plain, float head": "1.5 3",
    "strong, float head": "8 3 1.5 3",
}
_FIRST_CHARTS = 4


@dataclass(frozen=True)
class Line:
    """One figure of one encoder over the settings.

    Attributes:
        run: whose encoder; its color is `color`.
        how: `plain`, `strong`, and whether the head is that of the float encoder; its strokes are
            `stroke`.
        found: figure and interval by setting; float among them.
        changes: the difference from float by setting, with the interval of paired samples; where it
            was measured.
    """

    run: str
    how: str
    color: int
    found: Mapping[Bits, Interval]
    changes: Mapping[Bits, Interval] = field(default_factory=dict)

    def against_float(self, bits: Bits) -> str:
        """The difference from float in words, `−0.013 ± 0.009`; a dash where float is not known."""
        if bits in self.changes:
            return signed_interval(self.changes[bits])
        return signed(self.found[bits].mean - self.found[FP32].mean) if FP32 in self.found else "–"

    @property
    def stroke(self) -> str:
        """SVG's dash pattern."""
        return _STROKES.get(self.how, "2 2")


@dataclass(frozen=True)
class Figure:
    """All lines of one probe on one task."""

    task: str
    probe: str
    lines: Sequence[Line]

    @property
    def title(self) -> str:
        """Task and probe in words."""
        return f"{PROBES.get(self.probe, self.probe)}, {task_words(self.task)}"


def bits_section(runs: Mapping[str, Sequence[Row]], *, first: int = 0) -> dict[str, Any] | None:
    """What the template needs.

    Args:
        runs: rows of each run's evaluation by the run's name; the report's own comes first, the
            others are overlaid.
        first: place of the first chart among all charts of the page.

    Returns:
        `how` in words, `runs` and `strokes` as keys to the lines, `charts`, the `rest` of them, and
        the `table` of the first run with its `settings`; `None` when the first run was measured in
        float alone.
    """
    found = figures(runs)
    own = next(iter(runs), "")
    if not any(line.run == own for figure in found for line in figure.lines):
        return None
    settings = _ordered({bits for figure in found for line in figure.lines for bits in line.found})
    charts = [_chart(figure, settings) for figure in found]
    lines = [line for figure in found for line in figure.lines]
    return {
        "first": first,
        "how": _how(runs[own]),
        "runs": [(name, place) for place, name in enumerate(runs)] if len(runs) > 1 else [],
        "strokes": [
            (how, stroke)
            for how, stroke in _STROKES.items()
            if any(line.how == how for line in lines)
        ],
        "charts": charts[:_FIRST_CHARTS],
        "rest": charts[_FIRST_CHARTS:],
        "settings": [_words(bits) for bits in settings if bits != FP32],
        "table": [
            {"task": figure.title, "rows": entries}
            for figure in found
            if (entries := _table(figure, own, settings))
        ],
    }


def figures(runs: Mapping[str, Sequence[Row]]) -> list[Figure]:
    """What was measured at low bits, top-1 or neighbors kept: each with a line for every run and way of quantizing."""
    lines: dict[tuple[str, str], list[Line]] = {}
    for color, (run, rows) in enumerate(runs.items()):
        groups: dict[_Key, dict[Bits, list[Row]]] = {}
        for row in rows:
            task, _, measure = row.metric.rpartition("/")
            if measure in ("top1", "kept", "lost", "gained"):
                settings = groups.setdefault((task, row.probe, ptq_of(row), measure), {})
                settings.setdefault(row.bits, []).append(row)
        for (task, probe, how, measure), settings in groups.items():
            if how and measure in ("top1", "kept"):
                name = probe.removesuffix("_ptq")
                level = groups.get((task, name, "", "top1"), {})
                lost, gained = (
                    groups.get((task, probe, how, side), {}) for side in ("lost", "gained")
                )
                line = Line(
                    run,
                    how if name == probe else f"{how}, float head",
                    color,
                    {bits: interval(own) for bits, own in (level | settings).items()},
                    {bits: change(lost[bits], gained[bits]) for bits in lost},
                )
                lines.setdefault((task, name), []).append(line)
    return [Figure(task, probe, own) for (task, probe), own in lines.items()]


def _ordered(settings: set[Bits]) -> list[Bits]:
    """From float down, by the bits of the weights and then of the activations."""
    return sorted(settings, reverse=True)


def _words(bits: Bits) -> str:
    return str(bits)


def _how(rows: Sequence[Row]) -> str:
    words = "Bits of weights and activations (W4A8), simulated in float32. "
    if any(row.metric == "all/kept" for row in rows):
        return (
            words
            + "Nothing has labels: of the ten nearest neighbors of a sample in float, the share that is kept."
        )
    words += (
        "Probes learn from features of the quantized encoder and are tested on the same; “float head” is the linear "
        "probe of the float encoder, used as it is."
    )
    if any(row.metric.endswith("/lost") for row in rows):
        words += " A difference from float is followed by half of its 95 % interval, over the same test samples."
    if any(ptq_of(row) == "strong" for row in rows):
        words += " Plain: ranges from extremes, rounding to nearest. Strong: ranges of least error, rounding learned."
    return words


def _chart(figure: Figure, settings: Sequence[Bits]) -> dict[str, Any]:
    """Coordinates of one figure's lines."""
    ends = [
        v
        for line in figure.lines
        for i in line.found.values()
        for v in (i.low, i.mean, i.high)
        if math.isfinite(v)
    ]
    rows = ticks(min(ends), max(ends))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(settings) - 1)
    x = {bits: round(_LEFT + place * step, 1) for place, bits in enumerate(settings)}

    def y(value: float) -> float:
        return round(
            HEIGHT - _BOTTOM - (value - rows[0]) / (rows[-1] - rows[0]) * (HEIGHT - _TOP - _BOTTOM),
            1,
        )

    drawn = []
    for line in figure.lines:
        there = [bits for bits in settings if bits in line.found]
        places = [(x[bits], y(line.found[bits].mean)) for bits in there]
        banded = line.how == "plain" and all(math.isfinite(line.found[bits].low) for bits in there)
        drawn.append(
            {
                "color": line.color,
                "stroke": line.stroke,
                "path": "M" + "L".join(f"{a:g} {b:g}" for a, b in places),
                "dots": places,
                "band": _band(
                    [(x[bits], y(line.found[bits].low), y(line.found[bits].high)) for bits in there]
                )
                if banded
                else "",
                "level": y(line.found[FP32].mean)
                if line.how == "plain" and FP32 in line.found
                else None,
            }
        )
    return {
        "title": figure.title,
        "summary": _summary(figure.lines[0]),
        "lines": drawn,
        "x_ticks": [Tick(x[bits], _words(bits)) for bits in settings],
        "y_ticks": [Tick(y(value), number(value)) for value in rows],
        "points": [(x[bits], 0.0, _reading(figure, bits)) for bits in settings],
        "box": {
            "width": WIDTH,
            "height": HEIGHT,
            "left": _LEFT,
            "right": WIDTH - _RIGHT,
            "bottom": HEIGHT - _BOTTOM,
        },
    }


def _band(places: Sequence[tuple[float, float, float]]) -> str:
    there, back = (
        [f"{x:g} {high:g}" for x, _, high in places],
        [f"{x:g} {low:g}" for x, low, _ in reversed(places)],
    )
    return "M" + "L".join(there + back) + "Z"


def _summary(line: Line) -> str:
    worst = min(line.found, key=lambda bits: line.found[bits].mean)
    lowest = f"lowest {score(line.found[worst].mean)} at {_words(worst)}"
    return (
        f"{line.how}: float {score(line.found[FP32].mean)}, {lowest}"
        if FP32 in line.found
        else lowest
    )


def _reading(figure: Figure, bits: Bits) -> str:
    """What the pointer reads at a setting: all lines there with what they are from float; float is said once."""
    parts: dict[str, str] = {}
    for line in figure.lines:
        if bits in line.found:
            run = f"{line.run} " if len({other.run for other in figure.lines}) > 1 else ""
            less = f" ({signed_interval(line.changes[bits])})" if bits in line.changes else ""
            how = f"{run}{'' if bits == FP32 else line.how}".strip()
            parts.setdefault(how, score(line.found[bits].mean) + less)
    return f"{_words(bits)}: " + "; ".join(f"{how} {value}".strip() for how, value in parts.items())


def _table(figure: Figure, run: str, settings: Sequence[Bits]) -> list[dict[str, Any]]:
    """A row for each way of quantizing: the float figure, and at each setting the figure and what it is less."""
    rows = []
    for line in figure.lines:
        if line.run == run:
            cells = [
                (score(line.found[bits].mean), line.against_float(bits))
                if bits in line.found
                else ("–", "")
                for bits in settings
                if bits != FP32
            ]
            float_words = score(line.found[FP32].mean) if FP32 in line.found else "–"
            rows.append({"name": line.how, "float": float_words, "cells": cells})
    return rows


def layers_section(folder: Path) -> dict[str, Any] | None:
    """What the template needs of `layers.json`: `how` in words and the cells of both tables; `None` without it."""
    path = folder / "layers.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    largest = max((row["error"] for row in found["sensitivity"]), default=0.0)
    return {
        "how": f"Each layer quantized alone to {found['bits']}, all others in float: squared "
        "error of the features over their variance, and mean cosine to the float features.",
        "sensitivity": [
            {
                "name": row["name"],
                "what": row["what"],
                "error": number(row["error"]),
                "cosine": f"{row['cosine']:.5f}",
                "share": round(row["error"] / largest, 3) if largest else 0.0,
            }
            for row in found["sensitivity"]
        ],
        "distributions": [
            {
                "name": row["name"],
                "what": "weight" if row["what"] == "weight" else "input",
                "kurtosis": f"{row['kurtosis']:.1f}",
                "peak": f"{row['peak']:.1f}",
                "outliers": f"{100 * row['outliers']:.2f} %",
                "channels": f"{row['channel_ratio']:.1f}",
            }
            for row in found["distributions"]
        ],
    }
