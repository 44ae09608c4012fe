"""The evaluation as tables and in words: each figure beside raw input and the same encoder untrained."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mezzotint.evaluation.label_free import verdict
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import Baselines, Interval, interval, signed
from mezzotint.quant.bitwidth import Bits
from mezzotint.report.plots import number

PROBES = {
    "knn": "kNN",
    "linear": "Linear probe",
    "retrieval": "Retrieval",
    "rank": "",
    "neighbors": "Neighbors kept",
}
MEASURES = {
    "top1": "",
    "top5": "within five guesses",
    "mean_per_class": "mean over classes",
    "map": "mean average precision",
    "median_rank": "median rank of the first hit",
    "penalty": "strength chosen on training samples",
    "gap": "nats from the optimum, at most",
    "rankme": "RankMe, effective rank",
    "rank_share": "RankMe, share of the directions",
    "alpha": "α-ReQ, decay of the spectrum",
    "uniformity": "uniformity",
    "spread": "spread",
    "alignment": "alignment of pairs",
}
_SCORES = {"top1", "top5", "mean_per_class", "map"}  # fractions, of which more is better
_FURTHER = {"top5", "mean_per_class", "map", "median_rank", "penalty", "gap", "alignment"}
_BEAM_LEFT, _BEAM_RIGHT = 4.0, 176.0


@dataclass(frozen=True)
class Comparison:
    """A figure of the encoder beside those of the two baselines.

    Attributes:
        rows: of one probe, metric, precision and protocol: one a seed.
        found: their mean and its 95 % interval.
        raw: of the input itself; NaN where it was not measured.
        untrained: mean over untrained encoders; NaN where none was measured.
    """

    rows: Sequence[Row]
    found: Interval
    raw: float
    untrained: float

    @property
    def task(self) -> str:
        """The metric without its measure."""
        return self.rows[0].metric.rpartition("/")[0]

    @property
    def measure(self) -> str:
        """The last part of the metric."""
        return self.rows[0].metric.rpartition("/")[2]

    @property
    def bits(self) -> Bits:
        """Bit-widths of weights and activations."""
        return self.rows[0].bits

    @property
    def better_baseline(self) -> float:
        """NaN without a baseline, or where more is not better."""
        known = [value for value in (self.raw, self.untrained) if math.isfinite(value)]
        return max(known) if known and self.measure in _SCORES else math.nan

    @property
    def gain(self) -> float:
        """Over the better baseline."""
        return self.found.mean - self.better_baseline

    @property
    def name(self) -> str:
        """Probe and measure in words, with the precision when it is not float."""
        words = (
            PROBES.get(self.rows[0].probe, self.rows[0].probe),
            MEASURES.get(self.measure, self.measure),
        )
        name = ", ".join(word for word in words if word)
        return name if self.bits.is_float else f"{name}, {self.bits}"


def compare_with_baselines(rows: Sequence[Row], baselines: Baselines) -> list[Comparison]:
    """Put every figure of the encoder beside the baselines', which are float."""

    def baseline(others: Sequence[Row], row: Row) -> float:
        alike = [
            o
            for o in others
            if (o.probe, o.metric, o.protocol) == (row.probe, row.metric, row.protocol)
        ]
        return math.fsum(o.value for o in alike) / len(alike) if alike else math.nan

    groups: dict[tuple[str, str, Bits, str], list[Row]] = {}
    for row in rows:
        key = (row.probe, row.metric, row.bits, row.protocol)
        groups.setdefault(key, []).append(row)
    return [
        Comparison(
            own,
            interval(own),
            baseline(baselines.raw, own[0]),
            baseline(baselines.untrained, own[0]),
        )
        for own in groups.values()
    ]


