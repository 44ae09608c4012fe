"""Verbs that carry an encoder on to detection and segmentation: transfer, detectron2."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, Quiet, app
from mezzotint.schema import RecipeError


@app.command()
def transfer(
    encoder: Annotated[Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA | RECIPE] [KEY=VALUE]…",
            help="A transfer recipe's name or file; or a folder in VOC or COCO format. Default: pasted_c4.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the runs. Default: runs/transfer-ENCODER.")] = None,
    seeds: Annotated[int, typer.Option(help="How many runs; 3 give an interval.", min=1)] = 1,
    baseline: Annotated[
        bool, typer.Option("--baseline/--no-baseline", help="Train the same from the untrained encoder too.")
    ] = True,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a detector or segmenter on an encoder, score it beside the same from the untrained one, write a report.

    Started again with the same --out, it goes on with what is missing.
    """
    given = list(arguments or ())
    what = given.pop(0) if given and "=" not in given[0] else None
    from mezzotint.report.transfer import write_transfer_report
    from mezzotint.transfer.detection import plan, run_transfer

    prepared = plan(encoder, what, given, seeds=seeds, baseline=baseline)
    folder = out or Path("runs") / f"transfer-{encoder.resolve().name}"
    mode = "json" if as_json else "quiet" if quiet else "bar"
    table = run_transfer(prepared, folder, progress=mode)
    page = write_transfer_report(folder)
    if mode == "json":
        typer.echo(json.dumps({"table": table.lines, "out": str(folder), "report": str(page)}))
    elif mode == "bar":
        typer.echo(f"{table.text}\nreport: {page}")


@app.command()
def detectron2(
    encoder: Annotated[Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.pkl", help="File to write; the settings go beside it.")],
    branch: Annotated[str, typer.Option(help="online, or target: the momentum copy of a run.")] = "online",
    debug: Debug = False,
) -> None:
    """Write a residual network as a pickle for detectron2's MODEL.WEIGHTS, with the settings it needs beside it."""
    if branch not in ("online", "target"):
        raise RecipeError(f"got --branch {branch!r}; allowed: online, target")
    from mezzotint.transfer.detectron2 import chosen_branch, read_detectron2, write_detectron2

    files = write_detectron2(chosen_branch(encoder, branch), out)  # type: ignore[arg-type]
    count = len(read_detectron2(files[0]))
    typer.echo(f"{files[0]}: {count} arrays, read back\n{files[1]}: put these settings into your configuration")
