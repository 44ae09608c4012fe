"""The command line: one verb, one function. Nothing heavy is imported before a verb needs it."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint._version import __version__
from mezzotint.schema import RecipeError, nearest

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
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory.")]


def _recipe_of(arguments: list[str] | None) -> tuple[str, list[str]]:
    """Split `[RECIPE] KEY=VALUE …`; without a recipe it is the demo's."""
    from mezzotint.train.recipe import DEMO

    given = list(arguments or ())
    name = given.pop(0) if given and "=" not in given[0] else DEMO
    wrong = next((word for word in given if "=" not in word), None)
    if wrong is not None:
        raise RecipeError(f"got {wrong!r} after the recipe; allowed are overrides such as run.epochs=20")
    return name, given


@app.command()
def pretrain(
    arguments: Arguments = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run. Default: runs/RECIPE-DATE.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest good checkpoint in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove an earlier run in --out.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show recipe, steps, memory and time; write nothing.")
    ] = False,
    train_only: Annotated[bool, typer.Option("--train-only", help="Leave out evaluation and report.")] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pretrain an encoder, evaluate it, and write its report."""
    from mezzotint.train.recipe import read_recipe

    if resume and out is None:
        raise RecipeError("got --resume without --out; allowed is the directory of a run: --out runs/NAME --resume")
    name, overrides = (str(out), list(arguments or ())) if resume else _recipe_of(arguments)
    config = read_recipe(name, overrides)  # before anything heavy is imported
    if resume:
        _refuse_other_recipe(read_recipe(name), config)
    from mezzotint import dist
    from mezzotint.train.loop import pretrain as train
    from mezzotint.train.recipe import Recipe
    from mezzotint.train.rundir import default_directory

    recipe = Recipe.build(config)
    if dry_run:
        from mezzotint.train.preview import preview

        typer.echo(preview(recipe))
        return
    mode = "json" if as_json else "quiet" if quiet else "bar"
    folder = out or default_directory(name)
    done = train(recipe, folder, resume=resume, overwrite=overwrite, progress=mode)
    if train_only or not dist.launched_as_main():
        return
    _say(mode, f"trained: {done}/encoder; now evaluating", {"trained": str(done)})
    _evaluate_and_report(done, (), mode)


def _refuse_other_recipe(old: dict[str, Any], new: dict[str, Any]) -> None:
    """A resumed run may be logged, saved and fed differently, and no more."""
    for section in old:
        free = ("log", "checkpoints", "loader", "guard") if section == "run" else ()
        for key, value in old[section].items():
            if new[section].get(key) != value and key not in free and section != "evaluate":
                now = new[section].get(key)
                raise RecipeError(
                    f"got --resume with {section}.{key}={now!r}, which was {value!r}; allowed to change are run.log, "
                    "run.checkpoints, run.loader, run.guard and evaluate: start a new run for the rest"
                )


def _evaluate_and_report(folder: Path, overrides: tuple[str, ...], mode: str) -> None:
    from mezzotint.report.page import write_report
    from mezzotint.train.runs import evaluate as measure

    measure(folder, overrides)
    page = write_report(folder)
    if mode == "bar":
        _print_table(folder)
    _say(mode, f"report: {page}", {"report": str(page)})


def _say(mode: str, text: str, data: dict[str, Any]) -> None:
    if mode != "quiet":
        typer.echo(json.dumps(data) if mode == "json" else text)


def _print_table(folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from mezzotint.evaluate.results import summary

    table = Table("task", "probe", "encoder", "untrained", "raw input", box=None)
    for line in summary(folder):
        table.add_row(*line)
    Console().print(table)


@app.command()
def evaluate(
    run: RunPath,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Such as evaluate.seeds=5.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a run's encoder again, and write its report again."""
    _evaluate_and_report(run, tuple(overrides or ()), "json" if as_json else "quiet" if quiet else "bar")