def tables(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What the template needs to show the comparisons.

    Returns:
        `groups` by task with the main figures; `further` likewise with the others; `notes`, the
        protocols in the order of their numbers.
    """
    notes = list(dict.fromkeys(_protocol(c) for c in comparisons))
    made: dict[str, dict[str, list[dict[str, Any]]]] = {"groups": {}, "further": {}}
    for comparison in comparisons:
        place = made["further" if comparison.measure in _FURTHER else "groups"]
        place.setdefault(task_words(comparison.task), []).append(
            {
                "name": comparison.name,
                "value": score(comparison.found.mean),
                "interval": _interval_words(comparison.found),
                "raw": _or_dash(comparison.raw),
                "untrained": _or_dash(comparison.untrained),
                "gain": signed(comparison.gain),
                "better": comparison.gain > 0,
                "beam": _beam(comparison),
                "note": notes.index(_protocol(comparison)) + 1,
            }
        )
    groups = {
        name: [{"task": t, "rows": r} for t, r in place.items()] for name, place in made.items()
    }
    return {**groups, "notes": notes}


def _protocol(comparison: Comparison) -> str:
    """Without the sizes of the task's split, so that one probe is one note."""
    return re.sub(r"( (train|test)=\d+)+$", "", comparison.rows[0].protocol)


def task_words(task: str) -> str:
    """`category/across-styles` → `category, across styles`."""
    return (
        "features as they are, without labels"
        if task == "all"
        else task.replace("/", ", ").replace("-", " ")
    )


def score(value: float) -> str:
    """A fraction with three decimals, so that a column of them lines up; other numbers with three digits."""
    return f"{value:.3f}" if 0.001 <= value < 10.0 else number(value)


def _or_dash(value: float) -> str:
    return score(value) if math.isfinite(value) else "–"


def _interval_words(found: Interval) -> str:
    return (
        f"{score(found.low)} – {score(found.high)}"
        if math.isfinite(found.low) and found.low < found.high
        else "–"
    )


def _beam(comparison: Comparison) -> dict[str, Any] | None:
    """Places on a line from 0 to 1; `None` for what is not a score."""
    found = comparison.found
    if comparison.measure not in _SCORES or not 0.0 <= found.mean <= 1.0:
        return None

    def at(value: float) -> float | None:
        inside = math.isfinite(value) and 0.0 <= value <= 1.0
        return round(_BEAM_LEFT + value * (_BEAM_RIGHT - _BEAM_LEFT), 1) if inside else None

    span = (
        [at(min(1.0, max(0.0, end))) for end in (found.low, found.high)]
        if math.isfinite(found.low)
        else None
    )
    return {
        "value": at(found.mean),
        "raw": at(comparison.raw),
        "untrained": at(comparison.untrained),
        "span": span,
    }


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison | None:
    """The figure of the headline: the first task's linear probe in float, or its kNN, or the first score there is."""
    scores = [c for c in comparisons if c.measure in _SCORES and c.bits.is_float]
    for probe in ("linear", "knn"):
        for comparison in scores:
            if comparison.rows[0].probe == probe and comparison.measure == "top1":
                return comparison
    return scores[0] if scores else None


def lead(comparisons: Sequence[Comparison]) -> list[tuple[str, bool]]:
    """The headline: pieces of text, and whether each is to stand out."""
    comparison = main_comparison(comparisons)
    if comparison is None:
        return [
            (
                "An encoder measured without labels"
                if comparisons
                else "An encoder that has not been evaluated",
                False,
            )
        ]
    probe = {"linear": "A linear probe", "knn": "kNN"}.get(
        comparison.rows[0].probe, comparison.name.capitalize()
    )
    task = task_words(comparison.task)
    pieces = [
        (f"{probe} scores ", False),
        (score(comparison.found.mean), True),
        (f" on {task}", False),
    ]
    others = [("raw input", comparison.raw), ("untrained encoder", comparison.untrained)]
    known = [f"{name} {score(value)}" for name, value in others if math.isfinite(value)]
    pieces.append((f"; {', '.join(known)}." if known else ".", False))
    return pieces


def gain_words(comparison: Comparison | None) -> tuple[str, bool] | None:
    """Whether training was worth it, and whether that is a warning."""
    if comparison is None or not math.isfinite(comparison.gain):
        return None
    best, low = comparison.better_baseline, comparison.found.low
    name = "the untrained encoder" if best == comparison.untrained else "raw input"
    if comparison.gain <= 0:
        return f"It is no better than {name} there: {signed(comparison.gain)}.", True
    tail = (
        ""
        if math.isnan(low)
        else ", beyond the 95 % interval"
        if low > best
        else ", within the 95 % interval"
    )
    return f"That is {signed(comparison.gain)} over {name}{tail}.", bool(tail) and low <= best


def standing_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """In how many of all top-1 figures the encoder is ahead of both baselines, and whether that is a warning."""
    gains = [c.gain for c in comparisons if c.measure == "top1" and math.isfinite(c.gain)]
    if len(gains) < 2:
        return None
    ahead = sum(gain > 0 for gain in gains)
    if ahead == len(gains):
        return (
            f"It is ahead of both baselines in all {len(gains)} figures of the table below.",
            False,
        )
    some = f"{ahead or 'none'} {'is' if ahead < 2 else 'are'} ahead of both baselines"
    return f"Of the {len(gains)} figures in the table below, {some}.", True


def collapse_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """The verdict on collapse, and whether it is a warning; `None` when nothing was measured that tells."""
    value = {c.rows[0].metric: c.found.mean for c in comparisons if c.bits.is_float}
    if "all/spread" not in value or "all/rank_share" not in value:
        return None
    words = verdict(value["all/spread"], value["all/rank_share"])
    return f"{words[0].upper()}{words[1:]}.", not words.startswith("healthy")
