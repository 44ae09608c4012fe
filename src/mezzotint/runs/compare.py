"""Comparison of runs: each metric with its interval, and its difference from a reference by seed.

Two runs of one seed share the order of the samples, the draws of the views and, for the same
architecture, the initial weights. So the difference is taken seed by seed, and its interval
(Student's, over seeds) leaves out the effect of the seed on both. It covers training, not the
choice of test samples, which are the same for all. Metrics are compared only where every run has
the same protocol; the others are listed.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import (
    Interval,
    interval,
    interval_words,
    main_metrics,
    read_baselines,
    read_evaluation,
    signed,
    student,
)
from mezzotint.evaluation.summary import ResultKey, grouped, named
from mezzotint.files import read_json, write_json, write_text
from mezzotint.runs.reuse import comparable
from mezzotint.runs.subject import read_run
from mezzotint.train.continued import read_outcome

BASELINES = {"untrained": "untrained", "hand-made features": "handmade", "raw input": "raw"}
"""Arms that no run trained, by the attribute of `Baselines`."""

_Results = Mapping[str, Mapping[int, Mapping[ResultKey, Row]]]


@dataclass(frozen=True)
class Cell:
    """One metric of one arm.

    Attributes:
        values: values by seed of the run.
        mean: their mean.
        low: lower end of the 95 % interval; NaN where it is unknown.
        high: upper end.
        difference: mean of the paired differences from the reference; NaN for the reference itself,
            or without a pair.
        difference_low: lower end of its 95 % interval.
        difference_high: upper end.
    """

    values: dict[int, float]
    mean: float
    low: float
    high: float
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan

    @property
    def interval(self) -> Interval:
        """The mean with its interval."""
        return Interval(self.mean, self.low, self.high)

    @property
    def difference_interval(self) -> Interval:
        """The difference with its interval."""
        return Interval(self.difference, self.difference_low, self.difference_high)


@dataclass(frozen=True)
class ComparisonTable:
    """Arms by metrics.

    Attributes:
        title: title of the comparison.
        reference: name of the arm that the others are compared with.
        columns: probe, setting where a probe has several, and metric of each column.
        arms: name → cells in the order of the columns; `None` where an arm has no such metric.
        left_out: metrics whose protocols differ between runs.
        seconds: mean training time of an arm's runs.
        notes: a sentence for each run whose encoder is its start.
    """

    title: str
    reference: str
    columns: list[str]
    arms: dict[str, list[Cell | None]]
    left_out: list[str]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)


def compare(
    arms: Mapping[str, Sequence[Path]], *, title: str = "Comparison", reference: str | None = None
) -> ComparisonTable:
    """Compare runs.

    Args:
        arms: evaluated runs by the name of their arm, which differ in their seed.
        title: title of the table.
        reference: name of an arm; by default the first.

    Raises:
        ValueError: for a run without evaluation, two runs of an arm with one seed, or an unknown
            reference.
    """
    if not arms or (reference is not None and reference not in arms):
        raise ValueError(
            f"`reference` must be an arm ({', '.join(arms) or 'there is none'}), got "
            f"{reference!r}. Leave it out for the first."
        )
    results = {name: {_seed(run): _rows(run) for run in runs} for name, runs in arms.items()}
    for name, runs in arms.items():
        if len(results[name]) < len(runs):
            raise ValueError(
                f"Arm {name!r} must have one run per seed, got {len(runs)} runs of "
                f"{len(results[name])} seeds. Leave out the repeated ones."
            )
    every = [run for runs in arms.values() for run in runs]
    names, left_out = _columns(results)
    columns = list(names)
    chosen = reference or next(iter(arms))
    cells: dict[str, list[Cell | None]] = {
        name: [_cell({seed: rows.get(column) for seed, rows in runs.items()}) for column in columns]
        for name, runs in results.items()
    }
    cells = {
        name: [
            _paired(cell, against) if name != chosen else cell
            for cell, against in zip(row, cells[chosen], strict=True)
        ]
        for name, row in cells.items()
    }
    for name, part in BASELINES.items():
        if found := _baseline(every, part):
            cells[name] = [
                _cell({row.seed: row for row in found.get(column, ())}) for column in columns
            ]
    seconds = {name: _seconds(runs) for name, runs in arms.items()}
    notes = [note for run in every if (note := _start_note(run))]
    return ComparisonTable(title, chosen, list(names.values()), cells, left_out, seconds, notes)


def arms_of(runs: Sequence[Path]) -> dict[str, list[Path]]:
    """Group runs that differ only in their seed into arms, each named after its first run."""
    groups: dict[str, list[Path]] = {}
    for run in runs:
        config = comparable(read_run(run))
        config["run"].pop("seed", None)
        config["data"].pop("seed", None)
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(run)
    return {members[0].resolve().name: members for members in groups.values()}


def _start_note(run: Path) -> str:
    outcome = read_outcome(run)
    if outcome is None or outcome.kept != "start":
        return ""
    return f"{run.resolve().name} is compared by its start, because {outcome.verdict}."


def _seed(run: Path) -> int:
    return int(read_run(run)["run"]["seed"])


def _rows(run: Path) -> dict[ResultKey, Row]:
    """Return the main metrics of a run, averaged over the probe's seeds."""
    if not (run / "evaluation.json").is_file():
        raise ValueError(f"`{run}` has no evaluation.json. Run `mezzotint evaluate {run}` first.")
    return {
        key: replace(
            rows[0], value=math.fsum(row.value for row in rows) / len(rows), seed=_seed(run)
        )
        for key, rows in _main(read_evaluation(run)).items()
    }


