"""What the verbs share: the application, common options, and the end of every command.

A command ends with its exit code, and with one line on stderr when something went wrong.
"""

import errno
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from mezzotint._version import __version__
from mezzotint.files import shown
from mezzotint.memory import keep_freed_memory
from mezzotint.recipe.schema import RecipeError

app = typer.Typer(
    name="mezzotint",
    help="Pretrain encoders without labels; quantize, evaluate and export them. "
    "`mezzotint pretrain` runs the demo.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def complete_recipe(incomplete: str) -> list[str]:
    """Return the shipped recipes that begin with a word, for the completion of shells."""
    from mezzotint.recipe.reading import shipped

    return [name for name in shipped() if name.startswith(incomplete)]


Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        autocompletion=complete_recipe,
        metavar="[RECIPE] [KEY=VALUE]…",
        help="A recipe's name or file, and overrides such as run.epochs=20. Default: the demo.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, for scripts.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Clips = Annotated[int, typer.Option(help="Clips per video; features are averaged.")]
Crops = Annotated[int, typer.Option(help="Crops per image or frame; features are averaged.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The directory of a run.")]
EncoderPath = Annotated[
    Path,
    typer.Argument(metavar="ENCODER", help="A run, a saved or imported encoder, or an ONNX file."),
]


Data = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DATA] [KEY=VALUE]…",
        help="A folder, a file or embedded data's name; overrides such as data.window=64. "
        "Default: the run's data.",
    ),
]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OVERRIDE = re.compile(r"[a-z_]+(\.\w+)+=")


def say(mode: str, text: str, data: dict[str, Any]) -> None:
    """Print a message, in the mode `json` its data, and in the mode `quiet` nothing."""
    if mode != "quiet":
        typer.echo(json.dumps(data) if mode == "json" else text)


def print_table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table for people, in full width: a number that is cut off cannot be read."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*headers, box=None)
    for line in lines:
        table.add_row(*line)
    Console(width=200).print(table)


def recipe_of(arguments: list[str] | None) -> tuple[str, list[str]]:
    """Split `[RECIPE] KEY=VALUE …` into the recipe (by default the demo) and the overrides."""
    from mezzotint.recipe.reading import DEMO

    given = list(arguments or ())
    name = given.pop(0) if given and "=" not in given[0] else DEMO
    extra = next((word for word in given if "=" not in word), None)
    if extra is not None:
        raise RecipeError(
            f"Only overrides may follow the recipe, got {extra!r}. "
            "Write KEY=VALUE, such as run.epochs=20."
        )
    return name, given


def data_of(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """Split `[DATA] KEY=VALUE …` into the data, if it is named, and the overrides."""
    given = list(arguments or ())
    # A path may contain an equals sign; a key begins with its section.
    name = None if not given or _OVERRIDE.match(given[0]) else given.pop(0)
    extra = next((word for word in given if not _OVERRIDE.match(word)), None)
    if extra is not None:
        raise RecipeError(
            f"Only overrides may follow the data, got {extra!r}. "
            "Write KEY=VALUE, such as data.window=64."
        )
    return name, given


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line, and exit."""
    # OpenMP's threads spin while they wait: this ruins other programs on the machine, and a run
    # alone is slow if they never spin. A short spin is good in both cases (measured in
    # docs/log.md). OpenMP reads it when torch is loaded, which is later.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()
    sys.stdout, sys.stderr = tolerant(sys.stdout), tolerant(sys.stderr)
    code = run()
    sys.exit(_with_lost_output(code, (sys.stdout, sys.stderr)))


class _Output(io.FileIO):
    """Standard output or error. What cannot be written is dropped, and the command goes on.

    Nobody may read the pipe any more, the terminal may be gone, or the disk of a log full.
    """

    error = 0

    def write(self, data: Any) -> int:
        if not self.error:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error.errno or errno.EIO
        return memoryview(data).nbytes


def tolerant(stream: TextIO | None) -> TextIO:
    """Return a stream that writes where another one does, and never raises.

    Args:
        stream: standard output or error; `None` where the shell has closed it. One without a file
            descriptor, such as a notebook's, is returned as it is.
    """
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        raw = _Output(stream.fileno(), "w", closefd=False)
    except io.UnsupportedOperation:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through or raw.fileno() == 2,
    )  # fmt: skip


def _with_lost_output(code: int, streams: Iterable[TextIO]) -> int:
    """Say that a disk behind the output was full, and return the exit code."""
    for stream in streams:
        stream.flush()
        lost = getattr(getattr(getattr(stream, "buffer", None), "raw", None), "error", 0)
        if lost in _FULL and code == 0:
            text = f"The output could not be written ({os.strerror(lost)}). Free some space."
            return _fail(text, 1)
    return code


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error is one line on stderr.

    Args:
        arguments: of the command, by default those of the process.

    Returns:
        The exit code: 0 done, 1 failure, 2 bad input, 130 and 143 stopped and saved.
    """
    try:
        code = app(arguments, prog_name="mezzotint", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("Stopped.", 130)
    except Exception as error:
        message = getattr(error, "format_message", None)
        # An error of the command line's parser, whose classes typer does not export.
        if message is not None:
            if type(error).__name__ == "NoArgsIsHelpError":
                return 0  # the help is already on the screen
            return _fail(_parser_message(error), 2)
        if "--debug" in sys.argv:
            raise
        # `Interrupted` has a number and a refusal an exit code: neither class can be imported
        # here, because that would import torch.
        number = getattr(error, "number", None)
        if isinstance(number, int):
            notes = " ".join(getattr(error, "__notes__", ()))
            return _fail(f"Stopped. {notes}".rstrip(), 128 + number)
        parts = (_sentence(error), *getattr(error, "__notes__", ()))
        text = " ".join(" ".join(parts).split()) or type(error).__name__
        code = getattr(error, "exit_code", None)
        if isinstance(code, int):
            return _fail(text, code)
        if isinstance(error, ValueError):
            return _fail(text, 2)
        if isinstance(error, OSError):
            return _fail(text, 1)
        return _fail(f"{type(error).__name__}: {text} (--debug shows where)", 1)


def _sentence(error: Exception) -> str:
    """The message of an error; one of the operating system names its file first."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            return error.strerror
        return f"`{os.fsdecode(error.filename)}`: {error.strerror}. Check the path and its rights."
    return str(error)


def _parser_message(error: Any) -> str:
    """The message of the command line's parser as a sentence, with the help to read."""
    text = " ".join(error.format_message().split()).rstrip(".")
    verb = f" {error.ctx.info_name}" if error.ctx is not None and error.ctx.parent else ""
    return text if text.endswith("?") else f"{text}. See `mezzotint{verb} --help`."


def _fail(message: str, code: int) -> int:
    print(f"mezzotint: {shown(message)}", file=sys.stderr)
    return code
