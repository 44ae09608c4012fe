"""Verbs about many runs: compare, study."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzotint.cli.app import Debug, Json, Quiet, app

if TYPE_CHECKING:
    from mezzotint.study.compare import Table


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Evaluated runs; the first is the reference.")],
    out: Annotated[Path, typer.Option(help="Directory for table.md, table.json and index.html.")] = Path("comparison"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put runs side by side, with intervals and differences; runs that differ in their seed alone are one arm."""
    from mezzotint.study.compare import arms_of, write_table
    from mezzotint.study.compare import compare as put

    table = put(arms_of(runs))
    write_table(table, out)
    _show(table, out, as_json)


@app.command()
def study(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A study file, or the name of a shipped one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Of every run, such as run.epochs=5.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the study. Default: studies/NAME.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds 0 to N − 1 instead of the file's.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; train nothing.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a grid of recipes with several seeds, and compare them; what is finished is used again."""
    from mezzotint.study.grid import read_study, run_study

    plan = read_study(file, overrides or (), range(seeds) if seeds else ())
    folder = out or Path("studies") / Path(file).stem
    if dry_run:
        for name, own in plan.arms.items():
            typer.echo(f"{name:32}  {' '.join(own)}")
        typer.echo(f"{len(plan.arms) * len(plan.seeds)} runs: {len(plan.arms)} arms, seeds {plan.seeds}, in {folder}")
        return
    silent = quiet or as_json
    table = run_study(plan, folder, say=(lambda _: None) if silent else typer.echo)
    if not quiet:
        _show(table, folder, as_json)


def _show(table: "Table", folder: Path, as_json: bool) -> None:
    from mezzotint.report.study import write_study
    from mezzotint.study.compare import as_markdown

    page = write_study(table, folder / "index.html")
    if as_json:
        content = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({**content, "page": str(page)}))
    else:
        typer.echo(f"{as_markdown(table)}\n{page}")
