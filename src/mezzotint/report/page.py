"""`report.html`: the results of a run as a single file.

Content that is missing in the run directory, or can no longer be opened, is left out, and the page
says so. All compared values come from `evaluation.json`; the page itself measures none of them.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.results import HANDMADE, read_baselines, read_evaluation, read_input_bits
from mezzotint.files import read_json
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.recipe import Recipe
from mezzotint.report import finetuning
from mezzotint.report.atlas import feature_sections, maps_section
from mezzotint.report.bits import bits_section, inputs_section, layers_section
from mezzotint.report.exports import exports_section
from mezzotint.report.finetuning import compare_finetuned, is_finetuning
from mezzotint.report.gallery import view_strips
from mezzotint.report.headline import (
    after_start,
    collapse_words,
    lead,
    sides_words,
    standing_words,
)
from mezzotint.report.pictures import Picture, credit, drawable, drawn, plate
from mezzotint.report.plots import charts_of_runs, number, run_charts
from mezzotint.report.render import render, write_page
from mezzotint.report.results import (
    Comparison,
    compare_with_baselines,
    score,
    tables,
    unquantized,
)
from mezzotint.runs.subject import own_sections, recipe_of
from mezzotint.train.log import collapsed_at, read_metrics
from mezzotint.types import Input

_STRIPS = 6
_PLATE = (6, 6)


def write_report(
    run: Path | str,
    compare: Sequence[Path | str] = (),
    *,
    known: Mapping[str, Extraction] = MappingProxyType({}),
) -> Path:
    """Write `RUN/report.html`.

    Args:
        run: directory of a run; any of its files may be missing.
        compare: other runs, whose values at low bits are drawn into the same charts.
        known: features that an evaluation has extracted; see `Evaluation`.

    Returns:
        The path of the page.

    Raises:
        ValueError: when there is no such directory, or it is not a run.
    """
    folder = Path(run)
    if not any(
        (folder / name).exists()
        for name in ("recipe.yaml", "metrics.jsonl", "encoder", "evaluation.json")
    ):
        raise ValueError(
            f"`{folder}` is not a run. It must be a directory written by `mezzotint pretrain`. "
            "Check the path."
        )
    # A fine-tuning is several runs; cost and recipe are those of its first.
    described = next(iter(sorted(folder.glob("finetuned-*"))), folder)
    metrics = read_metrics(described / "metrics.jsonl")
    environment = _environment(described)
    measured, problem = _comparisons(folder)
    comparisons = unquantized(measured)
    opened, missing = _open(folder)
    sections: dict[str, Any] = {
        "hero": _hero(folder, metrics, environment, comparisons, opened, [problem, missing]),
        "results": _results(folder, comparisons, opened and opened[0].data.input),
        "reproduce": _reproduce(described, metrics, environment),
    }
    sections["curves"], charts = _curves(folder, metrics)
    own = {folder.resolve().name: [row for comparison in measured for row in comparison.rows]}
    sections["layers"] = layers_section(folder)
    sections["exports"] = exports_section(folder)
    sections["bits"] = bits_section(own | _others(compare, own), first=len(charts))
    if sections["bits"] is not None:
        charts += [chart["points"] for key in ("charts", "rest") for chart in sections["bits"][key]]
    sections["inputs"] = _inputs(folder, next(iter(own.values())), len(charts))
    charts += [chart["points"] for chart in (sections["inputs"] or {}).get("charts", ())]
    data: dict[str, Any] = {"charts": charts}
    if opened is not None:
        recipe, encoder = opened
        workers = recipe.run.loader.processes(recipe.data)
        layout, seed = recipe.run.log.map_layout, recipe.run.seed
        features, data["map"] = feature_sections(
            recipe.data,
            encoder,
            seed,
            workers,
            layout,
            untrained=recipe.untrained_encoder(0).eval(),
            known=known,
        )
        sections |= features
        sections["maps"] = maps_section(folder, layout, seed)
        if drawable(recipe.data):
            if "views" not in own_sections(folder):
                sections["gallery"] = _views(recipe)
            sections["credit"] = credit(recipe.data)
    return write_page(
        folder / "report.html", render(title=folder.resolve().name, data=data, **sections)
    )


def _environment(folder: Path) -> dict[str, Any]:
    try:
        environment = read_json(folder / "environment.json")
    except (OSError, ValueError):
        return {}
    return environment if isinstance(environment, dict) else {}


def _comparisons(folder: Path) -> tuple[list[Comparison], str]:
    """Return the results, or the reason why existing ones cannot be read."""
    if not (folder / "evaluation.json").is_file():
        return [], ""
    compare = compare_finetuned if is_finetuning(folder) else compare_with_baselines
    try:
        return compare(read_evaluation(folder), read_baselines(folder)), ""
    except (ValueError, OSError, KeyError, TypeError) as error:
        return [], f"The evaluation cannot be read: {error}"


def _inputs(folder: Path, rows: Sequence[Row], first: int) -> dict[str, Any] | None:
    """Return the section on the bits of the input, if they were measured."""
    try:
        return inputs_section(rows, read_input_bits(folder), first=first)
    except (OSError, ValueError):  # the page says above that the evaluation cannot be read
        return None


def _others(compare: Sequence[Path | str], taken: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Read the rows of other runs, each under a unique name."""
    others: dict[str, list[Row]] = {}
    for path in map(Path, compare):
        if not (path / "evaluation.json").is_file():
            raise ValueError(
                f"`--compare` must name evaluated runs, and `{path}` has no evaluation.json. Run "
                f"`mezzotint evaluate {path}` first."
            )
        name = path.resolve().name
        others[str(path) if name in taken or name in others else name] = read_evaluation(path)
    return others


