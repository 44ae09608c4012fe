"""A verb about what a run's features tell of its views: invariances."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzotint.cli.app import Debug, Json, RunPath, app, print_table

if TYPE_CHECKING:
    from mezzotint.evaluate.evaluator import Row
    from mezzotint.evaluate.results import Baselines


@app.command()
def invariances(
    run: RunPath,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Of the views, such as views.policy.kind=mocov2; default: its own."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="How many samples, of which half are held out.")] = 2000,
    seeds: Annotated[int, typer.Option(help="Repeats, each with an untrained encoder of its own.", min=1)] = 3,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tell which invariances a run learned: how well what was drawn for a view can be predicted from its features."""
    from mezzotint.report.page import write_report
    from mezzotint.train.invariances import measure_invariances

    rows, beside = measure_invariances(run, overrides or (), samples=samples, seeds=seeds)
    table = _table(rows, beside)
    page: Path = write_report(run)
    if as_json:
        typer.echo(json.dumps({"invariances": table, "report": str(page)}))
        return
    lines = [
        (
            str(line["parameter"]),
            str(line["measure"]),
            *("–" if line[key] is None else f"{line[key]:.3f}" for key in ("encoder", "untrained", "raw")),
        )
        for line in table
    ]
    print_table(("drawn parameter", "measure", "encoder", "untrained", "raw input"), lines)
    typer.echo(f"report: {page}")


def _table(rows: "list[Row]", beside: "Baselines") -> list[dict[str, str | float | None]]:
    """Means over the seeds, a line a parameter."""

    def mean(among: "list[Row]", metric: str) -> float | None:
        values = [row.value for row in among if row.metric == metric and row.probe == "invariance"]
        return sum(values) / len(values) if values else None

    lines: list[dict[str, str | float | None]] = []
    for metric in dict.fromkeys(row.metric for row in rows):
        name, _, measure = metric.removeprefix("views/").rpartition(".")
        figures = {"encoder": rows, "untrained": beside.untrained, "raw": beside.raw}
        lines.append({"parameter": name, "measure": measure, **{k: mean(v, metric) for k, v in figures.items()}})
    return lines
