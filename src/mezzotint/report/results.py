"""Tables and summary of the evaluation: each metric compared with the baselines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mezzotint.evaluation.label_free import verdict
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol, differences
from mezzotint.evaluation.results import (
    Baselines,
    Interval,
    interval,
    interval_words,
    main_metrics,
    signed,
)
from mezzotint.quant.bitwidth import Bits
from mezzotint.report.plots import number

PROBES = {
    "knn": "kNN",
    "linear": "Linear probe",
    "retrieval": "Retrieval",
    "rank": "",
    "neighbors": "kNN overlap",
    "finetune": "",
    "majority": "Largest class",
}
MEASURES = {
    "top1": "",
    "top5": "top 5",
    "mean_per_class": "mean over classes",
    "map": "mean average precision",
    "auc": "area under the ROC curve, mean over labels",
    "median_rank": "median rank of the first hit",
    "penalty": "L2 penalty chosen on training samples",
    "lr": "learning rate chosen on training samples",
    "epochs": "epochs chosen on training samples",
    "gap": "optimality gap, upper bound in nats",
    "rankme": "RankMe (effective rank)",
    "rank_ratio": "RankMe / feature dim",
    "alpha": "α-ReQ (spectral decay)",
    "uniformity": "Uniformity",
    "spread": "Spread",
    "alignment": "Alignment of positive pairs",
}
_SCORES = {"top1", "top5", "mean_per_class", "map", "auc"}  # fractions, higher is better
_FURTHER = _SCORES | {"median_rank", "penalty", "lr", "epochs", "gap", "alignment"}
_BEAM_LEFT, _BEAM_RIGHT = 4.0, 176.0
_Key = tuple[str, str, Bits, Protocol]


@dataclass(frozen=True)
class Comparison:
    """One metric of the encoder and of the two baselines.

    Attributes:
        rows: rows of one probe, metric, bits and protocol, one per seed.
        result: their mean and its 95 % interval.
        raw: value of the raw input; NaN if not measured.
        untrained: mean over untrained encoders; NaN if not measured.
        main: whether it is the main metric of its probe and task.
        setting: what tells its protocol from others of its probe; empty for the only one.
    """

    rows: Sequence[Row]
    result: Interval
    raw: float
    untrained: float
    main: bool = False
    setting: str = ""

    @property
    def task(self) -> str:
        """Task of the metric."""
        return self.rows[0].metric.rpartition("/")[0]

    @property
    def measure(self) -> str:
        """Last part of the metric, such as `top1`."""
        return self.rows[0].metric.rpartition("/")[2]

    @property
    def bits(self) -> Bits:
        """The bit config of the rows."""
        return self.rows[0].bits

    @property
    def better_baseline(self) -> float:
        """Value of the better baseline; NaN without one, or if higher is not better."""
        known = [value for value in (self.raw, self.untrained) if math.isfinite(value)]
        return max(known) if known and self.measure in _SCORES else math.nan

    @property
    def gain(self) -> float:
        """Gain over the better baseline."""
        return self.result.mean - self.better_baseline

    @property
    def name(self) -> str:
        """Probe, measure and bits, as in a table."""
        words = (
            PROBES.get(self.rows[0].probe, self.rows[0].probe),
            MEASURES.get(self.measure, self.measure),
            self.setting,
        )
        name = ", ".join(word for word in words if word) or "Top-1 accuracy"
        return name if self.bits.is_float else f"{name}, {self.bits}"


def compare_with_baselines(rows: Sequence[Row], baselines: Baselines) -> list[Comparison]:
    """Compare every metric of the encoder with the fp32 baselines."""

    def baseline(others: Sequence[Row], row: Row) -> float:
        matches = [
            o
            for o in others
            if (o.probe, o.metric, o.protocol) == (row.probe, row.metric, row.protocol)
        ]
        return math.fsum(o.value for o in matches) / len(matches) if matches else math.nan

    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        key = (row.probe, row.metric, row.bits, row.protocol)
        groups.setdefault(key, []).append(row)
    main, texts = main_metrics(rows), _settings(groups)
    return [
        Comparison(
            own,
            interval(own),
            baseline(baselines.raw, own[0]),
            baseline(baselines.untrained, own[0]),
            (own[0].probe, own[0].metric) in main,
            texts[key],
        )
        for key, own in groups.items()
    ]


def _settings(keys: Iterable[_Key]) -> dict[_Key, str]:
    """Write what tells the protocols of one probe, metric and bit config from one another."""
    alike: dict[tuple[str, str, Bits, str], list[Protocol]] = {}
    for probe, metric, bits, protocol in keys:
        alike.setdefault((probe, metric, bits, protocol.ptq_method), []).append(protocol)
    texts = {}
    for (probe, metric, bits, _), protocols in alike.items():
        for protocol, text in differences(protocols).items():
            texts[probe, metric, bits, protocol] = text
    return texts


def unquantized(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return results in fp32, and scores of heads that were trained at low bits and have no other.

    Scores of fp32 heads at low bits stand in the section of bits.
    """
    known = {c.rows[0].probe for c in comparisons if c.bits.is_float}
    return [
        c
        for c in comparisons
        if c.bits.is_float
        or (c.measure in _SCORES and c.rows[0].probe.removesuffix("_ptq") not in known)
    ]


