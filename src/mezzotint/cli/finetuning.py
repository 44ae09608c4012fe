"""The verb that fine-tunes an encoder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Clips, Crops, Debug, Json, Quiet, app, print_table


@app.command()
def finetune(
    encoder: Annotated[Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA | RECIPE] [KEY=VALUE]…",
            help="A recipe's name or file; or a folder, a file, the name of embedded data. Default: the run's data.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the runs. Default: runs/finetune-ENCODER.")] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Share of the labels, of each class alike: 0.01 is 1 %.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(help="So many labels of each class.")] = None,
    labels: Annotated[Path | None, typer.Option(help="A text file of the ids to learn from, one a line.")] = None,
    bits: Annotated[str | None, typer.Option(help="Train at weights/activations, such as 4/4.")] = None,
    seeds: Annotated[int, typer.Option(help="How many runs; 3 give an interval.")] = 1,
    warm_head: Annotated[
        bool, typer.Option("--warm-head", help="Start the classifier from the linear probe on the frozen features.")
    ] = False,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Train from scratch and on the untrained network too.")
    ] = True,
    clips: Clips = 1,
    crops: Crops = 1,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune an encoder on labels, score it on the test samples beside its baselines, and write a report.

    Started again with the same --out, it goes on with what is missing.
    """
    given = list(arguments or ())
    what = given.pop(0) if given and "=" not in given[0] else None
    chosen = {"fraction": fraction, "per_class": per_class, "files": None if labels is None else str(labels)}
    given += [f"data.{key}={json.dumps(value)}" for key, value in chosen.items() if value is not None]
    from mezzotint.evaluate.results import read_evaluation, summary
    from mezzotint.evaluate.setting import Setting
    from mezzotint.report.page import write_report
    from mezzotint.transfer.finetune import finetune as tune
    from mezzotint.transfer.finetune import plan

    if bits is not None:
        setting = Setting.parse(bits, "--bits")
        given.append(f"method.bits=[{setting.weight},{setting.activation}]")
    prepared = plan(
        encoder, what, given, seeds=seeds, warm_head=warm_head, baselines=baselines, clips=clips, crops=crops
    )
    folder = out or Path("runs") / f"finetune-{encoder.resolve().name}"
    mode = "json" if as_json else "quiet" if quiet else "bar"
    tune(prepared, folder, progress=mode)
    page = write_report(folder)
    if mode == "json":
        typer.echo(json.dumps({"rows": [vars(row) for row in read_evaluation(folder)], "report": str(page)}))
    elif mode == "bar":
        print_table(("task", "probe", "top-1", "untrained, held still"), [line[:4] for line in summary(folder)])
        typer.echo(f"report: {page}")
