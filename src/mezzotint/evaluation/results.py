"""What an evaluation found; `evaluation.json` and `baselines.json`: written, read, and put side by side.

Plain JSON: a figure that is not a number is `null`, which reads back as NaN. Files are replaced
whole, so a reader never sees half of one.

95 % intervals of figures: over seeds, over test samples, or both.

Two things make a figure uncertain. Another seed gives another split, or another untrained encoder:
Student's t over the seeds' values. Other test samples would give another fraction: Wilson's
interval of a binomial (JASA 1927). They are independent, so their half-widths are added in
quadrature. A probe whose seeds all agree is thus not shown as exact.

What quantization costs is measured on the samples and seeds that the float figure is measured on.
Its interval is that of paired proportions, and a fraction of the interval of either figure.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.files import write_json
from mezzotint.types import Unreadable

_Z = 1.959964
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 0.975 for 1 to 10 degrees of freedom."""

_FRACTIONS = ("top1", "top5")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; the bounds are NaN where nothing is known about the spread."""

    mean: float
    low: float
    high: float


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """The interval of a fraction measured on `count` independent samples."""
    shrink = 1.0 + _Z**2 / count
    center = (fraction + _Z**2 / (2 * count)) / shrink
    half = _Z * math.sqrt(fraction * (1.0 - fraction) / count + _Z**2 / (4 * count**2)) / shrink
    return max(0.0, center - half), min(1.0, center + half)


def paired(first: float, second: float, count: int) -> tuple[float, float]:
    """The interval of the difference of two fractions measured on the same `count` samples.

    Wald's with half a sample added to each of the four cells (Agresti and Min, Statistics in
    Medicine 24, 2005), so that two figures that agree on every sample are not shown as exact.

    Args:
        first: share of samples that only the first counts.
        second: share of samples that only the second counts.
        count: of samples.

    Returns:
        Bounds of first − second.
    """
    b, c, n = first * count + 0.5, second * count + 0.5, count + 2.0
    half = _Z * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return max(-1.0, (b - c) / n - half), min(1.0, (b - c) / n + half)


def student(values: Sequence[float]) -> float:
    """Half-width of the interval of the mean of two or more values."""
    degrees = len(values) - 1
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / degrees
    if degrees <= len(_T):
        t = _T[degrees - 1]
    else:  # Cornish and Fisher's expansion, right to four digits there
        t = (
            _Z
            + (_Z**3 + _Z) / (4 * degrees)
            + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * degrees**2)
        )
    return t * math.sqrt(variance / len(values))


def interval(rows: Sequence[Row]) -> Interval:
    """The figure that these rows measure, one a seed.

    Args:
        rows: of one probe and metric. The number of test samples is read from the protocol's
            `test=`; it counts for `top1` and `top5`, which are fractions of samples.

    Raises:
        ValueError: without rows, or when they measure different things.
    """
    if len({(row.probe, row.metric, row.bits) for row in rows}) != 1:
        raise ValueError(
            f"got {len(rows)} rows of {len({(row.probe, row.metric) for row in rows})} figures; allowed are rows of "
            "one: group them by probe, metric and bits"
        )
    values = [row.value for row in rows]
    mean = math.fsum(values) / len(values)
    over_seeds = student(values) if len(values) > 1 else math.nan
    items = _items(rows[0])
    if items == 0 or rows[0].metric.rpartition("/")[2] not in _FRACTIONS:
        return Interval(mean, mean - over_seeds, mean + over_seeds)
    return _widened(mean, wilson(mean, items), over_seeds)


def change(lost: Sequence[Row], gained: Sequence[Row]) -> Interval:
    """How much a figure at low bits is above float, negative where it is below.

    Args:
        lost: the share of test samples that are right in float alone, a row a seed.
        gained: the share that is right at low bits alone; the same seeds in the same order.

    Raises:
        ValueError: without rows, or when the seeds differ.
    """
    if not lost or [row.seed for row in lost] != [row.seed for row in gained]:
        raise ValueError(
            f"got {len(lost)} rows of what is lost and {len(gained)} of what is gained; allowed is one of each for "
            "each seed, in the same order: group them by probe, metric and bits"
        )
    values = [after.value - before.value for before, after in zip(lost, gained, strict=True)]
    mean = math.fsum(values) / len(values)
    over_seeds = student(values) if len(values) > 1 else math.nan
    items = _items(lost[0])
    if items == 0:
        return Interval(mean, mean - over_seeds, mean + over_seeds)
    shares = [math.fsum(row.value for row in rows) / len(rows) for rows in (gained, lost)]
    return _widened(mean, paired(shares[0], shares[1], items), over_seeds)


def _items(row: Row) -> int:
    """How many samples a row was measured on; 0 where it does not say."""
    found = re.search(r"\btest=(\d+)", row.protocol)
    return int(found[1]) if found else 0


def _widened(mean: float, bounds: tuple[float, float], over_seeds: float) -> Interval:
    """An interval over samples with that over seeds, if there is one."""
    low, high = bounds
    spread = 0.0 if math.isnan(over_seeds) else over_seeds
    return Interval(
        mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread)
    )


_EVALUATION, _BASELINES = "evaluation.json", "baselines.json"
_LABEL_FREE = ("all/rank_share", "all/spread")
_KEYS = {entry.name for entry in fields(Row)}


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one encoder.

    Attributes:
        rows: every figure; `metric` is `TASK/MEASURE`, and `all/MEASURE` for what needs no task.
        verdict: on collapse, in words.
        bad: samples that could not be read, and were left out.
    """

    rows: list[Row]
    verdict: str
    bad: tuple[Unreadable, ...] = ()


