"""The page of a study: for each metric the intervals and paired differences of all arms."""

import math
from pathlib import Path
from typing import Any

from mezzotint._version import __version__
from mezzotint.report.render import template, write_page
from mezzotint.runs.compare import Cell, ComparisonTable

_WIDTH, _MARGIN = 240.0, 8.0
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1a18; --paper: #faf8f5; --rule: #d9d3ca; --mark: #bf3f2a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ece7e0; --paper: #191714; --rule: #453f37; --mark: #f0806a; } }
body { font: 16px/1.5 Georgia, serif; color: var(--ink); background: var(--paper); }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-weight: 400; } h2 { font-weight: 400; font-size: 1.2rem; margin: 2rem 0 .3rem; }
section { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; white-space: nowrap; }
th, td { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); }
th[scope=row] { font-weight: 400; } .reference th, .reference td { font-style: italic; }
.significant { font-weight: 700; } .axis { stroke: var(--rule); }
.bar { stroke: var(--mark); stroke-width: 2; } .mean { fill: var(--mark); }
.seed { fill: var(--ink); opacity: .5; }
.foot { color: var(--ink); opacity: .7; font-size: .85rem; }
"""


def write_study(table: ComparisonTable, out: Path) -> Path:
    """Write the page of a comparison table; it is a single file without scripts.

    Args:
        table: result of `compare` or `run_study`.
        out: file to write.
    """
    metrics = [_metric(table, index, column) for index, column in enumerate(table.columns)]
    page = template("study.html").render(
        title=table.title,
        reference=table.reference,
        metrics=metrics,
        left_out=table.left_out,
        style=_STYLE,
        version=__version__,
    )
    return write_page(out, page)


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
    def span(low: float, high: float, sign: str) -> str:
        return f"{low:{sign}.3f} – {high:{sign}.3f}" if math.isfinite(low) else "–"

    return {
        "seeds": len(cell.values),
        "mean": f"{cell.mean:.3f}",
        "interval": span(cell.low, cell.high, ""),
        "difference": f"{cell.difference:+.3f}" if math.isfinite(cell.difference) else "–",
        "difference_interval": span(cell.difference_low, cell.difference_high, "+"),
        "significant": cell.difference_low > 0 or cell.difference_high < 0,
    }