def _open(folder: Path) -> tuple[tuple[Recipe, Encoder] | None, str]:
    """Open the recipe and the encoder, or return why the page has no pictures."""
    if not (folder / "recipe.yaml").exists() and not (folder / "encoder").exists():
        return None, ""  # the evaluation of an encoder file has neither
    try:
        encoder = load_encoder(folder)
        return (recipe_of(folder, encoder), encoder), ""
    except (ValueError, OSError) as error:
        return (
            None,
            f"There are no pictures, because the data or the encoder cannot be opened: {error}",
        )


def _hero(
    folder: Path,
    metrics: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    opened: tuple[Recipe, Encoder] | None,
    warnings: Sequence[str],
) -> dict[str, Any]:
    finetuned = is_finetuning(folder)
    frozen = finetuning.is_frozen([row for c in comparisons for row in c.rows])
    leading, warns = lead(comparisons)
    if finetuned:
        leading, warns = finetuning.headline(comparisons, frozen=frozen), False
    leading, warns, started = after_start(folder, leading, warns)
    verdicts = [
        *started,
        finetuning.verdict(comparisons) if finetuned else sides_words(comparisons),
        standing_words(comparisons),
        collapse_words(comparisons),
        *((f"The features had collapsed by step {step}.", True) for step in collapsed_at(metrics)),
        *((text, True) for text in warnings if text),
    ]
    largest = finetuning.largest_class(comparisons)
    facts = [
        ("training time", _duration(environment.get("seconds"))),
        ("samples per second", _number(_median(metrics, "images_per_second"))),
        ("parameters", _count(environment.get("parameters"))),
        ("feature dim", "" if opened is None else str(opened[1].dim)),
        ("samples", _count(environment.get("samples"))),
        ("steps", _count(environment.get("steps"))),
        ("always the largest class", score(largest) if math.isfinite(largest) else ""),
    ]
    return {
        "run": folder.resolve().name,
        "lead": leading,
        "warns": warns,
        "verdicts": [verdict for verdict in verdicts if verdict],
        "facts": [(key, value) for key, value in facts if value],
        "plate": _plate(opened[0].data) if opened and drawable(opened[0].data) else None,
    }


def _plate(source: Source) -> Picture | None:
    """Draw samples of the run in the style of a mezzotint print."""
    rows, columns = _PLATE
    indices = sorted({int(index) for index in torch.linspace(0, len(source) - 1, rows * columns)})
    samples = [x for _, x in (drawn(source, index) for index in indices) if x is not None]
    return plate(samples, columns) if len(samples) >= columns else None


