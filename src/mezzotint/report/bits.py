"""The figures at low bits: one chart for each probe of each task, and a table of what is lost against float.

In a chart the settings stand side by side as they are in the grid, from float on the left; a line's colour says whose
encoder it is, its strokes say how the encoder was quantized. The thin level is the encoder's own float figure, and the
band the 95 % interval of each unbroken line.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mezzotint.evaluate.evaluator import Row
from mezzotint.evaluate.intervals import Interval, interval
from mezzotint.evaluate.results import ptq_of
from mezzotint.report.plots import HEIGHT, WIDTH, Tick, number, ticks
from mezzotint.report.results import PROBES, score, signed, task_words

Bits = tuple[int, int]

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 30
_FLOAT: Bits = (32, 32)
_STROKES = {"plain": "", "strong": "6 3", "plain, float head": "1.5 3", "strong, float head": "8 3 1.5 3"}
_FIRST_CHARTS = 4


@dataclass(frozen=True)
class Line:
    """One figure of one encoder over the settings.

    Attributes:
        run: whose encoder; its colour is `colour`.
        how: `plain`, `strong`, and whether the head is that of the float encoder; its strokes are `stroke`.
        found: figure and interval by setting; float among them.
    """

    run: str
    how: str
    colour: int
    found: Mapping[Bits, Interval]

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
        runs: rows of each run's evaluation by the run's name; the report's own comes first, the others are overlaid.
        first: place of the first chart among all charts of the page.

    Returns:
        `how` in words, `runs` and `strokes` as keys to the lines, `charts`, the `rest` of them, and the `table` of the
        first run with its `settings`; `None` when the first run was measured in float alone.
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
        "strokes": [(how, stroke) for how, stroke in _STROKES.items() if any(line.how == how for line in lines)],
        "charts": charts[:_FIRST_CHARTS],
        "rest": charts[_FIRST_CHARTS:],
        "settings": [_words(bits) for bits in settings if bits != _FLOAT],
        "table": [
            {"task": figure.title, "rows": entries} for figure in found if (entries := _table(figure, own, settings))
        ],
    }


def figures(runs: Mapping[str, Sequence[Row]]) -> list[Figure]:
    """The top-1 figures that were measured at low bits, each with a line for every run and way of quantizing."""
    lines: dict[tuple[str, str], list[Line]] = {}
    for colour, (run, rows) in enumerate(runs.items()):
        groups: dict[tuple[str, str, str, Bits], list[Row]] = {}
        for row in rows:
            task, _, measure = row.metric.rpartition("/")
            if measure == "top1":
                groups.setdefault((task, row.probe, ptq_of(row), (row.weight_bits, row.activation_bits)), []).append(
                    row
                )
        made: dict[tuple[str, str, str], dict[Bits, Interval]] = {}
        for (task, probe, how, bits), own in groups.items():
            if bits != _FLOAT:
                name = probe.removesuffix("_ptq")
                key = (task, name, how if name == probe else f"{how}, float head")
                made.setdefault(key, {})[bits] = interval(own)
        for (task, probe, how), found in made.items():
            level = groups.get((task, probe, "", _FLOAT))
            whole = found if level is None else {_FLOAT: interval(level), **found}
            lines.setdefault((task, probe), []).append(Line(run, how, colour, whole))
    return [Figure(task, probe, own) for (task, probe), own in lines.items()]


def _ordered(settings: set[Bits]) -> list[Bits]:
    """From float down, by the bits of the weights and then of the activations."""
    return sorted(settings, reverse=True)


def _words(bits: Bits) -> str:
    return "float" if bits == _FLOAT else f"{bits[0]}/{bits[1]}"


def _how(rows: Sequence[Row]) -> str:
    words = (
        "Bits of weights/activations, simulated in float32. Probes learn from features of the quantized encoder and "
        "are tested on the same; “float head” is the linear probe of the float encoder, used as it is."
    )
    if any(ptq_of(row) == "strong" for row in rows):
        words += " Plain: ranges from extremes, rounding to nearest. Strong: ranges of least error, rounding learnt."
    return words


def _chart(figure: Figure, settings: Sequence[Bits]) -> dict[str, Any]:
    """Coordinates of one figure's lines."""
    ends = [
        v for line in figure.lines for i in line.found.values() for v in (i.low, i.mean, i.high) if math.isfinite(v)
    ]
    rows = ticks(min(ends), max(ends))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(settings) - 1)
    x = {bits: round(_LEFT + place * step, 1) for place, bits in enumerate(settings)}

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (value - rows[0]) / (rows[-1] - rows[0]) * (HEIGHT - _TOP - _BOTTOM), 1)

    drawn = []
    for line in figure.lines:
        there = [bits for bits in settings if bits in line.found]
        places = [(x[bits], y(line.found[bits].mean)) for bits in there]
        banded = line.how == "plain" and all(math.isfinite(line.found[bits].low) for bits in there)
        drawn.append(
            {
                "colour": line.colour,
                "stroke": line.stroke,
                "path": "M" + "L".join(f"{a:g} {b:g}" for a, b in places),
                "dots": places,
                "band": _band([(x[bits], y(line.found[bits].low), y(line.found[bits].high)) for bits in there])
                if banded
                else "",
                "level": y(line.found[_FLOAT].mean) if line.how == "plain" and _FLOAT in line.found else None,
            }
        )
    return {
        "title": figure.title,
        "summary": _summary(figure.lines[0]),
        "lines": drawn,
        "x_ticks": [Tick(x[bits], _words(bits)) for bits in settings],
        "y_ticks": [Tick(y(value), number(value)) for value in rows],
        "points": [(x[bits], 0.0, _reading(figure, bits)) for bits in settings],
        "box": {"width": WIDTH, "height": HEIGHT, "left": _LEFT, "right": WIDTH - _RIGHT, "bottom": HEIGHT - _BOTTOM},
    }


