"""The verb that checks a recipe on the user's machine: check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mezzotint.cli.app import Arguments, Debug, Json, Quiet, app, recipe_of

if TYPE_CHECKING:
    from mezzotint.runs.check import Outcome


@app.command(epilog="Example: `mezzotint check image/emoji_simclr --checks resumed,compiled`")
def check(
    arguments: Arguments = None,
    checks: Annotated[
        str | None,
        typer.Option(
            help="Checks to make, such as ranks,resumed; of ranks, micro_batches, resumed, "
            "compiled, precision, workers, exported, nan. Default: all."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of each check.", min=2)] = 6,
    ranks: Annotated[int, typer.Option(help="Processes of the check of ranks.", min=2)] = 2,
    out: Annotated[Path, typer.Option(help="Directory to write index.html and check.json to.")] = (
        Path("check")
    ),
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check that a recipe trains the same on several processes, resumed, compiled and exported.

    Of a recipe with phases, the first one is checked. Exits with 1 if a check fails.
    """
    from mezzotint.recipe.recipe import read_plan
    from mezzotint.recipe.schema import require_paths

    name, overrides = recipe_of(arguments)
    config = read_plan(name, overrides).phases[0].config
    require_paths(config["data"])
    from mezzotint.report.check import WORDS, verdict, write_check
    from mezzotint.runs.check import CHECKS
    from mezzotint.runs.check import check as make_checks

    def say(outcome: "Outcome") -> None:
        if as_json:
            typer.echo(json.dumps(vars(outcome)))
        elif not quiet:
            allowed = f", allowed {outcome.tolerance}" if outcome.tolerance else ""
            typer.echo(
                f"{WORDS[outcome.verdict]:17} {outcome.check:14} {outcome.found}{allowed} "
                f"({outcome.seconds:.0f} s)"
            )

    names = tuple(CHECKS) if checks is None else tuple(checks.split(","))
    outcomes = make_checks(config, out, checks=names, steps=steps, ranks=ranks, say=say)
    page = write_check(outcomes, name, out / "index.html")
    if as_json:
        typer.echo(json.dumps({"verdict": verdict(outcomes), "page": str(page)}))
    elif not quiet:
        typer.echo(f"{verdict(outcomes)}\n{page}")
    if any(outcome.verdict == "fail" for outcome in outcomes):
        raise typer.Exit(1)
