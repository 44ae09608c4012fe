"""The verbs that try a recipe by short runs: coord-check, transfer-lr, check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mezzotint.cli.app import Arguments, Debug, Json, Quiet, app, print_table, recipe_of
from mezzotint.files import write_json
from mezzotint.recipe.schema import RecipeError

if TYPE_CHECKING:
    from mezzotint.runs.check import Outcome


RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a name from `mezzotint recipes`.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]…", help="Overrides, such as optimizer.lr=0.1."),
]
Widths = Annotated[
    str, typer.Option(help="Values of encoder.width, the base first, such as 64,128,256.")
]


@app.command(
    "coord-check",
    epilog="Example: `mezzotint coord-check image/emoji_simclr --widths 32,64,128`",
)
def coord_check(
    recipe: RecipeName,
    overrides: Overrides = None,
    widths: Widths = "32,64,128",
    depths: Annotated[
        str | None,
        typer.Option(help="Check values of encoder.depth instead, the base first, such as 2,4,8."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 1,
    steps: Annotated[int, typer.Option(help="Steps on one batch.", min=2)] = 4,
    out: Annotated[Path, typer.Option(help="Directory to write index.html and rows.json to.")] = (
        Path("coord-check")
    ),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check that no output of a recipe's network grows with its width, or its depth, in muP.

    The standard parametrization is the control, which must fail. Exits with 1 if the check fails.
    """
    from mezzotint.report.widths import write_coordinate_check
    from mezzotint.runs.widths import check_coordinates

    axis: Literal["width", "depth"] = "width" if depths is None else "depth"
    numbers = [int(n) for n in _numbers(widths if depths is None else depths, f"--{axis}s")]
    config = _from_scratch(recipe, overrides)
    check = check_coordinates(config, numbers, axis=axis, seeds=seeds, steps=steps)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "rows.json", dict(check.rows))
    page = write_coordinate_check(check, out / "index.html")
    if as_json:
        facts = {"passed": check.passed, "control_fails": check.has_power, "page": str(page)}
        typer.echo(json.dumps({**facts, "verdict": check.verdict()}))
    else:
        typer.echo(f"{check.verdict()}\n{page}")
    if not check.passed:
        raise typer.Exit(1)


@app.command(
    "transfer-lr",
    epilog="Example: `mezzotint transfer-lr image/emoji_simclr --widths 16,32 --rates 0.002,0.008`",
)
def transfer_lr(
    recipe: RecipeName,
    overrides: Overrides = None,
    widths: Widths = "32,64,128",
    rates: Annotated[str, typer.Option(help="Values of optimizer.lr, such as 0.01,0.02.")] = (
        "0.0005,0.001,0.002,0.004,0.008"
    ),
    seeds: Annotated[int, typer.Option(help="Repetitions.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Directory; a grid in it goes on.")] = (
        Path("transfer-lr")
    ),
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Tune the learning rate on narrow networks, and show that it suits wide ones in muP.

    Trains the recipe for its own epochs at each rate and width; finished cells are reused.
    """
    from mezzotint.report.widths import proposal, write_rate_transfer
    from mezzotint.runs.widths import PARAMETRIZATIONS, transfer_rates

    numbers = [int(n) for n in _numbers(widths, "--widths")]
    config = _from_scratch(recipe, overrides)
    silent = quiet or as_json
    transfer = transfer_rates(
        config, numbers, _numbers(rates, "--rates"), out, seeds=seeds,
        say=(lambda _: None) if silent else typer.echo,
    )  # fmt: skip
    page = write_rate_transfer(transfer, out / "index.html")
    if as_json:
        facts = {"lr": transfer.best("mup", numbers[0]), "base_width": numbers[0]}
        drift = {name: transfer.drift(name) for name in PARAMETRIZATIONS}
        typer.echo(json.dumps({**facts, "drift": drift, "page": str(page)}))
    elif not quiet:
        rows = [
            (str(width), *(f"{transfer.best(name, width):g}" for name in PARAMETRIZATIONS))
            for width in numbers
        ]
        print_table(("width", "best lr in muP", "best lr, standard"), rows)
        typer.echo(f"{proposal(transfer)}\n{page}")


def _from_scratch(recipe: str, overrides: list[str] | None) -> dict[str, Any]:
    """Read a recipe of one phase without a trained start, as networks of any width need it."""
    from mezzotint.recipe.recipe import read_plan

    plan = read_plan(recipe, overrides or ())
    first = plan.phases[0]
    starts = {"phases": plan.phases[1:], "load": first.load, "init": first.config.get("init")}
    for key, used in starts.items():
        if used:
            remedy = "Write the phase as a recipe" if key == "phases" else f"Set {key}=null"
            raise RecipeError(
                f"`{key}` cannot be combined with several widths: each network is trained from "
                f"scratch, in one phase. {remedy}."
            )
    return first.config


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    sizes = option in ("--widths", "--depths")
    if not numbers or min(numbers) <= 0.0 or (sizes and any(n != int(n) for n in numbers)):
        kind = "whole numbers" if sizes else "numbers"
        raise RecipeError(
            f"{option} must be positive {kind}, got {text!r}. Separate them by commas."
        )
    return numbers


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
