"""The verbs that train on labels: finetune, transfer (detection, segmentation), detectron2."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Clips, Crops, Debug, EncoderPath, Json, Quiet, app, print_table
from mezzotint.recipe.schema import RecipeError

_DataOrRecipe = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DATA | RECIPE] [KEY=VALUE]…",
        help="A recipe; or data: a folder, a file or embedded data. Default: the run's data.",
    ),
]
_Fraction = Annotated[
    float | None, typer.Option(help="Fraction of the labels, per class: 0.01 is 1 %.")
]
_Labels = Annotated[
    Path | None, typer.Option(help="A text file of the samples to train on, one per line.")
]
_Bits = Annotated[str | None, typer.Option(help="Train at low bits, such as W4A4. Default: fp32.")]
_WarmHead = Annotated[
    bool,
    typer.Option(
        "--warm-head", help="Initialize the classifier from a linear probe on frozen features."
    ),
]
_Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines/--no-baselines",
        help="Also train from scratch, and a linear head on the untrained network.",
    ),
]


@app.command(epilog="Example: `mezzotint finetune runs/photos labeled/ --per-class 10 --seeds 3`")
def finetune(
    encoder: EncoderPath,
    arguments: _DataOrRecipe = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the runs. Default: runs/finetune-ENCODER.")
    ] = None,
    fraction: _Fraction = None,
    per_class: Annotated[int | None, typer.Option(help="Labeled samples per class.")] = None,
    labels: _Labels = None,
    bits: _Bits = None,
    seeds: Annotated[int, typer.Option(help="Number of runs; 3 give an interval.")] = 1,
    warm_head: _WarmHead = False,
    baselines: _Baselines = True,
    clips: Clips = 1,
    crops: Crops = 1,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune an encoder on labels, score it on test samples with baselines, write a report.

    Started again with the same --out, it trains only what is missing.
    """
    given = list(arguments or ())
    what = given.pop(0) if given and "=" not in given[0] else None
    files = None if labels is None else str(labels)
    chosen = {"fraction": fraction, "per_class": per_class, "files": files}
    if any(value is not None for value in chosen.values()):
        # A recipe may choose labels in another way, which this replaces.
        unset = {"fraction": 1.0, "per_class": None, "files": None}
        given = [
            f"data.{k}={json.dumps(unset[k] if v is None else v)}" for k, v in chosen.items()
        ] + given
    from mezzotint.evaluation.progress import part, showing
    from mezzotint.evaluation.results import read_evaluation
    from mezzotint.quant.bitwidth import Bits
    from mezzotint.report.finetuning import terminal_table
    from mezzotint.report.page import write_report
    from mezzotint.runs import finetune

    if bits is not None:
        given.append(f"method.bits={Bits.parse(bits, '--bits')}")
    options = {"warm_head": warm_head, "baselines": baselines}
    prepared = finetune.plan(encoder, what, given, seeds=seeds, clips=clips, crops=crops, **options)
    folder = out or Path("runs") / f"finetune-{encoder.resolve().name}"
    mode = "json" if as_json else "quiet" if quiet else "bar"
    # Lines of an evaluation go to stderr: stdout is one object of JSON for scripts.
    with showing("quiet" if quiet else "bar"):
        finetune.finetune(prepared, folder, progress=mode)
        with part("page"):
            page = write_report(folder)
    if mode == "json":
        rows = [row.as_json() for row in read_evaluation(folder)]
        typer.echo(json.dumps({"rows": rows, "report": str(page)}))
    elif mode == "bar":
        lines, words = terminal_table(folder)
        headers = ("task", "metric", "fine-tuned", "from scratch", "untrained, frozen")
        print_table((*headers, "hand-made", "largest class"), lines)
        typer.echo(f"{words}\nreport: {page}")


@app.command(epilog="Example: `mezzotint transfer runs/photos coco_c4 data.root=coco/ --seeds 3`")
def transfer(
    encoder: EncoderPath,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA | RECIPE] [KEY=VALUE]…",
            help="A transfer recipe; or a folder in VOC or COCO format. Default: pasted_c4.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the runs. Default: runs/transfer-ENCODER.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of runs; 3 give an interval.", min=1)] = 1,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline/--no-baseline", help="Also train the same from the untrained encoder."
        ),
    ] = True,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a detector or segmenter on an encoder, compare it with a baseline, write a report.

    The baseline starts from the untrained encoder. Started again with the same --out, it trains
    only what is missing.
    """
    given = list(arguments or ())
    what = given.pop(0) if given and "=" not in given[0] else None
    from mezzotint.detection.detection import plan, run_transfer
    from mezzotint.report.transfer import write_transfer_report

    prepared = plan(encoder, what, given, seeds=seeds, baseline=baseline)
    folder = out or Path("runs") / f"transfer-{encoder.resolve().name}"
    mode = "json" if as_json else "quiet" if quiet else "bar"
    table = run_transfer(prepared, folder, progress=mode)
    page = write_transfer_report(folder)
    if mode == "json":
        typer.echo(json.dumps({"table": table.lines, "out": str(folder), "report": str(page)}))
    elif mode == "bar":
        typer.echo(f"{table.text}\nreport: {page}")


@app.command(epilog="Example: `mezzotint detectron2 runs/photos backbone.pkl`")
def detectron2(
    encoder: EncoderPath,
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT.pkl", help="File to write, next to a .yaml with settings."),
    ],
    branch: Annotated[
        str, typer.Option(help="Branch of the run: online, or target (momentum copy).")
    ] = "online",
    debug: Debug = False,
) -> None:
    """Write a ResNet as a pickle for detectron2's MODEL.WEIGHTS, and the settings it needs."""
    if branch not in ("online", "target"):
        raise RecipeError(f"--branch must be online or target, got {branch!r}. Choose one of them.")
    from mezzotint.detection.detectron2 import chosen_branch, read_detectron2, write_detectron2

    files = write_detectron2(chosen_branch(encoder, branch), out)  # type: ignore[arg-type]
    count = len(read_detectron2(files[0]))
    typer.echo(
        f"{files[0]}: {count} arrays, read back\n"
        f"{files[1]}: put these settings into your configuration"
    )
