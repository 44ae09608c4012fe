"""The verbs that measure a run: evaluate, report."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from mezzotint.cli.app import (
    Clips,
    Crops,
    Debug,
    EncoderPath,
    Json,
    Quiet,
    RunPath,
    app,
    data_of,
    print_table,
    say,
)
from mezzotint.recipe.schema import RecipeError


@app.command(
    epilog="Example: `mezzotint evaluate runs/photos labeled/ 'evaluate.bits=[fp32, W8A8, W4A4]'`"
)
def evaluate(
    run: EncoderPath,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DATA] [KEY=VALUE]…",
            help="A folder, a file or embedded data's name; overrides such as evaluate.seeds=5. "
            "Default: the run's data.",
        ),
    ] = None,
    clips: Clips = 1,
    crops: Crops = 1,
    input_bits: Annotated[
        str | None,
        typer.Option(
            metavar="BITS",
            help="Also measure on inputs quantized to these bits, such as 16,12,8,6,4: the "
            "input-bit curve in the report.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate an encoder on its run's data or on other data, and write the report.

    ENCODER is a run, an imported encoder, or an ONNX file. Under torchrun, the processes divide the
    samples.
    """
    import torch

    from mezzotint import dist

    bits, arguments = _input_bits(input_bits, list(arguments or ()))
    name, overrides = data_of(arguments)
    mode = "json" if as_json else "quiet" if quiet or not dist.launched_as_main() else "bar"
    options: dict[str, Any] = {"data": name, "clips": clips, "crops": crops, "input_bits": bits}
    with dist.process_group(torch.device("cpu")):
        evaluate_run(run, mode, overrides, **options)


def _input_bits(text: str | None, arguments: list[str]) -> tuple[list[int], list[str]]:
    """Return the bits of `--input-bits 16,12,8` or `--input-bits 16 12 8`, and other arguments.

    Raises:
        RecipeError: for anything but whole numbers.
    """
    if text is None:
        return [], arguments
    # Bits with spaces in between reach the verb as arguments.
    words = [*text.replace(",", " ").split(), *(word for word in arguments if word.isdecimal())]
    if not words or not all(word.isdecimal() and len(word) < 9 for word in words):
        raise RecipeError(
            f"`--input-bits` must be whole numbers with commas in between, got {text!r}. Try "
            "--input-bits 16,12,8,6,4."
        )
    return [int(word) for word in words], [word for word in arguments if not word.isdecimal()]


def evaluate_run(
    run: Path,
    mode: str,
    overrides: Sequence[str] = (),
    *,
    limit_s: float = math.inf,
    **options: Any,
) -> None:
    """Evaluate, write the report, and print the main results; see `runs.evaluate`."""
    from mezzotint import dist
    from mezzotint.evaluation.before_after import read_changes
    from mezzotint.evaluation.progress import part, showing
    from mezzotint.evaluation.results import results_directory
    from mezzotint.evaluation.summary import summary
    from mezzotint.report.headline import headline
    from mezzotint.report.page import write_report
    from mezzotint.runs import evaluate
    from mezzotint.runs.settings import Budget

    folder = results_directory(run)
    with showing(mode, limit_s=limit_s * (1.0 - Budget.page)) as progress:
        evaluation = evaluate.evaluate(run, overrides, **options)
        if not dist.is_main():
            return
        with part("page"):
            page = write_report(folder, known=evaluation.features)
    if progress.left_out:
        words = ", ".join(progress.left_out)
        text = f"left out, to stay within the time of an evaluation: {words}; measure them with "
        say(mode, f"{text}mezzotint evaluate {run}", {"left_out": progress.left_out})
    if mode == "bar":
        columns = ("task", "probe", "encoder", "untrained", "hand-made", "raw input")
        print_table(columns, summary(folder))
        typer.echo(headline(folder))
        for change in read_changes(folder):
            typer.echo(str(change))
    say(mode, f"report: {page}", {"report": str(page)})


@app.command(epilog="Example: `mezzotint report runs/photos --compare runs/demo`")
def report(
    run: RunPath,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another run to show in the charts of low bits; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write RUN/report.html from the measured results of a run or of a transfer."""
    from mezzotint.report.page import write_report
    from mezzotint.report.transfer import is_transfer, write_transfer_report

    typer.echo(write_transfer_report(run) if is_transfer(run) else write_report(run, compare or ()))
