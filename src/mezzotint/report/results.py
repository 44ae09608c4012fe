"""The evaluation as a table and in words: each figure beside raw input and the same encoder untrained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mezzotint.report.plots import number

PROBES = {"knn": "kNN", "linear": "Linear probe", "retrieval": "Retrieval", "rank": "Without labels"}
_LABEL_FREE = "rank"
_BEAM_LEFT, _BEAM_RIGHT = 4.0, 176.0
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 0.975 for 1 to 10 degrees of freedom (any table); beyond, the normal distribution's is close."""


@dataclass
class Figure:
    """All rows of one probe, metric and precision: one a seed.

    Attributes:
        probe: who measured.
        metric: task and measure.
        bits: of weights and activations.
        values: one a seed; NaN where the row has none.
        protocols: that they were measured by.
    """

    probe: str
    metric: str
    bits: tuple[int, int]
    values: list[float] = field(default_factory=list)
    protocols: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """The metric without its measure."""
        return self.metric.rpartition("/")[0]

    @property
    def measure(self) -> str:
        """The last part of the metric."""
        return self.metric.rpartition("/")[2]

    @property
    def mean(self) -> float:
        """Over seeds; NaN when one of them is."""
        return math.fsum(self.values) / len(self.values)

    def interval(self, count: int | None) -> tuple[float, float] | None:
        """The 95 % interval of the mean; `None` where it cannot be known.

        Args:
            count: of the test samples that a fraction was measured on. They are a sample, so Wilson's interval of a
                binomial fraction; the spread over seeds (Student's t) is added in quadrature.
        """
        mean, n = self.mean, len(self.values)
        if not math.isfinite(mean):
            return None
        over_seeds = 0.0
        if n > 1:
            variance = math.fsum((v - mean) ** 2 for v in self.values) / (n - 1)
            over_seeds = (_T_975[n - 2] if n <= 11 else 1.96) * math.sqrt(variance / n)
        if self.probe == _LABEL_FREE or not count or not 0.0 <= mean <= 1.0:
            return (mean - over_seeds, mean + over_seeds) if n > 1 else None
        low, high = wilson(mean, count)
        return mean - math.hypot(mean - low, over_seeds), mean + math.hypot(high - mean, over_seeds)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a fraction measured on `count` samples (Wilson, JASA 1927)."""
    z2 = 1.959964**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return centre - half, centre + half


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, tuple[int, int]], Figure]:
    """Gather rows of `evaluation.json` by what they measure, in order."""
    gathered: dict[tuple[str, str, tuple[int, int]], Figure] = {}
    for row in rows:
        key = (str(row["probe"]), str(row["metric"]), (int(row["weight_bits"]), int(row["activation_bits"])))
        figure = gathered.setdefault(key, Figure(*key))
        value = row["value"]
        figure.values.append(math.nan if value is None else float(value))
        if str(row["protocol"]) not in figure.protocols:
            figure.protocols.append(str(row["protocol"]))
    return gathered


@dataclass(frozen=True)
class Comparison:
    """A figure of the encoder beside those of the two baselines, which are NaN where there is none."""

    figure: Figure
    raw: float
    untrained: float
    interval: tuple[float, float] | None

    @property
    def gain(self) -> float:
        """Over the better baseline; NaN without one, or where a difference says nothing."""
        known = [value for value in (self.raw, self.untrained) if math.isfinite(value)]
        return self.figure.mean - max(known) if known and self.figure.probe != _LABEL_FREE else math.nan


def compare(
    rows: Sequence[Mapping[str, Any]],
    baselines: Mapping[str, Sequence[Mapping[str, Any]]],
    counts: Mapping[str, int],
) -> list[Comparison]:
    """Put every figure of the encoder beside the baselines'.

    Args:
        rows: of `evaluation.json`.
        baselines: `baselines.json`: rows under `raw` and `untrained`.
        counts: test samples by task.
    """
    others = {name: figures(baselines.get(name) or []) for name in ("raw", "untrained")}

    def baseline(name: str, figure: Figure) -> float:
        found = others[name].get((figure.probe, figure.metric, (32, 32)))
        return found.mean if found else math.nan

    return [
        Comparison(
            figure, baseline("raw", figure), baseline("untrained", figure), figure.interval(counts.get(figure.task))
        )
        for figure in figures(rows).values()
    ]


def table(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the template needs to show the comparisons: groups by task, and the protocols as numbered notes."""
    notes: list[str] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for comparison in comparisons:
        figure = comparison.figure
        for protocol in figure.protocols:
            if protocol not in notes:
                notes.append(protocol)
        groups.setdefault(task_words(figure.task), []).append(
            {
                "name": _name(figure),
                "value": score(figure.mean),
                "interval": _interval_words(comparison.interval),
                "raw": _or_dash(comparison.raw),
                "untrained": _or_dash(comparison.untrained),
                "gain": signed(comparison.gain),
                "better": comparison.gain > 0,
                "beam": _beam(comparison),
                "note": ", ".join(str(notes.index(p) + 1) for p in figure.protocols),
            }
        )
    return {"groups": [{"task": task, "rows": rows} for task, rows in groups.items()], "notes": notes}


