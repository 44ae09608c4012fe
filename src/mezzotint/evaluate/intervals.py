"""95 % intervals of figures: over seeds, over test samples, or both.

Two things make a figure uncertain. Another seed gives another split, or another untrained encoder: Student's t over the
seeds' values. Other test samples would give another fraction: Wilson's interval of a binomial (JASA 1927). They are
independent, so their half-widths are added in quadrature. A probe whose seeds all agree is thus not shown as exact.

What quantization costs is measured on the samples and seeds that the float figure is measured on. Its interval is that
of paired proportions, and a fraction of the interval of either figure.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mezzotint.evaluate.evaluator import Row

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
    centre = (fraction + _Z**2 / (2 * count)) / shrink
    half = _Z * math.sqrt(fraction * (1.0 - fraction) / count + _Z**2 / (4 * count**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def paired(first: float, second: float, count: int) -> tuple[float, float]:
    """The interval of the difference of two fractions measured on the same `count` samples.

    Wald's with half a sample added to each of the four cells (Agresti and Min, Statistics in Medicine 24, 2005), so
    that two figures that agree on every sample are not shown as exact.

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
        t = _Z + (_Z**3 + _Z) / (4 * degrees) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * degrees**2)
    return t * math.sqrt(variance / len(values))


def interval(rows: Sequence[Row]) -> Interval:
    """The figure that these rows measure, one a seed.

    Args:
        rows: of one probe and metric. The number of test samples is read from the protocol's `test=`; it counts for
            `top1` and `top5`, which are fractions of samples.

    Raises:
        ValueError: without rows, or when they measure different things.
    """
    if len({(row.probe, row.metric, row.weight_bits, row.activation_bits) for row in rows}) != 1:
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
    return Interval(mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread))
