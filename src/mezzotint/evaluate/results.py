"""What an evaluation found; `evaluation.json` and `baselines.json`: written, read, and put side by side.

Plain JSON: a figure that is not a number is `null`, which reads back as NaN. Files are replaced whole, so a reader
never sees half of one.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mezzotint.evaluate.evaluator import Row
from mezzotint.evaluate.intervals import Interval, change, interval
from mezzotint.files import write_json
from mezzotint.types import Unreadable

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


def write_evaluation(folder: str | Path, evaluation: Evaluation, beside: Baselines | None = None) -> None:
    """Write a run's figures, and those of its baselines when they were measured."""
    write_json(Path(folder) / _EVALUATION, [_plain(row) for row in evaluation.rows])
    if beside is not None:
        parts = {"raw": beside.raw, "untrained": beside.untrained}
        write_json(Path(folder) / _BASELINES, {name: [_plain(row) for row in rows] for name, rows in parts.items()})


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
    return Baselines(**{name: [_row(entry, path) for entry in parts[name]] for name in ("raw", "untrained")})


def summary(folder: str | Path) -> list[tuple[str, str, str, str, str]]:
    """A run's headline figures as text: task, probe, encoder with its interval, untrained encoder, raw input.

    Where nothing has labels, those are the label-free ones that tell a collapsed encoder: `rank_share` and `spread`.
    Figures at low bits follow their float figure, with bits and calibration in the probe's place, with their
    difference from float in the interval's.
    """
    beside = read_baselines(folder)
    others = [_grouped(part) for part in (beside.untrained, beside.raw)]
    lines = []
    found = _grouped(read_evaluation(folder))
    headlines = {key for key in found if key[1].endswith("/top1") or (key[0] == "linear" and key[1].endswith("/map"))}
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
                    lost, gained = (found.get((variant, f"{task}/{side}", low)) for side in ("lost", "gained"))
                    words = _with_interval(low_rows)
                    if lost and gained:
                        words = f"{interval(low_rows).mean:.3f} ({signed_interval(change(lost, gained))})"
                    lines.append((task, f"{variant} {low}", words, "", ""))
    kept = {how: rows for (_, metric, how), rows in found.items() if metric == "all/kept"}
    return lines + [("all", f"neighbours kept {how}", _with_interval(rows), "", "") for how, rows in kept.items()]


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """By probe, metric, and bits with their calibration, which is empty in float."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        low = (row.weight_bits, row.activation_bits) != (32, 32)
        how = f"{row.weight_bits}/{row.activation_bits} {ptq_of(row)}" if low else ""
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


def _plain(row: Row) -> dict[str, Any]:
    value = row.value if math.isfinite(row.value) else None
    return asdict(row) | {"value": value}


def _row(entry: dict[str, Any], path: Path) -> Row:
    if set(entry) != _KEYS:
        raise ValueError(
            f"{path}: got a row with the keys {', '.join(sorted(entry))}; allowed are exactly "
            f"{', '.join(sorted(_KEYS))}: measure again with `mezzotint evaluate`"
        )
    value = math.nan if entry["value"] is None else float(entry["value"])
    return Row(**(entry | {"value": value}))
