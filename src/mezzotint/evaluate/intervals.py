"""95 % intervals of figures: over seeds, over test samples, or both.

Two things make a figure uncertain. Another seed gives another split, or another untrained encoder: Student's t over the
seeds' values. Other test samples would give another fraction: Wilson's interval of a binomial (JASA 1927). They are
independent, so their half-widths are added in quadrature. A probe whose seeds all agree is thus not shown as exact.
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
    items = re.search(r"\btest=(\d+)", rows[0].protocol)
    if items is None or int(items[1]) == 0 or rows[0].metric.rpartition("/")[2] not in _FRACTIONS:
        return Interval(mean, mean - over_seeds, mean + over_seeds)
    low, high = wilson(mean, int(items[1]))
    spread = 0.0 if math.isnan(over_seeds) else over_seeds
    return Interval(mean, mean - math.hypot(mean - low, spread), mean + math.hypot(high - mean, spread))
