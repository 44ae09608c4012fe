"""The results of an evaluation: `evaluation.json` and `baselines.json`, and 95 % intervals.

Values that are not finite are `null` in the files, and read back as NaN. Files are replaced whole,
so a reader never sees half of one.

Two things make a value uncertain. Another seed gives another split, or another untrained encoder:
Student's t over the seeds' values. Other test samples would give another fraction: Wilson's
interval of a binomial (JASA 1927). They are independent, so their half-widths are added in
quadrature; a probe whose seeds all agree is not shown as exact.

The cost of quantization is measured on the samples and seeds of the fp32 result. Its interval is
the one of paired proportions, which is narrower than the interval of either value.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.evaluation.probe import Row
from mezzotint.files import read_json, write_json
from mezzotint.types import Unreadable

if TYPE_CHECKING:
    from mezzotint.evaluation.features import Extraction

_Z = 1.959964
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 0.975 for 1 to 10 degrees of freedom."""

MAIN_METRICS = ("top1", "map")
"""What a task is judged by: accuracy, or mean average precision for tags."""

_FRACTIONS = ("top1", "top5")
_SETTINGS = ("penalty", "lr", "epochs", "gap")
"""What a probe chose or how far it was fitted; no estimate of anything, so without an interval."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; the bounds are NaN where the spread is unknown."""

    mean: float
    low: float
    high: float


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """Return the interval of a fraction measured on `count` independent samples."""
    shrink = 1.0 + _Z**2 / count
    center = (fraction + _Z**2 / (2 * count)) / shrink
    half = _Z * math.sqrt(fraction * (1.0 - fraction) / count + _Z**2 / (4 * count**2)) / shrink
    return max(0.0, center - half), min(1.0, center + half)


def paired(first: float, second: float, count: int) -> tuple[float, float]:
    """Return the interval of the difference of two fractions measured on the same samples.

    Wald's, with half a sample added to each of the four cells (Agresti and Min, Statistics in
    Medicine 24, 2005), so that two classifiers that agree on every sample are not shown as exact.

    Args:
        first: fraction of samples that only the first classifies correctly.
        second: fraction of samples that only the second classifies correctly.
        count: number of samples.

    Returns:
        Bounds of first − second.
    """
    b, c, n = first * count + 0.5, second * count + 0.5, count + 2.0
    half = _Z * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return max(-1.0, (b - c) / n - half), min(1.0, (b - c) / n + half)


def student(values: Sequence[float]) -> float:
    """Return half the width of the interval of the mean of two or more values."""
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
    """Return the mean of one metric over its seeds, with its interval.

    Args:
        rows: rows of one probe, metric and bits, one per seed. For `top1` and `top5`, which are
            fractions of samples, the number of test samples counts too. A setting that a probe
            chose, such as its penalty, has no interval.

    Raises:
        ValueError: without rows, or for rows of different metrics.
    """
    if len({(row.probe, row.metric, row.bits) for row in rows}) != 1:
        raise ValueError(
            f"An interval needs rows of one metric, got {len(rows)} rows of "
            f"{len({(row.probe, row.metric) for row in rows})}. Group them by probe, metric and "
            "bits."
        )
    values = [row.value for row in rows]
    mean = math.fsum(values) / len(values)
    measure = rows[0].metric.rpartition("/")[2]
    if measure in _SETTINGS:
        return Interval(mean, math.nan, math.nan)
    over_seeds = student(values) if len(values) > 1 else math.nan
    count = rows[0].protocol.test or 0
    if count == 0 or measure not in _FRACTIONS:
        return Interval(mean, mean - over_seeds, mean + over_seeds)
    return _widened(mean, wilson(mean, count), over_seeds)


