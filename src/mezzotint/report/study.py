"""The page of a study: for each metric the intervals and paired differences of all arms."""

import math
from pathlib import Path
from typing import Any

from mezzotint.evaluation.results import interval_words, signed
from mezzotint.report.render import render, write_page
from mezzotint.runs.compare import Cell, ComparisonTable

_WIDTH, _MARGIN = 240.0, 8.0


def write_study(table: ComparisonTable, out: Path) -> Path:
    """Write the page of a comparison table; it is a single file in the style of the report.

    Args:
        table: result of `compare` or `run_study`.
        out: file to write.
    """
    metrics = [_metric(table, index, column) for index, column in enumerate(table.columns)]
    study = {"reference": table.reference, "metrics": metrics, "left_out": table.left_out}
    study["notes"] = table.notes
    return write_page(out, render(title=table.title, study=study))


def _metric(table: ComparisonTable, index: int, column: str) -> dict[str, Any]:
    cells = {name: row[index] for name, row in table.arms.items()}
    known = [cell for cell in cells.values() if cell is not None]
    ends = [
        v
        for cell in known
        for v in (cell.low, cell.high, cell.mean, *cell.values.values())
        if math.isfinite(v)
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    scale = (_WIDTH - 2 * _MARGIN) / (high - low or 1.0)

    def at(value: float) -> float:
        return round(_MARGIN + (value - low) * scale, 1)

    lines = []
    for name, cell in cells.items():
        if cell is not None:
            lines.append(
                {
                    **_line(cell),
                    "name": name,
                    "reference": name == table.reference,
                    "bar": (at(cell.low), at(cell.high)) if math.isfinite(cell.low) else None,
                    "points": [at(value) for value in cell.values.values()],
                    "at": at(cell.mean),
                }
            )
    return {"title": column, "lines": lines, "low": f"{low:.3f}", "high": f"{high:.3f}"}


def _line(cell: Cell) -> dict[str, Any]:
    return {
        "seeds": len(cell.values),
        "mean": f"{cell.mean:.3f}",
        "interval": interval_words(cell.interval) or "–",
        "difference": signed(cell.difference),
        "difference_interval": interval_words(cell.difference_interval, signed) or "–",
        "significant": cell.difference_low > 0 or cell.difference_high < 0,
    }
