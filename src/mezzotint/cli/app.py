"""What the verbs share: the application, and the options that mean the same everywhere.

The end of every command: its exit code, and one line for what went wrong.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint._version import __version__
from mezzotint.recipe.schema import RecipeError

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
        metavar="[RECIPE] [KEY=VALUE]…",
        help="A recipe's name or file, and dotted overrides. Default: the demo.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object a line on stdout, for scripts.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Clips = Annotated[int, typer.Option(help="Of each video, over whose features is averaged.")]
Crops = Annotated[
    int, typer.Option(help="Of each frame or image, over whose features is averaged.")
]
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
    from mezzotint.recipe.recipe import DEMO

    given = list(arguments or ())
    name = given.pop(0) if given and "=" not in given[0] else DEMO
    wrong = next((word for word in given if "=" not in word), None)
    if wrong is not None:
        raise RecipeError(
            f"got {wrong!r} after the recipe; allowed are overrides such as run.epochs=20"
        )
    return name, given


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Errors are one line; 2 is bad input, 1 a failure, 130 and 143 a stop that saved."""
    # OpenMP's threads spin while they wait: ruinous beside another program, and slow alone if they
    # never do. A short spin is good in both cases (docs/log.md has the figures). It is read when
    # torch is loaded, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.exit(_guarded(lambda: app(standalone_mode=False)))


def _guarded(action: Callable[[], Any]) -> int:
    try:
        code = action()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is not None:  # of the command line's parser, whose classes typer does not export
            if type(error).__name__ == "NoArgsIsHelpError":
                return 0  # the help is already on the screen
            return _fail(" ".join(message().split()), 2)
        if "--debug" in sys.argv:
            raise
        number = getattr(error, "number", None)
        if isinstance(number, int):  # Interrupted, told apart without importing torch
            return _fail("stopped, and saved: go on with --resume and the same --out", 128 + number)
        text = " ".join(str(error).split()) or type(error).__name__
        code = getattr(error, "exit_code", None)
        if isinstance(
            code, int
        ):  # a refusal, told apart in the same way: the message says all there is
            return _fail(text, code)
        if isinstance(error, ValueError):
            return _fail(text, 2)
        return _fail(
            text
            if isinstance(error, OSError)
            else f"{type(error).__name__}: {text} (--debug shows where)",
            1,
        )


def _fail(message: str, code: int) -> int:
    print(f"mezzotint: {message}", file=sys.stderr)
    return code