@app.command()
def embed(
    encoder: Annotated[Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Image folder, .npz, .npy, or embedded data's name.")],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")] = Path("features.npz"),
    debug: Debug = False,
) -> None:
    """Write the features of every sample."""
    from mezzotint.data.opening import open_source
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.train.runs import embed as write

    loaded = load_encoder(encoder)
    count, dim, bad = write(loaded, open_source(data, loaded.input), out)
    for sample in bad:
        print(f"left out: {sample}", file=sys.stderr)
    typer.echo(f"{out}: {count} samples, {dim} features")


@app.command()
def report(run: RunPath, debug: Debug = False) -> None:
    """Write RUN/report.html from what the run measured."""
    from mezzotint.report.page import write_report

    typer.echo(write_report(run))


@app.command()
def gallery(
    arguments: Arguments = None,
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("gallery.html"),
    samples: Annotated[int, typer.Option(help="How many samples to show.", min=1, max=200)] = 12,
    debug: Debug = False,
) -> None:
    """Draw the views that a recipe makes, with the parameters of each."""
    name, overrides = _recipe_of(arguments)
    from mezzotint.train.recipe import Recipe, read_recipe

    config = read_recipe(name, overrides)
    from mezzotint.report.gallery import write_gallery

    recipe = Recipe.build(config)
    typer.echo(
        write_gallery(recipe.data, recipe.views, recipe.encoder.input, out, samples=samples, seed=recipe.run.seed)
    )


@app.command()
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images.")],
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one a core.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Examine a data set: unreadable, truncated, duplicate, leaked files; empty classes. Exit code 1 when it is ill."""
    from mezzotint.data.doctor import examine

    found = examine(path, workers=workers)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME | SECTION.KIND]", help="A recipe to print, or a part to explain.")
    ] = None,
    debug: Debug = False,
) -> None:
    """List the recipes; print one; or explain the keys of a part, such as `method.simclr` or `run`."""
    from mezzotint.train.recipe import FAMILIES, shipped

    known = shipped()
    if name is None:
        for title, path in known.items():
            typer.echo(f"{title:36}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    elif name in known:
        typer.echo(known[name].read_text(encoding="utf-8"))
    elif name.partition(".")[0] in FAMILIES:
        typer.echo(_explain(*name.partition(".")[::2]))
    else:
        sections = ", ".join(FAMILIES)
        raise RecipeError(
            f"got {name!r}; allowed is a recipe's name or one of {sections}{nearest(name, [*known, *FAMILIES])}"
        )


def _explain(section: str, kind: str) -> str:
    """The keys of one kind, or the kinds of a section."""
    from mezzotint.signatures import index
    from mezzotint.train.recipe import FAMILIES

    members = index().members(FAMILIES[section])
    if not kind and len(members) > 1:
        return "\n".join(f"{section}.{name}: {entry.summary}" for name, entry in members.items())
    kind = kind or next(iter(members))
    if kind not in members:
        raise RecipeError(f"{section}: got {kind!r}; allowed: {', '.join(members)}{nearest(kind, members)}")
    lines = [members[kind].summary]
    for key in members[kind].keys.values():
        default = "needed" if key.required else f"default {json.dumps(key.default)}"
        lines.append(f"  {key.name} ({key.shown_type}, {default}): {key.doc}")
    return "\n".join(lines)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line. Errors are one line; 2 is bad input, 1 a failure, 130 and 143 a stop that saved."""
    # OpenMP's threads spin while they wait: ruinous beside another program, and slow alone if they never do. A short
    # spin is good in both cases (docs/log.md has the figures). It is read when torch is loaded, which is later.
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
        if isinstance(error, ValueError):
            return _fail(text, 2)
        return _fail(text if isinstance(error, OSError) else f"{type(error).__name__}: {text} (--debug shows where)", 1)


def _fail(message: str, code: int) -> int:
    print(f"mezzotint: {message}", file=sys.stderr)
    return code