@dataclass(frozen=True)
class Baselines:
    """The same figures of the input itself, and of untrained encoders (one row a seed)."""

    raw: list[Row] = field(default_factory=list)
    untrained: list[Row] = field(default_factory=list)


def write_evaluation(
    folder: str | Path, evaluation: Evaluation, beside: Baselines | None = None
) -> None:
    """Write a run's figures, and those of its baselines when they were measured."""
    write_json(Path(folder) / _EVALUATION, [row.as_json() for row in evaluation.rows])
    if beside is not None:
        parts = {"raw": beside.raw, "untrained": beside.untrained}
        write_json(
            Path(folder) / _BASELINES,
            {name: [row.as_json() for row in rows] for name, rows in parts.items()},
        )


def read_evaluation(folder: str | Path) -> list[Row]:
    """The rows of a run.

    Raises:
        ValueError: when a row has not exactly the keys of `Row`.
        OSError: when the file is missing.
    """
    path = Path(folder) / _EVALUATION
    return [_row(entry, path) for entry in json.loads(path.read_text(encoding="utf-8"))]


def read_baselines(folder: str | Path) -> Baselines:
    """The baselines of a run; empty where none were measured."""
    path = Path(folder) / _BASELINES
    if not path.is_file():
        return Baselines()
    parts = json.loads(path.read_text(encoding="utf-8"))
    return Baselines(
        **{name: [_row(entry, path) for entry in parts[name]] for name in ("raw", "untrained")}
    )


def summary(folder: str | Path) -> list[tuple[str, str, str, str, str]]:
    """A run's headline figures as text: task, probe, encoder with its interval, untrained encoder, raw input.

    Where nothing has labels, those are the label-free ones that tell a collapsed encoder:
    `rank_share` and `spread`. Figures at low bits follow their float figure, with bits and
    calibration in the probe's place, with their difference from float in the interval's.
    """
    beside = read_baselines(folder)
    others = [_grouped(part) for part in (beside.untrained, beside.raw)]
    lines = []
    found = _grouped(read_evaluation(folder))
    headlines = {
        key
        for key in found
        if key[1].endswith("/top1") or (key[0] == "linear" and key[1].endswith("/map"))
    }
    headlines = headlines or {key for key in found if key[1] in _LABEL_FREE}
    for (probe, metric, how), rows in found.items():
        task, _, name = metric.rpartition("/")
        if (probe, metric, how) in headlines and not how:
            shown = [part.get((probe, metric, how)) for part in others]
            known = ["–" if part is None else f"{interval(part).mean:.3f}" for part in shown]
            shown_probe = name if metric in _LABEL_FREE else probe
            lines.append((task, shown_probe, _with_interval(rows), known[0], known[1]))
            for (variant, same, low), low_rows in found.items():
                if low and same == metric and variant in (probe, f"{probe}_ptq"):
                    lost, gained = (
                        found.get((variant, f"{task}/{side}", low)) for side in ("lost", "gained")
                    )
                    words = _with_interval(low_rows)
                    if lost and gained:
                        words = f"{interval(low_rows).mean:.3f} ({signed_interval(change(lost, gained))})"
                    lines.append((task, f"{variant} {low}", words, "", ""))
    kept = {how: rows for (_, metric, how), rows in found.items() if metric == "all/kept"}
    return lines + [
        ("all", f"neighbors kept {how}", _with_interval(rows), "", "") for how, rows in kept.items()
    ]


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """By probe, metric, and bits with their calibration, which is empty in float."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        how = "" if row.bits.is_float else f"{row.bits} {ptq_of(row)}"
        groups.setdefault((row.probe, row.metric, how), []).append(row)
    return groups


def ptq_of(row: Row) -> str:
    """How a row's encoder was quantized after training, `plain` or another; empty in float."""
    found = re.search(r"(?:^|; )ptq/\d+ (\S+)", row.protocol)
    return found[1] if found else ""


def signed(value: float) -> str:
    """A difference with its sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else "−") + f"{abs(value):.3f}"


def signed_interval(found: Interval) -> str:
    """A difference with half of its interval."""
    return f"{signed(found.mean)} ± {(found.high - found.low) / 2:.3f}"


def _with_interval(rows: Sequence[Row]) -> str:
    found = interval(rows)
    bounds = "" if math.isnan(found.low) else f" ({found.low:.3f} – {found.high:.3f})"
    return f"{found.mean:.3f}{bounds}"


def _row(entry: dict[str, Any], path: Path) -> Row:
    if set(entry) != _KEYS:
        raise ValueError(
            f"`{path}` was written by another version: a row has the keys {', '.join(sorted(entry))} "
            f"instead of {', '.join(sorted(_KEYS))}. Measure again with `mezzotint evaluate RUN`."
        )
    return Row.from_json(entry)
