"""The summary of an evaluation as text: the main metric of each task, compared with the baselines.

Values are averaged over seeds alone. Two settings of one probe are two lines, and say in what they
differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import PTQ, Protocol, differences
from mezzotint.evaluation.results import (
    change,
    interval,
    interval_words,
    main_metrics,
    read_baselines,
    read_evaluation,
    signed_interval,
)
from mezzotint.quant.bitwidth import FP32, Bits

MEASURES = {"top1": "", "map": "mAP"}
"""The main metrics as a table names them after the probe."""
_LABEL_FREE = ("all/rank_ratio", "all/spread")


@dataclass(frozen=True)
class ResultKey:
    """What rows of one value share, so that only seeds are averaged over.

    Attributes:
        probe: name of the probe.
        metric: task and metric.
        protocol: the protocol without quantization, so that a result at low bits has that of fp32.
        bits: bits of weights and activations.
        ptq: how the encoder was quantized, for any seed; `None` in fp32.
    """

    probe: str
    metric: str
    protocol: Protocol
    bits: Bits
    ptq: PTQ | None

    @classmethod
    def of(cls, row: Row) -> "ResultKey":
        """Return the key of a row."""
        ptq = row.protocol.ptq
        return cls(
            row.probe,
            row.metric,
            replace(row.protocol, ptq=None, fp32_head=False),
            row.bits,
            None if ptq is None else replace(ptq, seed=0),
        )

    @property
    def task(self) -> str:
        """Task of the metric."""
        return self.metric.rpartition("/")[0]

    @property
    def quantized(self) -> str:
        """Bits and method of quantization, such as `W4A4 min_max`; empty in fp32."""
        return "" if self.bits.is_float else f"{self.bits} {self.ptq.method if self.ptq else ''}"

    def with_metric(self, measure: str) -> "ResultKey":
        """Return the key of another metric of the same task."""
        return replace(self, metric=f"{self.task}/{measure}")


def grouped(rows: Sequence[Row]) -> dict[ResultKey, list[Row]]:
    """Group rows that differ in their seed alone."""
    groups: dict[ResultKey, list[Row]] = {}
    for row in rows:
        groups.setdefault(ResultKey.of(row), []).append(row)
    return groups


def named(keys: Sequence[ResultKey], *, metric: bool = False) -> dict[ResultKey, str]:
    """Name the values of a table: probe, metric where it is not top-1, and settings that differ.

    Args:
        keys: keys of all values of the table.
        metric: end with task and metric instead.
    """
    names = {}
    for key in keys:
        alike = (key.probe, key.metric, key.quantized)
        same = [k for k in keys if (k.probe, k.metric, k.quantized) == alike]
        own = differences(replace(k.protocol, ptq=k.ptq) for k in same)
        measure = key.metric.rpartition("/")[2]
        words = (
            key.probe,
            "" if metric else MEASURES.get(measure, measure),
            own[replace(key.protocol, ptq=key.ptq)],
            key.quantized,
            key.metric if metric else "",
        )
        names[key] = " ".join(word for word in words if word)
    return names


def summary(folder: str | Path) -> list[tuple[str, str, str, str, str, str]]:
    """Return a run's main metrics as text.

    A line has task, probe, encoder, untrained encoder, hand-made features and raw input. Without
    labels they are the label-free metrics that show a collapse, `rank_ratio` and `spread`.
    Results at low bits follow their fp32 result, with bits and method of quantization after the
    probe and the difference from fp32 instead of the interval.
    """
    baselines = read_baselines(folder)
    parts = (baselines.untrained, baselines.handmade, baselines.raw)
    others = [grouped(part) for part in parts]
    rows = read_evaluation(folder)
    groups, main = grouped(rows), main_metrics(rows)
    keys = [key for key in groups if (key.probe, key.metric) in main]
    keys = keys or [key for key in groups if key.metric in _LABEL_FREE]
    names = named(keys)
    lines = []
    for key in _ordered(keys):
        words, known = _with_interval(groups[key]), ["", "", ""]
        if key.ptq is None or not _has_fp32(key, keys):
            compared = [part.get(key) for part in others]
            known = ["–" if part is None else f"{interval(part).mean:.3f}" for part in compared]
        elif lost := groups.get(key.with_metric("lost")):
            difference = signed_interval(change(lost, groups[key.with_metric("gained")]))
            words = f"{interval(groups[key]).mean:.3f} ({difference})"
        shown = key.metric.rpartition("/")[2] if key.metric in _LABEL_FREE else names[key]
        lines.append((key.task, shown, words, known[0], known[1], known[2]))
    return lines + [
        ("all", f"kNN overlap {key.quantized}", _with_interval(own), "", "", "")
        for key, own in groups.items()
        if key.metric == "all/knn_overlap"
    ]


def _fp32(key: ResultKey) -> ResultKey:
    """Return the key of the fp32 result that a result at low bits is compared with."""
    return replace(key, probe=key.probe.removesuffix("_ptq"), bits=FP32, ptq=None)


def _has_fp32(key: ResultKey, keys: Sequence[ResultKey]) -> bool:
    return _fp32(key) in keys


def _ordered(keys: Sequence[ResultKey]) -> list[ResultKey]:
    """Put results at low bits after their fp32 result, and those without one last."""
    full = [key for key in keys if key.ptq is None]
    low = [key for key in keys if key.ptq is not None]
    after = [[key, *(one for one in low if _fp32(one) == key)] for key in full]
    return [key for part in after for key in part] + [k for k in low if not _has_fp32(k, full)]


def _with_interval(rows: Sequence[Row]) -> str:
    estimate = interval(rows)
    bounds = interval_words(estimate)
    return f"{estimate.mean:.3f} ({bounds})" if bounds else f"{estimate.mean:.3f}"