def _main(rows: Sequence[Row]) -> dict[ResultKey, list[Row]]:
    main = main_metrics(rows)
    return {
        key: own
        for key, own in grouped(rows).items()
        if (key.probe, key.metric) in main and key.probe != "majority"
    }


def _columns(results: _Results) -> tuple[dict[ResultKey, str], list[str]]:
    """Return the columns with their names, and the names of values without a common protocol.

    A column is one probe, metric, bit config and protocol. It must be that of every run which has
    this probe, metric and bit config at all.
    """
    runs = [rows for by_seed in results.values() for rows in by_seed.values()]
    every = list(dict.fromkeys(key for rows in runs for key in rows))
    having = Counter(what for rows in runs for what in {_what(key) for key in rows})
    kept = [key for key in every if sum(key in rows for rows in runs) == having[_what(key)]]
    left_out = dict.fromkeys(" ".join(filter(None, _what(k))) for k in every if k not in kept)
    return named(kept, metric=True), list(left_out)


def _what(key: ResultKey) -> tuple[str, str, str]:
    return key.probe, key.quantized, key.metric


def require_common_task(table: ComparisonTable) -> None:
    """Refuse a table whose arms share no value with the reference.

    Raises:
        ValueError: naming the first such arm, and the tasks of both.
    """
    if table.left_out:
        return  # the same tasks with other protocols, which the table names
    reference = table.arms[table.reference]
    for name, cells in table.arms.items():
        if name in (table.reference, *BASELINES):
            continue
        if not any(a is not None and b is not None for a, b in zip(reference, cells, strict=True)):
            own, others = (_tasks(table, row) for row in (cells, reference))
            raise ValueError(
                f"Runs must share a task to be compared: {name} has {own}, and {table.reference} "
                f"has {others}. Evaluate one on the other's data, or compare runs of one task."
            )


def _tasks(table: ComparisonTable, cells: Sequence[Cell | None]) -> str:
    columns = zip(table.columns, cells, strict=True)
    tasks = {column.rpartition(" ")[2].rpartition("/")[0] for column, cell in columns if cell}
    return ", ".join(sorted(tasks)) or "none with labels"


def _cell(rows: Mapping[int, Row | None]) -> Cell | None:
    known = {seed: row for seed, row in rows.items() if row is not None}
    if not known:
        return None
    estimate = interval(list(known.values()))
    values = {seed: row.value for seed, row in known.items()}
    return Cell(values, estimate.mean, estimate.low, estimate.high)


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


def _baseline(runs: Sequence[Path], part: str) -> dict[ResultKey, list[Row]]:
    """Return a baseline of the first run that has it; all share its data and its architecture."""
    found = (_main(getattr(read_baselines(run), part)) for run in runs)
    return next((groups for groups in found if groups), {})


def _seconds(runs: Sequence[Path]) -> float:
    times = []
    for run in runs:
        try:
            times.append(float(read_json(run / "environment.json")["seconds"]))
        except (OSError, ValueError, KeyError):
            continue
    return math.fsum(times) / len(times) if times else math.nan


def as_markdown(table: ComparisonTable) -> str:
    """Write the table as Markdown: mean, interval and difference per arm and metric.

    A row is an arm, or a metric where there are more metrics than arms.
    """
    lines = [
        f"# {table.title}",
        "",
        f"Differences are from {table.reference}, paired by seed; intervals are 95 %.",
        "",
    ]
    rows = [("arm", "seeds", "seconds", *table.columns)]
    for name, cells in table.arms.items():
        seeds = max((len(cell.values) for cell in cells if cell is not None), default=0)
        time = table.seconds.get(name, math.nan)
        shown = "–" if math.isnan(time) else f"{time:.0f}"
        rows.append((name, str(seeds), shown, *map(_words, cells)))
    if len(table.columns) > len(table.arms):
        rows = list(zip(*rows, strict=True))
    rows.insert(1, ("---",) * len(rows[0]))
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if table.left_out:
        lines += [
            "",
            f"Left out, because their protocols differ: {', '.join(table.left_out)}.",
        ]
    lines += [line for note in table.notes for line in ("", note)]
    return "\n".join(lines) + "\n"


def _words(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    text = f"{cell.mean:.3f}"
    if bounds := interval_words(cell.interval):
        text += f" ({bounds})"
    if not math.isnan(cell.difference):
        text += f"; {signed(cell.difference)}"
        if bounds := interval_words(cell.difference_interval, signed):
            text += f" ({bounds})"
    return text


def write_table(table: ComparisonTable, folder: Path) -> None:
    """Write `table.md` and `table.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", as_markdown(table))
    write_json(folder / "table.json", _finite(asdict(table)), sealed=True)


def _finite(value: Any) -> Any:
    """Replace numbers that are not finite by `None`, and keys by text."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
