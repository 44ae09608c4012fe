"""Verbs about an encoder: embed, export."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, RunPath, app


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
def export(
    run: RunPath,
    format: Annotated[str, typer.Option(help="onnx, packed, timm, torchvision or torch_export.")] = "onnx",
    bits: Annotated[
        int | None, typer.Option(help="Of the weights. onnx: 8, 32. packed: 2 to 8, default 4. Others: 32.")
    ] = None,
    activation_bits: Annotated[int, typer.Option(help="Of packed: simulated width of the activations.")] = 32,
    group: Annotated[
        int | None, typer.Option(help="Of packed: weights that share a scale. Default: a channel.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="Of packed: which layers. Default: the encoder's own, or ssql.")
    ] = None,
    observer: Annotated[str, typer.Option(help="What chooses the ranges of activations.")] = "min_max",
    reduce_range: Annotated[
        bool | None,
        typer.Option("--reduce-range/--no-reduce-range", help="Weights of 7 bits. Default: where this CPU lacks VNNI."),
    ] = None,
    calibration: Annotated[int | None, typer.Option(help="Samples that choose the ranges; 512 by default.")] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, or openvino.")] = "onnxruntime",
    data: Annotated[str | None, typer.Option(help="To calibrate and compare on. Default: the run's data.")] = None,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Of packed: put BatchNorm right for the rounded weights.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the encoder as ONNX, packed integers or another format; run it there, and keep it if it agrees."""
    from mezzotint.export.exporting import export as write
    from mezzotint.export.exporting import table

    folder = write(
        run, format, bits, activation_bits=activation_bits, group=group, policy=policy, observer=observer,  # type: ignore[arg-type]
        reduce_range=reduce_range, calibration=calibration, runtime=runtime, data=data, corrected=corrected,  # type: ignore[arg-type]
    )  # fmt: skip
    verification = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps({"artefact": str(folder), **verification}))
        return
    for title, value in table(verification):
        typer.echo(f"{title:<24} {value}")
    typer.echo(folder)
