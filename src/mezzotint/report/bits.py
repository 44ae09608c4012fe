"""Sections of the report on low bits: charts and a table of each probe, and sensitive layers.

A chart has the bit configs on the horizontal axis, from fp32 on the left. The color of a line is
the encoder, its dash pattern the PTQ. The thin level is the encoder's fp32 value, and the band the
95 % interval of each solid line.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol, differences
from mezzotint.evaluation.results import (
    Interval,
    change,
    interval,
    main_metrics,
    signed,
    signed_interval,
)
from mezzotint.evaluation.summary import ResultKey
from mezzotint.files import read_json
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.report.plots import HEIGHT, WIDTH, Tick, number, ticks
from mezzotint.report.results import PROBES, score, task_words

Config = Bits | str
"""Bits of the network, or of the input: `stored`, `8`."""
STORED = "stored"
"""The input as it is."""

_Key = tuple[str, str, Protocol, str, str]
_CHANGES, _OVERLAP = ("lost", "gained"), "knn_overlap"

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 30
_PTQ = {
    "min_max": "min-max PTQ",
    "batch_norm": "BatchNorm re-estimation",
    "adaround": "AdaRound",
}
_FROZEN = ", frozen head"
_STROKES = {
    "min-max PTQ": "",
    "BatchNorm re-estimation": "3 3",
    "AdaRound": "6 3",
    f"min-max PTQ{_FROZEN}": "1.5 3",
    f"BatchNorm re-estimation{_FROZEN}": "3 3 1.5 3",
    f"AdaRound{_FROZEN}": "8 3 1.5 3",
}
"""Dash pattern of the lines by PTQ."""
_FIRST_CHARTS = 4


@dataclass(frozen=True)
class Line:
    """One metric of one encoder over the bit configs.

    Attributes:
        run: name of the run.
        ptq: name of the PTQ, and whether the head is frozen (fitted on fp32 features).
        color: index of the line's color.
        values: value and interval by bits, including fp32.
        changes: difference from fp32 by bits with the interval over paired samples, if measured.
        reference: what differences are from: fp32, or the input as it is stored.
    """

    run: str
    ptq: str
    color: int
    values: Mapping[Config, Interval]
    changes: Mapping[Config, Interval] = field(default_factory=dict)
    reference: Config = FP32

    def change(self, bits: Config) -> str:
        """Return the difference from fp32, such as `−0.013 ± 0.009`; a dash without fp32."""
        if bits in self.changes:
            return signed_interval(self.changes[bits])
        if self.reference not in self.values:
            return "–"
        return signed(self.values[bits].mean - self.values[self.reference].mean)

    @property
    def stroke(self) -> str:
        """Dash pattern in SVG."""
        return "" if self.reference == STORED else _STROKES.get(self.ptq, "2 2")


@dataclass(frozen=True)
class ProbeLines:
    """All lines of one probe on one task; `setting` tells it from others of the probe."""

    task: str
    probe: str
    lines: Sequence[Line]
    setting: str = ""

    @property
    def title(self) -> str:
        """Title of a chart: its probe, setting and task."""
        words = (PROBES.get(self.probe, self.probe), self.setting, task_words(self.task))
        return ", ".join(word for word in words if word)


def bits_section(runs: Mapping[str, Sequence[Row]], *, first: int = 0) -> dict[str, Any] | None:
    """Prepare the section on low bits.

    Args:
        runs: rows of each run's evaluation by the run's name; the report's own run comes first,
            the others are overlaid.
        first: index of the first chart among all charts of the page.

    Returns:
        The explanation `how`, the legend `runs` and `strokes`, the `charts`, the `rest` of them,
        and the `table` of the first run with its `configs`; `None` if the first run has fp32 values
        only.
    """
    probes = probe_lines(runs)
    own = next(iter(runs), "")
    lines = [line for probe in probes for line in probe.lines]
    if not any(line.run == own for line in lines):
        return None
    configs = sorted({bits for line in lines for bits in line.values}, reverse=True)
    charts = [_chart(probe, configs) for probe in probes]
    return {
        "first": first,
        "how": _how(runs[own]),
        "runs": [(name, index) for index, name in enumerate(runs)] if len(runs) > 1 else [],
        "strokes": [
            (ptq, stroke)
            for ptq, stroke in _STROKES.items()
            if any(line.ptq == ptq for line in lines)
        ],
        "charts": charts[:_FIRST_CHARTS],
        "rest": charts[_FIRST_CHARTS:],
        "configs": [str(bits) for bits in configs if bits != FP32],
        "table": [
            {"task": probe.title, "rows": entries}
            for probe in probes
            if (entries := _table(probe, own, configs))
        ],
    }


def probe_lines(runs: Mapping[str, Sequence[Row]]) -> list[ProbeLines]:
    """Collect main metrics or kNN overlap at low bits, one line for each run, setting and PTQ."""
    lines: dict[tuple[str, str, Protocol], list[Line]] = {}
    for color, (run, rows) in enumerate(runs.items()):
        groups: dict[_Key, dict[Bits, list[Row]]] = {}
        main = main_metrics(rows)
        for row in rows:
            task, _, measure = row.metric.rpartition("/")
            shown = (row.probe, row.metric) in main or measure == _OVERLAP
            if shown or measure in _CHANGES:
                kind = measure if measure in _CHANGES else ""
                setting = ResultKey.of(row).protocol.without_sizes()
                key = (task, row.probe, setting, row.protocol.ptq_method, kind)
                groups.setdefault(key, {}).setdefault(row.bits, []).append(row)
        for (task, probe, setting, ptq, kind), values in groups.items():
            if ptq and not kind:
                name = probe.removesuffix("_ptq")
                fp32 = groups.get((task, name, setting, "", ""), {})
                lost, gained = (
                    groups.get((task, probe, setting, ptq, side), {}) for side in _CHANGES
                )
                line = Line(
                    run,
                    _PTQ.get(ptq, ptq) + ("" if name == probe else _FROZEN),
                    color,
                    {bits: interval(own) for bits, own in (fp32 | values).items()},
                    {bits: change(lost[bits], gained[bits]) for bits in lost},
                )
                lines.setdefault((task, name, setting), []).append(line)
    return [
        ProbeLines(
            task, probe, own,
            differences(s for t, p, s in lines if (t, p) == (task, probe))[setting],
        )
        for (task, probe, setting), own in lines.items()
    ]  # fmt: skip


def _how(rows: Sequence[Row]) -> str:
    words = (
        "W4A8 means 4-bit weights and 8-bit activations, simulated in fp32. The thin line is the "
        "fp32 value, the band the 95 % interval. "
    )
    if any(row.metric == "all/knn_overlap" for row in rows):
        return (
            words + "Without labels, the metric is kNN overlap: the fraction of the ten nearest "
            "neighbors in fp32 that remain neighbors after quantization."
        )
    words += (
        "Probes are trained and tested on features of the quantized encoder. “Frozen head” is the "
        "linear probe fitted on fp32 features and applied to quantized ones."
    )
    if any(row.metric.endswith("/lost") for row in rows):
        words += " Differences from fp32 are paired over the test samples, ± half of the interval."
    if any(row.protocol.ptq_method == "adaround" for row in rows):
        words += (
            " Min-max PTQ: min-max ranges, rounding to nearest. AdaRound: ranges with the smallest "
            "squared error, learned rounding."
        )
    return words


def _chart(probe: ProbeLines, configs: Sequence[Config]) -> dict[str, Any]:
    """Lay out the chart of one probe."""
    ends = [
        v
        for line in probe.lines
        for i in line.values.values()
        for v in (i.low, i.mean, i.high)
        if math.isfinite(v)
    ]
    rows = ticks(min(ends), max(ends))
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(configs) - 1)
    x = {bits: round(_LEFT + index * step, 1) for index, bits in enumerate(configs)}

    def y(value: float) -> float:
        return round(
            HEIGHT - _BOTTOM - (value - rows[0]) / (rows[-1] - rows[0]) * (HEIGHT - _TOP - _BOTTOM),
            1,
        )

    return {
        "title": probe.title,
        "summary": _summary(probe.lines[0]),
        "lines": [
            _line(line, [bits for bits in configs if bits in line.values], x, y)
            for line in probe.lines
        ],
        "x_ticks": [Tick(x[bits], str(bits)) for bits in configs],
        "y_ticks": [Tick(y(value), number(value)) for value in rows],
        "points": [(x[bits], 0.0, _tooltip(probe, bits)) for bits in configs],
        "box": {
            "width": WIDTH,
            "height": HEIGHT,
            "left": _LEFT,
            "right": WIDTH - _RIGHT,
            "bottom": HEIGHT - _BOTTOM,
        },
    }


def _line(
    line: Line, configs: Sequence[Config], x: Mapping[Config, float], y: Callable[[float], float]
) -> dict[str, Any]:
    """Lay out one line; solid lines also have a band and the level of fp32."""
    level = line.reference
    points = [(x[bits], y(line.values[bits].mean)) for bits in configs]
    bounds = [(x[bits], line.values[bits].low, line.values[bits].high) for bits in configs]
    banded = not line.stroke and all(math.isfinite(low) for _, low, _ in bounds)
    return {
        "color": line.color,
        "stroke": line.stroke,
        "path": "M" + "L".join(f"{a:g} {b:g}" for a, b in points),
        "dots": points,
        "band": _band([(at, y(low), y(high)) for at, low, high in bounds]) if banded else "",
        "level": y(line.values[level].mean) if not line.stroke and level in line.values else None,
    }


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    upper = [f"{x:g} {high:g}" for x, _, high in points]
    lower = [f"{x:g} {low:g}" for x, low, _ in reversed(points)]
    return "M" + "L".join(upper + lower) + "Z"


def _summary(line: Line) -> str:
    worst = min(line.values, key=lambda bits: line.values[bits].mean)
    unit = " bits" if isinstance(worst, str) and worst != STORED else ""
    lowest = f"lowest {score(line.values[worst].mean)} at {worst}{unit}"
    if line.reference not in line.values:
        return lowest
    name = f"{line.ptq}: " if line.ptq else ""
    return f"{name}{line.reference} {score(line.values[line.reference].mean)}, {lowest}"


def _tooltip(probe: ProbeLines, bits: Config) -> str:
    """List the values of all lines at these bits with their differences from fp32."""
    several = len({line.run for line in probe.lines}) > 1
    parts: dict[str, str] = {}
    for line in probe.lines:
        if bits in line.values:
            change = f" ({signed_interval(line.changes[bits])})" if bits in line.changes else ""
            # fp32 has no PTQ, so all lines of a run share its entry.
            names = [line.run] * several + [line.ptq] * (bits != line.reference)
            parts.setdefault(" ".join(names), score(line.values[bits].mean) + change)
    return f"{bits}: " + "; ".join(f"{name} {value}".strip() for name, value in parts.items())


def _table(probe: ProbeLines, run: str, configs: Sequence[Config]) -> list[dict[str, Any]]:
    """Make a row for each PTQ: the fp32 value, then value and difference at each bit config."""
    rows = []
    for line in probe.lines:
        if line.run == run:
            cells = [
                (score(line.values[bits].mean), line.change(bits))
                if bits in line.values
                else ("–", "")
                for bits in configs
                if bits != FP32
            ]
            fp32 = score(line.values[FP32].mean) if FP32 in line.values else "–"
            rows.append({"name": line.ptq, "fp32": fp32, "cells": cells})
    return rows


def inputs_section(
    full: Sequence[Row], rows: Sequence[Row], *, first: int = 0
) -> dict[str, Any] | None:
    """Prepare the input-bit curve, the metric against the bits of the input; `None` without."""
    groups: dict[tuple[str, str, Protocol, str], dict[Config, list[Row]]] = {}
    main = main_metrics(full)
    for row in (*full, *rows):
        task, _, measure = row.metric.rpartition("/")
        kind = measure if measure in _CHANGES else ""
        if row.bits == FP32 and (kind or (row.probe, row.metric) in main or measure == _OVERLAP):
            count = row.protocol.input_bits
            setting = replace(row.protocol.without_sizes(), input_bits=None)
            config = STORED if count is None else str(count)
            groups.setdefault((task, row.probe, setting, kind), {}).setdefault(config, []).append(
                row
            )
    probes = []
    for (task, probe, setting, kind), values in groups.items():
        if kind or values.keys() <= {STORED}:
            continue
        lost, gained = (groups.get((task, probe, setting, side), {}) for side in _CHANGES)
        line = Line(
            "", "", 0,
            {config: interval(own) for config, own in values.items()},
            {config: change(lost[config], gained[config]) for config in lost},
            STORED,
        )  # fmt: skip
        probes.append(ProbeLines(task, probe, [line]))
    if not probes:
        return None
    known = {str(config) for probe in probes for config in probe.lines[0].values} - {STORED}
    low = sorted(known, key=int, reverse=True)
    return {
        "first": first,
        "how": "Before the encoder, each channel of the input is rounded to 2^b levels at equal "
        "distances over its range. Probes are trained and tested on such inputs; the encoder stays "
        "as it is. The thin line is the input as it is stored, the band the 95 % interval. Where "
        "the curve is flat, more bits are not worth storing for this encoder and task.",
        "charts": [_chart(probe, [STORED, *low]) for probe in probes],
        "configs": low,
        "table": [
            {
                "name": probe.title,
                "stored": score(line.values[STORED].mean) if STORED in line.values else "–",
                "cells": [
                    (score(line.values[c].mean), line.change(c)) if c in line.values else ("–", "")
                    for c in low
                ],
            }
            for probe in probes
            for line in probe.lines
        ],
    }


def layers_section(folder: Path) -> dict[str, Any] | None:
    """Prepare the section on the sensitivity of layers from `layers.json`; `None` without it."""
    path = folder / "layers.json"
    if not path.is_file():
        return None
    layers = read_json(path)
    largest = max((row["error"] for row in layers["sensitivity"]), default=0.0)
    return {
        "how": f"One layer at a time is quantized to {layers['bits']}, all others stay fp32. "
        "Squared error of the features relative to their variance, and mean cosine similarity to "
        "the fp32 features.",
        "sensitivity": [
            {
                "name": row["name"],
                "what": row["what"],
                "error": number(row["error"]),
                "cosine": f"{row['cosine']:.5f}",
                "fraction": round(row["error"] / largest, 3) if largest else 0.0,
            }
            for row in layers["sensitivity"]
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
            for row in layers["distributions"]
        ],
    }