def _results(
    folder: Path, comparisons: Sequence[Comparison], input: Input | None
) -> dict[str, Any]:
    content = tables(comparisons)
    legend = "".join(f" {mark.capitalize()}: {name}." for name, mark in content["baselines"])
    if is_finetuning(folder):
        frozen = finetuning.is_frozen([row for c in comparisons for row in c.rows])
        return {
            "title": "Results of the classifier" if frozen else "Results of fine-tuning",
            "how": finetuning.how(frozen=frozen),
            "own": "Classifier" if frozen else "Fine-tuned",
            "legend": f"Filled dot: {'the trained classifier' if frozen else 'fine-tuned'}, with "
            f"its interval.{legend}",
            **content,
        }
    known = [name for name, _ in content["baselines"]]
    words = modality_of(input).handmade if input is not None else ""
    made = f", hand-made features{f' ({words})' if words else ''}" if HANDMADE in known else ""
    how = (
        f"Baselines: the raw input{made}, and the same encoder before training, each measured by "
        "the same probes. Hyperparameters of the probes are chosen on training samples, never on "
        "test samples. Intervals are 95 %: Wilson's over test samples, plus Student's over seeds "
        "if there are several; of a difference, Newcombe's of both values."
    )
    if input is not None and not words:
        how += f" {modality_of(input).plural.capitalize()} have no hand-made features of their own."
    if not comparisons:
        how = "This run is not evaluated yet. mezzotint evaluate RUN adds the results to this page."
    return {
        "title": "Evaluation of the frozen features",
        "how": how,
        "own": "This encoder",
        "legend": f"Filled dot: this encoder, with its interval.{legend}",
        **content,
    }


def _curves(folder: Path, metrics: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    if is_finetuning(folder):
        main, rest = charts_of_runs(
            {
                path.parent.name: read_metrics(path)
                for path in sorted(folder.glob("*-*/metrics.jsonl"))
            }
        )
        how = "The final weights are scored; nothing is chosen on the test samples."
        return {"how": how, "main": main, "rest": rest}, [chart.points for chart in (*main, *rest)]
    main, rest = run_charts(metrics)
    how = "Online kNN uses held-out training samples, never test samples."
    if not any(chart.title.startswith("Online kNN") for chart in main):
        how = f"{len(metrics):,} {'step is' if len(metrics) == 1 else 'steps are'} logged."
    return {"how": how if metrics else "Nothing is logged.", "main": main, "rest": rest}, [
        chart.points for chart in (*main, *rest)
    ]


def _views(recipe: Recipe) -> dict[str, Any]:
    strips = view_strips(
        recipe.data, recipe.views, recipe.encoder.input, samples=_STRIPS, seed=recipe.run.seed
    )
    how = (
        "Views of the first epoch, before normalization. mezzotint gallery RUN shows more views "
        "and all of their parameters."
    )
    return {"strips": strips, "full": False, "how": how}


def _reproduce(
    folder: Path, metrics: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    known = {"command", "seconds", "parameters", "samples", "steps", "skipped_steps", "unreadable"}
    skipped = environment.get("skipped_steps") or []
    unreadable = environment.get("unreadable") or {}
    cost = [
        ("time", _duration(environment.get("seconds"))),
        ("samples per second, median", _number(_median(metrics, "images_per_second"))),
        ("time waiting for data", _percent(_mean(metrics, "data_wait"))),
        ("time making views", _percent(_mean(metrics, "augment_share"))),
        ("time per step by part, ms (median)", _by_part(metrics, loader=False)),
        ("time per batch of the loader by part, ms (median)", _by_part(metrics, loader=True)),
        ("encoder parameters", _count(environment.get("parameters"))),
        ("steps", _count(environment.get("steps"))),
        (
            "skipped steps (NaN or inf)",
            f"{len(skipped):,}" + (f": {', '.join(map(str, skipped[:20]))}" if skipped else ""),
        ),
        ("unreadable files", f"{len(unreadable):,}"),
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
    """Count the files of each reason, and name the first ones."""
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
    """List the slowest parts in milliseconds (see `timing.py`)."""
    keys = {key for line in metrics for key in line if key.startswith("time/")}
    own = {key for key in keys if key.startswith("time/loader/") == loader}
    parts = sorted(
        ((_median(metrics, key) or 0.0, key.rpartition("/")[2].replace("_", " ")) for key in own),
        reverse=True,
    )
    rest = sum(seconds for seconds, _ in parts[most:])
    shown = [*parts[:most], *([(rest, f"{len(parts) - most} others")] if rest else [])]
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