def task_words(task: str) -> str:
    """`category/across-styles` → `category, across styles`."""
    return task.replace("/", ", ").replace("-", " ") or "features as they are"


def _name(figure: Figure) -> str:
    name = f"{PROBES.get(figure.probe, figure.probe)}, {figure.measure}"
    return name if figure.bits == (32, 32) else f"{name}, {figure.bits[0]}/{figure.bits[1]} bits"


def score(value: float) -> str:
    """A fraction with three decimals, so that a column of them lines up; other numbers with three digits."""
    return f"{value:.3f}" if 0.0 <= value < 10.0 else number(value)


def _or_dash(value: float) -> str:
    return score(value) if math.isfinite(value) else "–"


def signed(value: float) -> str:
    """A difference with its sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else "−") + f"{abs(value):.3f}"


def _interval_words(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{score(interval[0])} – {score(interval[1])}"


def _beam(comparison: Comparison) -> dict[str, Any] | None:
    """Places on a line from 0 to 1; `None` for what is not a fraction."""
    mean = comparison.figure.mean
    if comparison.figure.probe == _LABEL_FREE or not 0.0 <= mean <= 1.0:
        return None

    def at(value: float) -> float | None:
        inside = math.isfinite(value) and 0.0 <= value <= 1.0
        return round(_BEAM_LEFT + value * (_BEAM_RIGHT - _BEAM_LEFT), 1) if inside else None

    span = comparison.interval and [at(min(1.0, max(0.0, end))) for end in comparison.interval]
    return {"value": at(mean), "raw": at(comparison.raw), "untrained": at(comparison.untrained), "span": span}


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The figure of the headline: the first task's linear probe in float, or its kNN, or whatever comes first."""
    scores = [c for c in comparisons if c.figure.probe != _LABEL_FREE and c.figure.bits == (32, 32)]
    for probe in ("linear", "knn"):
        for comparison in scores:
            if comparison.figure.probe == probe and comparison.figure.measure == "top1":
                return comparison
    return scores[0] if scores else None


def lead(comparison: Comparison | None) -> list[tuple[str, bool]]:
    """The headline: pieces of text, and whether each is to stand out."""
    if comparison is None:
        return [("An encoder without an evaluation with labels", False)]
    figure = comparison.figure
    probe = {"linear": "A linear probe", "knn": "kNN"}.get(figure.probe, figure.probe.capitalize())
    pieces = [(f"{probe} scores ", False), (score(figure.mean), True), (f" on {task_words(figure.task)}", False)]
    others = [("raw input", comparison.raw), ("the same encoder untrained", comparison.untrained)]
    known = [f"{name} {score(value)}" for name, value in others if math.isfinite(value)]
    pieces.append((f"; {', '.join(known)}." if known else ".", False))
    return pieces


def gain_words(comparison: Comparison | None) -> tuple[str, bool] | None:
    """Whether training was worth it, and whether that is a warning."""
    if comparison is None or not math.isfinite(comparison.gain):
        return None
    better = "raw input" if not comparison.untrained >= comparison.raw else "the untrained encoder"
    if comparison.gain <= 0:
        return f"It is no better than {better} there: {signed(comparison.gain)}.", True
    best = max(v for v in (comparison.raw, comparison.untrained) if math.isfinite(v))
    clear = comparison.interval is not None and comparison.interval[0] > best
    tail = ", more than the 95 % interval allows for chance" if clear else ", within the 95 % interval of chance"
    return f"That is {signed(comparison.gain)} over {better}{tail if comparison.interval else ''}.", False
