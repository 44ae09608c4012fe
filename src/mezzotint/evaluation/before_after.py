"""What training changed of the encoder that a run started from: before → after, sample by sample.

Both encoders get the same probes on the same tasks, samples and seeds. Of each task the best probe
of one is compared with the best of the other, as in the headline of a report, and the interval is
that of paired proportions (`results.change`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mezzotint.evaluation.metrics import Accuracy
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import MAIN_METRICS, change, signed
from mezzotint.evaluation.summary import MEASURES, ResultKey, grouped
from mezzotint.files import require_seal, write_json

_FILE = "before_after.json"


@dataclass(frozen=True)
class TaskChange:
    """The change of one metric of a task.

    Attributes:
        metric: task and metric.
        probes: the best probe of the start and of the trained encoder.
        before: value of the start.
        after: value of the trained encoder.
        low: lower bound of the 95 % interval of after − before; NaN where it is unknown.
        high: its upper bound.
        samples: number of test samples.
    """

    metric: str
    probes: tuple[str, str]
    before: float
    after: float
    low: float
    high: float
    samples: int

    def __str__(self) -> str:
        task, _, measure = self.metric.rpartition("/")
        probe = self.probes[0] if len(set(self.probes)) == 1 else " and ".join(self.probes)
        named = " ".join(filter(None, (probe, MEASURES.get(measure, measure))))
        difference = signed(self.after - self.before)
        if not math.isnan(self.low):
            difference += f", 95 % interval {signed(self.low)} to {signed(self.high)}"
        return (
            f"{task} ({named}): {self.before:.3f} before, {self.after:.3f} after training "
            f"({difference})"
        )


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[TaskChange]:
    """Compare the rows of two encoders that were measured in the same process.

    Args:
        before: rows of the start, in fp32.
        after: rows of the trained encoder, in fp32.
    """
    found = []
    sides = [_by_metric(rows) for rows in (before, after)]
    for metric in sides[0]:
        if metric not in sides[1]:
            continue
        first, second = (max(side[metric].values(), key=_mean) for side in sides)
        interval = _paired(first, second)
        found.append(
            TaskChange(
                metric,
                (first[0].probe, second[0].probe),
                _mean(first),
                _mean(second),
                *interval,
                first[0].protocol.test or 0,
            )
        )
    return found


def _by_metric(rows: Sequence[Row]) -> dict[str, dict[ResultKey, list[Row]]]:
    """Group the main metrics of each task by probe."""
    by_metric: dict[str, dict[ResultKey, list[Row]]] = {}
    for key, own in grouped(rows).items():
        if key.bits.is_float and key.metric.rpartition("/")[2] in MAIN_METRICS:
            by_metric.setdefault(key.metric, {})[key] = own
    return by_metric


def _mean(rows: Sequence[Row]) -> float:
    return sum(row.value for row in rows) / len(rows)


def _paired(first: Sequence[Row], second: Sequence[Row]) -> tuple[float, float]:
    """Bounds of second − first; a probe without seeds is paired with each seed of the other."""
    values = [row.value for row in (*first, *second)]
    if not all(isinstance(value, Accuracy) for value in values):
        return math.nan, math.nan
    lost, gained = [], []
    for seed in range(max(len(first), len(second))):
        rows = first[seed % len(first)], second[seed % len(second)]
        then, now = (row.value.correct for row in rows)  # type: ignore[attr-defined]
        lost.append(replace(rows[0], value=(then & ~now).double().mean().item(), seed=seed))
        gained.append(replace(rows[0], value=(now & ~then).double().mean().item(), seed=seed))
    interval = change(lost, gained)
    return interval.low, interval.high


def write_changes(folder: Path, found: Sequence[TaskChange]) -> None:
    """Write `before_after.json` into a run."""
    entries = [asdict(one) | {"low": _plain(one.low), "high": _plain(one.high)} for one in found]
    write_json(folder / _FILE, entries, sealed=True)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def read_changes(folder: Path) -> list[TaskChange]:
    """Read what `write_changes` wrote; nothing for a run without a start."""
    path = folder / _FILE
    if not path.is_file():
        return []
    require_seal(path)
    return [
        TaskChange(
            **{
                **entry,
                "probes": tuple(entry["probes"]),
                "low": math.nan if entry["low"] is None else entry["low"],
                "high": math.nan if entry["high"] is None else entry["high"],
            }
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]