def change(lost: Sequence[Row], gained: Sequence[Row]) -> Interval:
    """Return the difference of a metric at low bits from fp32, negative for a loss.

    Args:
        lost: fractions of test samples that only fp32 classifies correctly, one row per seed.
        gained: fractions that only low bits classify correctly, for the same seeds in the same
            order.

    Raises:
        ValueError: without rows, or when the seeds differ.
    """
    if not lost or [row.seed for row in lost] != [row.seed for row in gained]:
        raise ValueError(
            "A change needs one row of `lost` and one of `gained` per seed, in the same order, "
            f"got {len(lost)} and {len(gained)}. Group them by probe, metric and bits."
        )
    values = [after.value - before.value for before, after in zip(lost, gained, strict=True)]
    mean = math.fsum(values) / len(values)
    over_seeds = student(values) if len(values) > 1 else math.nan
    count = lost[0].protocol.test or 0
    if count == 0:
        return Interval(mean, mean - over_seeds, mean + over_seeds)
    first, second = (math.fsum(row.value for row in rows) / len(rows) for rows in (gained, lost))
    return _widened(mean, paired(first, second, count), over_seeds)


def difference(first: Interval, second: Interval) -> Interval:
    """Return first − second with its interval (Newcombe's hybrid, Statistics in Medicine 1998).

    Two encoders on the same test samples are more alike than independent ones, so the interval is
    wider than it needs to be. Its bounds are NaN where those of either value are.
    """
    mean = first.mean - second.mean
    return Interval(
        mean,
        mean - math.hypot(first.mean - first.low, second.high - second.mean),
        mean + math.hypot(first.high - first.mean, second.mean - second.low),
    )


def _widened(mean: float, bounds: tuple[float, float], over_seeds: float) -> Interval:
    """Add the interval over seeds, if there is one, to the interval over samples."""
    low, high = bounds
    spread = 0.0 if math.isnan(over_seeds) else over_seeds
    return Interval(
        mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread)
    )


