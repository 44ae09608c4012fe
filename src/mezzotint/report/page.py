"""`report.html`: everything a run says about its encoder, as one file.

What the run directory lacks, or what cannot be opened any more, is left out of the page, and the
page says so. Nothing is measured here that is compared with anything else: the figures are those of
`evaluation.json`.
"""

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import read_baselines, read_evaluation
from mezzotint.recipe.recipe import Recipe
from mezzotint.report.atlas import feature_sections, maps_section
from mezzotint.report.bits import bits_section, layers_section
from mezzotint.report.gallery import view_strips
from mezzotint.report.pictures import Picture, credit, drawable, drawn, plate
from mezzotint.report.plots import charts_of_runs, number, run_charts
from mezzotint.report.render import render, write_page
from mezzotint.report.results import (
    Comparison,
    collapse_words,
    compare,
    gain_words,
    lead,
    main_comparison,
    standing_words,
    tables,
)
from mezzotint.train.log import read_metrics

_STRIPS = 6
_PLATE = (6, 6)


def write_report(run: Path | str, beside: Sequence[Path | str] = ()) -> Path:
    """Write `RUN/report.html`.

    Args:
        run: the directory of a run; of what it should hold anything may be missing.
        beside: other runs, whose figures at low bits are drawn into the same charts.

    Returns:
        The page.

    Raises:
        ValueError: when there is no such directory, or it is not a run.
    """
    folder = Path(run)
    if not any(
        (folder / name).exists()
        for name in ("recipe.yaml", "metrics.jsonl", "encoder", "evaluation.json")
    ):
        raise ValueError(
            f"got {folder}, which holds no run; allowed is a directory that `mezzotint pretrain` wrote: check the path"
        )
    metrics = read_metrics(folder / "metrics.jsonl")
    environment = _environment(folder)
    measured, unread = _comparisons(folder)
    comparisons = [comparison for comparison in measured if comparison.bits.is_float]
    opened, closed = _open(folder)
    sections: dict[str, Any] = {
        "hero": _hero(folder, metrics, environment, comparisons, opened, [unread, closed]),
        "results": _results(comparisons),
        "making": _making(folder, metrics, environment),
    }
    sections["curves"], charts = _curves(folder, metrics)
    own = {folder.resolve().name: [row for comparison in measured for row in comparison.rows]}
    sections["layers"] = layers_section(folder)
    sections["bits"] = bits_section(own | _others(beside, own), first=len(charts))
    if sections["bits"] is not None:
        charts += [chart["points"] for key in ("charts", "rest") for chart in sections["bits"][key]]
    data: dict[str, Any] = {"charts": charts}
    if opened is not None:
        recipe, encoder = opened
        workers = recipe.run.loader.processes(recipe.data)
        layout, seed = recipe.run.log.map_layout, recipe.run.seed
        made, data["map"] = feature_sections(recipe.data, encoder, seed, workers, layout)
        sections |= made
        sections["maps"] = maps_section(folder, layout, seed)
        if drawable(recipe.data):
            sections["gallery"] = _views(recipe)
            sections["credit"] = credit(recipe.data)
    return write_page(
        folder / "report.html", render(title=folder.resolve().name, data=data, **sections)
    )