def _band(places: Sequence[tuple[float, float, float]]) -> str:
    there, back = [f"{x:g} {high:g}" for x, _, high in places], [f"{x:g} {low:g}" for x, low, _ in reversed(places)]
    return "M" + "L".join(there + back) + "Z"


def _summary(line: Line) -> str:
    worst = min(line.found, key=lambda bits: line.found[bits].mean)
    lowest = f"lowest {score(line.found[worst].mean)} at {_words(worst)}"
    return f"{line.how}: float {score(line.found[_FLOAT].mean)}, {lowest}" if _FLOAT in line.found else lowest


def _reading(figure: Figure, bits: Bits) -> str:
    """What the pointer reads at a setting: all lines there, once where float is the same for all."""
    parts: dict[str, str] = {}
    for line in figure.lines:
        if bits in line.found:
            run = f"{line.run} " if len({other.run for other in figure.lines}) > 1 else ""
            parts.setdefault(f"{run}{'' if bits == _FLOAT else line.how}".strip(), score(line.found[bits].mean))
    return f"{_words(bits)}: " + "; ".join(f"{how} {value}".strip() for how, value in parts.items())


def _table(figure: Figure, run: str, settings: Sequence[Bits]) -> list[dict[str, Any]]:
    """A row for each way of quantizing: the float figure, and at each setting the figure and what it is less."""
    rows = []
    for line in figure.lines:
        if line.run == run:
            level = line.found[_FLOAT].mean if _FLOAT in line.found else math.nan
            cells = [
                (score(line.found[bits].mean), signed(line.found[bits].mean - level))
                if bits in line.found
                else ("–", "")
                for bits in settings
                if bits != _FLOAT
            ]
            float_words = score(level) if math.isfinite(level) else "–"
            rows.append({"name": line.how, "float": float_words, "cells": cells})
    return rows
