"""What the verbs share: the application, and the options that mean the same everywhere."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mezzotint._version import __version__
from mezzotint.schema import RecipeError

app = typer.Typer(
    name="mezzotint",
    help="Pretrain encoders without labels, with quantization as the one idea. `mezzotint pretrain` runs the demo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]…", help="A recipe's name or file, and dotted overrides. Default: the demo."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, for scripts.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Clips = Annotated[int, typer.Option(help="Of each video, over whose features is averaged.")]
Crops = Annotated[int, typer.Option(help="Of each frame or image, over whose features is averaged.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]


def print_table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """A table for people, as wide as it is: figures that are cut off cannot be read."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, box=None)
    for line in lines:
        table.add_row(*line)
    Console(width=200).print(table)


def recipe_of(arguments: list[str] | None) -> tuple[str, list[str]]:
    """Split `[RECIPE] KEY=VALUE …`; without a recipe it is the demo's."""
    from mezzotint.train.recipe import DEMO

    given = list(arguments or ())
    name = given.pop(0) if given and "=" not in given[0] else DEMO
    wrong = next((word for word in given if "=" not in word), None)
    if wrong is not None:
        raise RecipeError(f"got {wrong!r} after the recipe; allowed are overrides such as run.epochs=20")
    return name, given


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
