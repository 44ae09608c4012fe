"""The verb that makes a downloaded data set ready."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, app
from mezzotint.schema import RecipeError, nearest

_DATASETS = ("audioset", "esc50", "kinetics")


@app.command()
def prepare(
    dataset: Annotated[str, typer.Argument(metavar="audioset|esc50|kinetics", help="Which data set.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The download; it is only read.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: DIR-prepared.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. Default: one a core.", min=0)] = None,
    format: Annotated[str, typer.Option(help="Of recordings: flac or wav.")] = "flac",
    side: Annotated[int, typer.Option(help="Of videos, the shorter one, in pixels.")] = 288,
    debug: Debug = False,
) -> None:
    """Build lists and resampled copies of a local download; goes on where it was stopped."""
    if dataset not in _DATASETS:
        raise RecipeError(f"got {dataset!r}; allowed: {', '.join(_DATASETS)}{nearest(dataset, _DATASETS)}")
    from mezzotint.data.prepare import prepare as make

    target = out or folder.with_name(f"{folder.resolve().name}-prepared")
    processes = os.cpu_count() or 1 if workers is None else workers
    done = make(dataset, folder, target, workers=processes, format=format, side=side)  # type: ignore[arg-type]
    typer.echo("\n".join([*done.lines(), str(target)]))