def tables(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Prepare the tables of the comparisons.

    Returns:
        `groups` by task with the main metrics, `further` likewise with the others, and `notes`, the
        protocols in the order of their numbers.
    """
    notes = list(dict.fromkeys(_protocol(c) for c in comparisons))
    by_task: dict[str, dict[str, list[dict[str, Any]]]] = {"groups": {}, "further": {}}
    for comparison in comparisons:
        further = comparison.measure in _FURTHER and not comparison.main
        table = by_task["further" if further else "groups"]
        table.setdefault(task_words(comparison.task), []).append(
            {
                "name": comparison.name,
                "value": score(comparison.result.mean),
                "interval": interval_words(comparison.result, score) or "–",
                "raw": _or_dash(comparison.raw),
                "untrained": _or_dash(comparison.untrained),
                "gain": signed(comparison.gain),
                "better": comparison.gain > 0,
                "beam": _beam(comparison),
                "note": notes.index(_protocol(comparison)) + 1,
            }
        )
    groups = {
        name: [{"task": t, "rows": r} for t, r in table.items()] for name, table in by_task.items()
    }
    return {**groups, "notes": notes}


def _protocol(comparison: Comparison) -> str:
    """Without the sizes of the task's split, so that one probe is one note."""
    return str(comparison.rows[0].protocol.without_sizes())


def task_words(task: str) -> str:
    """Write `category/across-styles` as `category, across styles`."""
    return "label-free metrics" if task == "all" else task.replace("/", ", ").replace("-", " ")


def score(value: float) -> str:
    """Format a fraction with three decimals, so that columns align; others with three digits."""
    return f"{value:.3f}" if 0.001 <= value < 10.0 else number(value)


def _or_dash(value: float) -> str:
    return score(value) if math.isfinite(value) else "–"


def _beam(comparison: Comparison) -> dict[str, Any] | None:
    """Return the positions on a line from 0 to 1; `None` for metrics that are not scores."""
    result = comparison.result
    if comparison.measure not in _SCORES or not 0.0 <= result.mean <= 1.0:
        return None

    def at(value: float) -> float | None:
        inside = math.isfinite(value) and 0.0 <= value <= 1.0
        return round(_BEAM_LEFT + value * (_BEAM_RIGHT - _BEAM_LEFT), 1) if inside else None

    span = (
        [at(min(1.0, max(0.0, end))) for end in (result.low, result.high)]
        if math.isfinite(result.low)
        else None
    )
    return {
        "value": at(result.mean),
        "raw": at(comparison.raw),
        "untrained": at(comparison.untrained),
        "span": span,
    }


def main_comparison(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Choose the headline: the best probe of the encoder against the best of each baseline.

    Of the first task that a linear probe or kNN answers, else of the first score. The same probes
    compete on each side, so that no baseline is shown by a probe that suits it badly.
    """
    competing = _competing(comparisons)
    if not competing:
        return None
    raw, untrained = (_best(competing, side) for side in ("raw", "untrained"))
    return replace(
        _best(competing, "value") or competing[0],
        raw=raw.raw if raw else math.nan,
        untrained=untrained.untrained if untrained else math.nan,
    )


def _competing(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the main metric of every probe on the headline's task."""
    scores = [c for c in unquantized(comparisons) if c.measure in _SCORES]
    main = [c for c in scores if c.main]
    usual = [c for probe in ("linear", "knn") for c in main if c.rows[0].probe == probe]
    first = next(iter(usual or main or scores), None)
    return [c for c in main or scores if first and c.rows[0].metric == first.rows[0].metric]


def _best(competing: Sequence[Comparison], side: str) -> Comparison | None:
    """Return the comparison with the highest value on one side: `value`, `raw` or `untrained`."""

    def value(c: Comparison) -> float:
        own: float = c.result.mean if side == "value" else getattr(c, side)
        return own

    known = [c for c in competing if math.isfinite(value(c))]
    return max(known, key=value) if known else None


def lead(comparisons: Sequence[Comparison]) -> list[tuple[str, bool]]:
    """Write the headline: pieces of text, and whether each is emphasized."""
    comparison = main_comparison(comparisons)
    if comparison is None:
        return [
            (
                "Evaluated without labels" if comparisons else "Not evaluated yet",
                False,
            )
        ]
    competing = _competing(comparisons)
    several = len(competing) > 1
    known = []
    for side, name in (("raw", "raw input"), ("untrained", "untrained encoder")):
        best = _best(competing, side)
        if best is not None:
            probe = f" ({_in_sentence(best.name)})" if several else ""
            known.append(f"{name} {score(getattr(best, side))}{probe}")
    kind = comparison.rows[0].probe
    probe = "A linear probe" if comparison.name == PROBES["linear"] else comparison.name
    probe = probe if kind in PROBES else f"{probe[:1].upper()}{probe[1:]}"
    return [
        (f"{probe} scores ", False),
        (score(comparison.result.mean), True),
        (f" on {task_words(comparison.task)}", False),
        ((f", the best of {len(competing)} probes" if several else ""), False),
        (f"; {', '.join(known)}." if known else ".", False),
    ]


def _in_sentence(name: str) -> str:
    """Write the name of a probe inside a sentence."""
    return name if name.startswith("kNN") else f"{name[:1].lower()}{name[1:]}"


def gain_words(comparison: Comparison | None) -> tuple[str, bool] | None:
    """Say what training gained over the better baseline, and whether that is a warning."""
    if comparison is None or not math.isfinite(comparison.gain):
        return None
    best, low = comparison.better_baseline, comparison.result.low
    name = "the untrained encoder" if best == comparison.untrained else "raw input"
    if comparison.gain <= 0:
        return f"No gain over {name}: {signed(comparison.gain)}.", True
    tail = (
        ""
        if math.isnan(low)
        else " (outside the 95 % interval)"
        if low > best
        else " (within the 95 % interval)"
    )
    return f"Gain over {name}: {signed(comparison.gain)}{tail}.", bool(tail) and low <= best


def standing_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """Count the main metrics in which the encoder beats both baselines; a loss is a warning."""
    gains = [c.gain for c in comparisons if c.main and math.isfinite(c.gain)]
    if len(gains) < 2:
        return None
    ahead = sum(gain > 0 for gain in gains)
    if ahead == len(gains):
        return f"It beats both baselines in all {len(gains)} main metrics below.", False
    return f"It beats both baselines in {ahead} of {len(gains)} main metrics below.", True


def collapse_words(comparisons: Sequence[Comparison]) -> tuple[str, bool] | None:
    """State the verdict on collapse, and whether it is a warning; `None` if it was not measured."""
    value = {c.rows[0].metric: c.result.mean for c in comparisons if c.bits.is_float}
    if "all/spread" not in value or "all/rank_ratio" not in value:
        return None
    words = verdict(value["all/spread"], value["all/rank_ratio"])
    return f"{words[0].upper()}{words[1:]}.", not words.startswith("healthy")
