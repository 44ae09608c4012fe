"""Tables of the evaluation: each metric compared with the baselines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol, differences
from mezzotint.evaluation.results import (
    HANDMADE,
    RAW,
    UNTRAINED,
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
SCORES = {"top1", "top5", "mean_per_class", "map", "auc"}  # fractions, higher is better
_FURTHER = SCORES | {"median_rank", "penalty", "lr", "epochs", "gap", "alignment"}
_BEAM_LEFT, _BEAM_RIGHT = 4.0, 176.0
_ORDER = (RAW, HANDMADE, UNTRAINED)  # of a table
_MARKS = ("square", "diamond", "circle")
_Key = tuple[str, str, Bits, Protocol]


@dataclass(frozen=True)
class Comparison:
    """One metric of the encoder and of its baselines.

    Attributes:
        rows: rows of one probe, metric, bits and protocol, one per seed.
        result: their mean and its 95 % interval.
        baselines: the same of each baseline that was measured, by its name.
        main: whether it is the main metric of its probe and task.
        setting: what tells its protocol from others of its probe; empty for the only one.
    """

    rows: Sequence[Row]
    result: Interval
    baselines: Mapping[str, Interval] = field(default_factory=dict)
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
    def best_baseline(self) -> str:
        """Name of the best baseline; empty without one, or if higher is not better."""
        known = {k: v.mean for k, v in self.baselines.items() if math.isfinite(v.mean)}
        return max(known, key=lambda name: known[name]) if known and self.measure in SCORES else ""

    @property
    def gain(self) -> float:
        """Gain over the best baseline; NaN without one."""
        best = self.best_baseline
        return self.result.mean - self.baselines[best].mean if best else math.nan

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
    parts = {RAW: baselines.raw, HANDMADE: baselines.handmade, UNTRAINED: baselines.untrained}
    others = {name: _grouped(part) for name, part in parts.items()}
    groups = _grouped(rows)
    main, texts = main_metrics(rows), _settings(groups)
    return [
        Comparison(
            own,
            interval(own),
            {name: interval(found[key]) for name, found in others.items() if key in found},
            (own[0].probe, own[0].metric) in main,
            texts[key],
        )
        for key, own in groups.items()
    ]


def _grouped(rows: Sequence[Row]) -> dict[_Key, list[Row]]:
    """Group rows that differ in their seed alone."""
    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.probe, row.metric, row.bits, row.protocol), []).append(row)
    return groups


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
        or (c.measure in SCORES and c.rows[0].probe.removesuffix("_ptq") not in known)
    ]


def tables(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Prepare the tables of the comparisons.

    Returns:
        `groups` by task with the main metrics, `further` likewise with the others, `notes`, the
        protocols in the order of their numbers, and `baselines`, the names of the columns, each
        with its mark.
    """
    names = list(dict.fromkeys(name for c in comparisons for name in c.baselines))
    # In the order of the table, also where the first metrics lack one.
    names.sort(key=lambda name: _ORDER.index(name) if name in _ORDER else -1)
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
                "baselines": [_or_dash(_mean(comparison, name)) for name in names],
                "gain": signed(comparison.gain),
                "better": comparison.gain > 0,
                "beam": _beam(comparison, names),
                "note": notes.index(_protocol(comparison)) + 1,
            }
        )
    groups = {
        name: [{"task": t, "rows": r} for t, r in table.items()] for name, table in by_task.items()
    }
    return {**groups, "notes": notes, "baselines": list(zip(names, _MARKS, strict=False))}


def _mean(comparison: Comparison, name: str) -> float:
    own = comparison.baselines.get(name)
    return math.nan if own is None else own.mean


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


def _beam(comparison: Comparison, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the positions on a line from 0 to 1; `None` for metrics that are not scores."""
    result = comparison.result
    if comparison.measure not in SCORES or not 0.0 <= result.mean <= 1.0:
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
        "marks": [
            (mark, position)
            for mark, name in zip(_MARKS, names, strict=False)
            if (position := at(_mean(comparison, name))) is not None
        ],
        "span": span,
    }