def _environment(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _comparisons(folder: Path) -> tuple[list[Comparison], str]:
    """The figures; or why there are none, where they were written but cannot be read."""
    if not (folder / "evaluation.json").is_file():
        return [], ""
    try:
        return compare(read_evaluation(folder), read_baselines(folder)), ""
    except (ValueError, OSError, KeyError, TypeError) as error:
        return [], f"The evaluation could not be read: {error}"


def _others(beside: Sequence[Path | str], taken: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows of other runs, by a name that no other has."""
    found: dict[str, list[Row]] = {}
    for path in map(Path, beside):
        if not (path / "evaluation.json").is_file():
            raise ValueError(
                f"got --compare {path}, which has no evaluation.json; allowed is an evaluated run: "
                "mezzotint evaluate RUN makes it one"
            )
        name = path.resolve().name
        found[str(path) if name in taken or name in found else name] = read_evaluation(path)
    return found


def _open(folder: Path) -> tuple[tuple[Recipe, Encoder] | None, str]:
    """The run's recipe and encoder; or why the page has to do without pictures."""
    if not (folder / "recipe.yaml").exists() and not (folder / "encoder").exists():
        return None, ""  # the evaluation of a file, which never had any
    try:
        return (Recipe.load(folder), load_encoder(folder)), ""
    except (ValueError, OSError) as error:
        return (
            None,
            f"The data or the encoder could not be opened, so there are no pictures: {error}",
        )


def _hero(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    opened: tuple[Recipe, Encoder] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    gain = gain_words(main_comparison(comparisons))
    verdicts = [
        gain,
        standing_words(comparisons),
        collapse_words(comparisons),
        *((text, True) for text in warnings if text),
    ]
    facts = [
        ("trained in", _duration(environment.get("seconds"))),
        ("images a second", _number(_median(metrics, "images_per_second"))),
        ("parameters", _count(environment.get("parameters"))),
        ("features", "" if opened is None else str(opened[1].dim)),
        ("samples", _count(environment.get("samples"))),
        ("steps", _count(environment.get("steps"))),
    ]
    return {
        "run": folder.resolve().name,
        "lead": lead(comparisons),
        "verdicts": [verdict for verdict in verdicts if verdict],
        "facts": [(key, value) for key, value in facts if value],
        "plate": _plate(opened[0].data) if opened and drawable(opened[0].data) else None,
    }


def _plate(source: Source) -> Picture | None:
    """The ornament of the page: the run's own samples as a mezzotint."""
    rows, columns = _PLATE
    places = sorted({int(place) for place in torch.linspace(0, len(source) - 1, rows * columns)})
    samples = [x for _, x in (drawn(source, place) for place in places) if x is not None]
    return plate(samples, columns) if len(samples) >= columns else None


def _results(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    how = (
        "Features are frozen. Two baselines keep the figures honest: the input itself, and the same encoder before "
        "training. Settings are chosen on parts of the training samples, never on the test samples. Intervals are for "
        "the sampling of the test items (Wilson), and of the seeds where there are several."
    )
    if not comparisons:
        how = "This run has not been evaluated; mezzotint evaluate RUN does it, and writes this page again."
    return {"how": how, **tables(comparisons)}


def _curves(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    if (folder / "finetune.json").is_file():
        main, rest = charts_of_runs(
            {
                path.parent.name: read_metrics(path)
                for path in sorted(folder.glob("*-*/metrics.jsonl"))
            }
        )
        how = "The last weights are scored; nothing is chosen on the test samples."
        return {"how": how, "main": main, "rest": rest}, [chart.points for chart in (*main, *rest)]
    main, rest = run_charts(metrics)
    how = (
        "Online kNN is measured on a held-out part of the training samples, never on test samples."
    )
    if not any(chart.title.startswith("Online kNN") for chart in main):
        how = f"{len(metrics):,} {'line was' if len(metrics) == 1 else 'lines were'} logged."
    return {"how": how if metrics else "Nothing was logged.", "main": main, "rest": rest}, [
        chart.points for chart in (*main, *rest)
    ]


def _views(recipe: Recipe) -> dict[str, Any]:
    strips = view_strips(
        recipe.data, recipe.views, recipe.encoder.input, samples=_STRIPS, seed=recipe.run.seed
    )
    how = "As they were in the first epoch, before normalization. mezzotint gallery RUN shows more, with every parameter."
    return {"strips": strips, "full": False, "how": how}


def _making(
    folder: Path, metrics: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    known = {"command", "seconds", "parameters", "samples", "steps", "skipped_steps", "unreadable"}
    skipped = environment.get("skipped_steps") or []
    unreadable = environment.get("unreadable") or {}
    cost = [
        ("time", _duration(environment.get("seconds"))),
        ("images a second, median", _number(_median(metrics, "images_per_second"))),
        ("share of time waiting for data", _percent(_mean(metrics, "data_wait"))),
        ("share of time making views", _percent(_mean(metrics, "augment_share"))),
        ("a step by part, ms, medians of measured ones", _by_part(metrics, loader=False)),
        ("reading a batch by part, ms", _by_part(metrics, loader=True)),
        ("parameters of the encoder", _count(environment.get("parameters"))),
        ("steps", _count(environment.get("steps"))),
        (
            "steps left out, not finite",
            f"{len(skipped):,}" + (f": {', '.join(map(str, skipped[:20]))}" if skipped else ""),
        ),
        ("files that could not be read", f"{len(unreadable):,}"),
    ]
    return {
        "cost": [(key, value) for key, value in cost if value],
        "unreadable": _by_reason(unreadable),
        "environment": [
            (key, str(value)) for key, value in environment.items() if key not in known
        ],
        "command": environment.get("command", ""),
        "recipe": recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
    }


def _by_reason(unreadable: Mapping[str, str]) -> list[tuple[str, str]]:
    """How many files each reason has, and the first of them."""
    reasons = Counter(unreadable.values())
    first = {
        reason: [name for name, why in unreadable.items() if why == reason][:3]
        for reason in reasons
    }
    return [
        (
            f"{count:,}",
            f"{reason}: {', '.join(first[reason])}{' …' if count > len(first[reason]) else ''}",
        )
        for reason, count in reasons.most_common()
    ]


def _values(metrics: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [
        v for line in metrics if isinstance(v := line.get(key), (int, float)) and math.isfinite(v)
    ]


def _median(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return statistics.median(values) if (values := _values(metrics, key)) else None


def _mean(metrics: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return statistics.fmean(values) if (values := _values(metrics, key)) else None


def _by_part(metrics: Sequence[Mapping[str, Any]], *, loader: bool, most: int = 10) -> str:
    """Milliseconds of the parts that take longest (`timing.py`)."""
    keys = {key for line in metrics for key in line if key.startswith("time/")}
    own = {key for key in keys if key.startswith("time/loader/") == loader}
    found = sorted(
        ((_median(metrics, key) or 0.0, key.rpartition("/")[2].replace("_", " ")) for key in own),
        reverse=True,
    )
    rest = sum(seconds for seconds, _ in found[most:])
    shown = [*found[:most], *([(rest, f"{len(found) - most} others")] if rest else [])]
    return ", ".join(f"{name} {1e3 * seconds:.3g}" for seconds, name in shown)


def _number(value: float | None) -> str:
    return "" if value is None else number(value)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _count(value: int | None) -> str:
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,}".replace(",", "\u202f")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
