"""Runs side by side: each figure with its interval, and its difference to a reference, paired by seed.

Two runs of one seed share the order of the samples, the draws of the views and, where the
architecture is the same, the initial weights. So the difference is taken seed by seed, and its
interval (Student's, over seeds) leaves out what the seed does to both. It covers training, not the
choice of test samples, which are the same for all. Figures are compared only where every run was
measured by the same protocol; others are named and left out.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import interval, read_baselines, read_evaluation, student
from mezzotint.files import write_json, write_text
from mezzotint.recipe.recipe import read_recipe
from mezzotint.runs.reuse import comparable

_MEASURES = ("top1", "map")


@dataclass(frozen=True)
class Cell:
    """A figure of one arm.

    Attributes:
        values: by seed of the run.
        mean: of them.
        low: end of the 95 % interval; NaN where nothing is known.
        high: the other end.
        difference: mean of the paired differences to the reference; NaN for the reference itself,
            or without a pair.
        difference_low: end of its 95 % interval.
        difference_high: the other end.
    """

    values: dict[int, float]
    mean: float
    low: float
    high: float
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan


@dataclass(frozen=True)
class ComparisonTable:
    """Arms by figures.

    Attributes:
        title: of the comparison.
        reference: the arm that the others are compared with.
        columns: probe and metric of each figure.
        arms: name → figures, in the order of the columns; `None` where an arm was not measured so.
        left_out: figures whose protocols differ between runs.
        seconds: mean training time of an arm's runs.
    """

    title: str
    reference: str
    columns: list[str]
    arms: dict[str, list[Cell | None]]
    left_out: list[str]
    seconds: dict[str, float]


def compare(
    arms: Mapping[str, Sequence[Path]], *, title: str = "Comparison", reference: str | None = None
) -> ComparisonTable:
    """Put runs side by side.

    Args:
        arms: evaluated runs by the name of what they have in common; they differ in their seed.
        title: of the table.
        reference: name of an arm; by default the first.

    Raises:
        ValueError: when a run was not evaluated, two runs of an arm have one seed, or there is no
            such arm.
    """
    if not arms or (reference is not None and reference not in arms):
        raise ValueError(
            f"got reference={reference!r}; allowed: {', '.join(arms) or 'no arms, none was given'}"
        )
    found = {name: {_seed(run): _rows(run) for run in runs} for name, runs in arms.items()}
    for name, runs in arms.items():
        if len(found[name]) < len(runs):
            raise ValueError(
                f"{name}: got {len(runs)} runs of {len(found[name])} seeds; allowed is one run a seed"
            )
    untrained = _untrained([run for runs in arms.values() for run in runs])
    columns, left_out = _columns(found)
    chosen = reference or next(iter(arms))
    cells: dict[str, list[Cell | None]] = {
        name: [_cell({seed: rows.get(column) for seed, rows in runs.items()}) for column in columns]
        for name, runs in found.items()
    }
    cells = {
        name: [
            _paired(cell, against) if name != chosen else cell
            for cell, against in zip(row, cells[chosen], strict=True)
        ]
        for name, row in cells.items()
    }
    if untrained:
        cells["untrained"] = [
            _cell({row.seed: row for row in untrained.get(column, ())}) for column in columns
        ]
    seconds = {name: _seconds(runs) for name, runs in arms.items()}
    return ComparisonTable(title, chosen, columns, cells, left_out, seconds)


def arms_of(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Runs grouped by their recipe: those that differ in nothing but the seed are one arm, named after the first."""
    groups: dict[str, list[Path]] = {}
    for run in runs:
        config = comparable(read_recipe(run))
        config["run"].pop("seed", None)
        config["data"].pop("seed", None)
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return {members[0].resolve().name: members for members in groups.values()}


def _seed(run: Path) -> int:
    return int(read_recipe(run)["run"]["seed"])


def _rows(run: Path) -> dict[str, Row]:
    """The figures of a run by column; those of several seeds of a probe are averaged, and carry the run's seed."""
    if not (run / "evaluation.json").is_file():
        raise ValueError(
            f"got {run}, which has no evaluation.json; allowed is an evaluated run: mezzotint evaluate {run}"
        )
    grouped: dict[str, list[Row]] = {}
    for row in read_evaluation(run):
        if row.metric.rpartition("/")[2] in _MEASURES and row.probe != "majority":
            grouped.setdefault(_column(row), []).append(row)
    return {
        column: replace(
            rows[0], value=math.fsum(row.value for row in rows) / len(rows), seed=_seed(run)
        )
        for column, rows in grouped.items()
    }