def main_metrics(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """Return the main metric of each probe on each task, as pairs of probe and metric.

    That is `top1`; for tags, which have none, `map`.
    """
    measured: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        task, _, measure = row.metric.rpartition("/")
        measured.setdefault((row.probe, task), set()).add(measure)
    return {
        (probe, f"{task}/{main}")
        for (probe, task), measures in measured.items()
        if (main := next((m for m in MAIN_METRICS if m in measures), None)) is not None
    }


_EVALUATION, _BASELINES, _IDENTITY = "evaluation.json", "baselines.json", "evaluated_on.json"


@dataclass(frozen=True)
class Evaluation:
    """The results of one encoder.

    Attributes:
        rows: all results; `metric` is `TASK/METRIC`, and `all/METRIC` without a task.
        verdict: collapse or not, in words.
        bad: samples that could not be read and were left out.
        features: of `OWN`, `RAW` and `UNTRAINED`, for the report; not written.
    """

    rows: list[Row]
    verdict: str
    bad: tuple[Unreadable, ...] = ()
    features: Mapping[str, "Extraction"] = field(default_factory=dict, repr=False, compare=False)

    def with_protocol(self, **changes: Any) -> "Evaluation":
        """Return the results with some fields of every row's protocol changed."""
        return replace(self, rows=[row.with_protocol(**changes) for row in self.rows])


OWN, RAW, UNTRAINED = "this encoder", "raw input", "untrained encoder"
HANDMADE = "hand-made features"
"""Names of what is measured: the encoder and its baselines."""


@dataclass(frozen=True)
class Baselines:
    """The same metrics of the raw input, of untrained encoders (one row per seed), and by hand.

    Attributes:
        raw: metrics of the raw input.
        untrained: metrics of untrained encoders.
        handmade: metrics of hand-made features; none for modalities without.
    """

    raw: list[Row] = field(default_factory=list)
    untrained: list[Row] = field(default_factory=list)
    handmade: list[Row] = field(default_factory=list)

    def with_protocol(self, **changes: Any) -> "Baselines":
        """Return the baselines with some fields of every row's protocol changed."""
        parts = ([row.with_protocol(**changes) for row in rows] for rows in vars(self).values())
        return Baselines(*parts)


def results_directory(path: str | Path) -> Path:
    """Return the directory of the results: the run, or `x.evaluation` for `x.onnx` or `x.yaml`."""
    path = Path(path)
    return path.with_suffix(".evaluation") if path.suffix in (".onnx", ".yaml", ".yml") else path


def write_evaluation(
    folder: str | Path, evaluation: Evaluation, baselines: Baselines | None = None
) -> None:
    """Write a run's results, and its baselines if they were measured."""
    rows = [row.as_json() for row in evaluation.rows]
    write_json(Path(folder) / _EVALUATION, rows, sealed=True)
    if baselines is not None:
        write_json(
            Path(folder) / _BASELINES,
            {name: [row.as_json() for row in rows] for name, rows in vars(baselines).items()},
            sealed=True,
        )


def add_evaluation(
    folder: str | Path, evaluation: Evaluation, baselines: Baselines | None, identity: str
) -> None:
    """Write results next to earlier ones of the same encoder and data; others are replaced.

    Args:
        folder: directory of the files.
        evaluation: new results; they replace earlier ones of the same probe, metric, protocol, bits
            and seed.
        baselines: new baselines, likewise; `None` if they were not measured.
        identity: hash of encoder and data.
    """
    folder = Path(folder)
    rows, known = list(evaluation.rows), Baselines()
    try:
        same = read_json(folder / _IDENTITY) == identity
        if same:
            rows, known = _merged(_every_row(folder), rows), read_baselines(folder)
    except (OSError, ValueError):
        known = Baselines()  # nothing was measured, or by another version
    new = baselines or Baselines()
    both = Baselines(**{name: _merged(rows, vars(new)[name]) for name, rows in vars(known).items()})
    # Removed first, so that a reader of a half-written pair takes it for another encoder's.
    (folder / _IDENTITY).unlink(missing_ok=True)
    write_evaluation(folder, replace(evaluation, rows=rows), both)
    write_json(folder / _IDENTITY, identity, sealed=True)


def _merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Replace the rows that were measured again where they stand, and append the others."""
    rows = {replace(row, value=0.0): row for row in old}
    return list((rows | {replace(row, value=0.0): row for row in new}).values())


def read_evaluation(folder: str | Path) -> list[Row]:
    """Read the rows of a run, but for those of inputs quantized to some bits.

    Raises:
        ValueError: when another version wrote them.
        OSError: when the file is missing.
    """
    return [row for row in _every_row(folder) if row.protocol.input_bits is None]


def read_input_bits(folder: str | Path) -> list[Row]:
    """Read the rows of inputs quantized to some bits, as `read_evaluation` reads the others."""
    return [row for row in _every_row(folder) if row.protocol.input_bits is not None]


def _every_row(folder: str | Path) -> list[Row]:
    path = Path(folder) / _EVALUATION
    return _rows(read_json(path), path)


def read_baselines(folder: str | Path) -> Baselines:
    """Read the baselines of a run; empty where none were measured."""
    path = Path(folder) / _BASELINES
    if not path.is_file():
        return Baselines()
    parts = read_json(path)
    known = {part.name for part in fields(Baselines)}
    if not isinstance(parts, dict) or not parts.keys() <= known:
        raise _of_another_version(path, "it has other parts")
    return Baselines(**{name: _rows(rows, path) for name, rows in parts.items()})


def _rows(entries: Any, path: Path) -> list[Row]:
    try:
        return [Row.from_json(entry) for entry in entries]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _of_another_version(path, str(error)) from error


def _of_another_version(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"`{path}` was written by another version of mezzotint ({reason}). Measure again with "
        "`mezzotint evaluate RUN`."
    )


def signed(value: float) -> str:
    """Write a difference with its sign; a dash where it is not finite."""
    if not math.isfinite(value):
        return "–"
    return ("+" if value >= 0 else "−") + f"{abs(value):.3f}"


def signed_interval(difference: Interval) -> str:
    """Write a difference with half of its interval."""
    return f"{signed(difference.mean)} ± {(difference.high - difference.low) / 2:.3f}"


def interval_words(estimate: Interval, write: Callable[[float], str] = "{:.3f}".format) -> str:
    """Write the bounds of an interval; empty where the spread is unknown or nothing varied."""
    known = math.isfinite(estimate.low) and estimate.low < estimate.high
    return f"{write(estimate.low)} – {write(estimate.high)}" if known else ""