def _column(row: Row) -> str:
    bits = "" if row.bits.is_float else f" {row.bits}"
    return f"{row.probe}{bits} {row.metric}"


def _columns(found: Mapping[str, Mapping[int, Mapping[str, Row]]]) -> tuple[list[str], list[str]]:
    """The figures in the order of their first appearance, and those whose protocols differ."""
    protocols: dict[str, set[Protocol]] = {}
    for runs in found.values():
        for rows in runs.values():
            for column, row in rows.items():
                protocols.setdefault(column, set()).add(row.protocol)
    return [c for c, known in protocols.items() if len(known) == 1], [
        c for c, k in protocols.items() if len(k) > 1
    ]


def _cell(rows: Mapping[int, Row | None]) -> Cell | None:
    known = {seed: row for seed, row in rows.items() if row is not None}
    if not known:
        return None
    found = interval(list(known.values()))
    return Cell({seed: row.value for seed, row in known.items()}, found.mean, found.low, found.high)


def _paired(cell: Cell | None, against: Cell | None) -> Cell | None:
    if cell is None or against is None:
        return cell
    shared = sorted(cell.values.keys() & against.values.keys())
    if not shared:
        return cell
    differences = [cell.values[seed] - against.values[seed] for seed in shared]
    mean = math.fsum(differences) / len(differences)
    half = student(differences) if len(differences) > 1 else math.nan
    return replace(cell, difference=mean, difference_low=mean - half, difference_high=mean + half)


def _untrained(runs: Sequence[Path]) -> dict[str, list[Row]]:
    """The untrained encoders of the first run that has some: the same architecture is assumed to be everyone's."""
    for run in runs:
        rows = [
            row
            for row in read_baselines(run).untrained
            if row.metric.rpartition("/")[2] in _MEASURES
        ]
        if rows:
            grouped: dict[str, list[Row]] = {}
            for row in rows:
                grouped.setdefault(_column(row), []).append(row)
            return grouped
    return {}


def _seconds(runs: Sequence[Path]) -> float:
    times = []
    for run in runs:
        try:
            times.append(
                float(json.loads((run / "environment.json").read_text(encoding="utf-8"))["seconds"])
            )
        except (OSError, ValueError, KeyError):
            continue
    return math.fsum(times) / len(times) if times else math.nan


def as_markdown(table: ComparisonTable) -> str:
    """The table as Markdown: a line an arm; in each cell the mean, its interval, and the paired difference."""
    lines = [
        f"# {table.title}",
        "",
        f"Differences are to {table.reference}, paired by seed; intervals are of 95 %.",
        "",
    ]
    lines.append("| arm | seeds | seconds | " + " | ".join(table.columns) + " |")
    lines.append("|---" * (3 + len(table.columns)) + "|")
    for name, cells in table.arms.items():
        seeds = max((len(cell.values) for cell in cells if cell is not None), default=0)
        time = table.seconds.get(name, math.nan)
        shown = "–" if math.isnan(time) else f"{time:.0f}"
        lines.append(f"| {name} | {seeds} | {shown} | " + " | ".join(map(_words, cells)) + " |")
    if table.left_out:
        lines += [
            "",
            f"Left out, as their protocols differ between runs: {', '.join(table.left_out)}.",
        ]
    return "\n".join(lines) + "\n"


def _words(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{cell.mean:.3f}"
    if not math.isnan(cell.low):
        text += f" ({cell.low:.3f} – {cell.high:.3f})"
    if not math.isnan(cell.difference):
        text += f"; {cell.difference:+.3f}"
        if not math.isnan(cell.difference_low):
            text += f" ({cell.difference_low:+.3f} – {cell.difference_high:+.3f})"
    return text


def write_table(table: ComparisonTable, folder: Path) -> None:
    """Write `table.md` and `table.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", as_markdown(table))
    write_json(folder / "table.json", _finite(asdict(table)))


def _finite(value: Any) -> Any:
    """Numbers that are not finite as `null`; keys as text."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
