"""Verbs about an encoder: embed, export.

Verbs about checkpoints of other projects, and about the norms of weights.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, Json, RunPath, app
from mezzotint.recipe.schema import RecipeError


@app.command()
def embed(
    encoder: Annotated[
        Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")
    ],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="Image folder, .npz, .npy, or embedded data's name."),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")] = Path(
        "features.npz"
    ),
    debug: Debug = False,
) -> None:
    """Write the features of every sample."""
    from mezzotint.data.open import open_source
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.runs.evaluate import embed as write

    loaded = load_encoder(encoder)
    count, dim, bad = write(loaded, open_source(data, loaded.input), out)
    for sample in bad:
        print(f"left out: {sample}", file=sys.stderr)
    typer.echo(f"{out}: {count} samples, {dim} features")


@app.command()
def export(
    run: RunPath,
    format: Annotated[
        str, typer.Option(help="onnx, packed, timm, torchvision or torch_export.")
    ] = "onnx",
    bits: Annotated[
        int | None,
        typer.Option(help="Of the weights. onnx: 8, 32. packed: 2 to 8, default 4. Others: 32."),
    ] = None,
    activation_bits: Annotated[
        int, typer.Option(help="Of packed: simulated width of the activations.")
    ] = 32,
    group: Annotated[
        int | None, typer.Option(help="Of packed: weights that share a scale. Default: a channel.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Of packed: which layers. Default: the encoder's own, or ssql."),
    ] = None,
    observer: Annotated[
        str, typer.Option(help="What chooses the ranges of activations.")
    ] = "min_max",
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--no-reduce-range",
            help="Weights of 7 bits. Default: where this CPU lacks VNNI.",
        ),
    ] = None,
    calibration: Annotated[
        int | None, typer.Option(help="Samples that choose the ranges; 512 by default.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, or openvino.")] = "onnxruntime",
    data: Annotated[
        str | None, typer.Option(help="To calibrate and compare on. Default: the run's data.")
    ] = None,
    corrected: Annotated[
        bool,
        typer.Option("--corrected", help="Of packed: put BatchNorm right for the rounded weights."),
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
        typer.echo(json.dumps({"artifact": str(folder), **verification}))
        return
    for title, value in table(verification):
        typer.echo(f"{title:<24} {value}")
    typer.echo(folder)


_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file or a torch checkpoint.")
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…",
            help="Of the encoder: kind=resnet18 stem=small. Default: told by the file.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path("encoder"),
    layout: Annotated[
        str,
        typer.Option(
            "--from",
            help="auto, plain, mocov3, randquant, airl, ssql, massrl, solo, lightly, vissl, byol_a, timm, torchvision.",
        ),
    ] = "auto",
    branch: Annotated[
        str, typer.Option(help="online, target (its momentum copy), or auto.")
    ] = "auto",
    prefix: Annotated[
        str | None, typer.Option(help="Of the network's names, instead of searching for it.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the images that the network takes.")] = 224,
    normalization: Annotated[
        str,
        typer.Option(
            help="That it was trained with: imagenet, cifar10, half, or MEAN/STD of a spectrogram."
        ),
    ] = "imagenet",
    debug: Debug = False,
) -> None:
    """Take over an encoder that another project trained, to evaluate, export or embed with it."""
    from mezzotint.encoders.saving import save_encoder
    from mezzotint.interop.layouts import LAYOUTS, guess
    from mezzotint.interop.load import load_checkpoint, read_tensors
    from mezzotint.recipe.schema import construct, resolve
    from mezzotint.types import Input

    for option, value, allowed in (
        ("--from", layout, ("auto", *LAYOUTS)),
        ("--branch", branch, ("auto", "online", "target")),
    ):
        if value not in allowed:
            raise RecipeError(f"got {option} {value!r}; allowed: {', '.join(allowed)}")
    config = _encoder_keys(keys or ())
    if layout == "byol_a":
        config = {"kind": "audio_ntt", **config}
    if "kind" not in config:
        found = guess(read_tensors(file), layout)
        if found is None:
            raise RecipeError(
                f"{file} holds no residual network that is known by its names; say which encoder it is: kind=timm "
                "name=vit_small_patch16_224, for instance"
            )
        config = {**found, **config}
    resolved = resolve(config, "Encoder", "encoder")
    audio = resolved["kind"] == "audio_ntt"
    mean, std = _statistics(normalization, audio)
    input = Input((1, 64, 96), mean, std, "audio") if audio else Input((3, size, size), mean, std)
    encoder = construct(resolved, "Encoder", {"Encoder": (input,)})
    loaded = load_checkpoint(encoder, file, layout, branch=branch, prefix=prefix)  # type: ignore[arg-type]
    made_by = {
        "imported_from": file.name, "layout": loaded.layout, "branch": loaded.branch, "loaded": loaded.loaded,
        "tensors": loaded.total, "normalization": normalization,
    }  # fmt: skip
    save_encoder(encoder, out, made_by)
    typer.echo(f"{loaded}\n{out}")


def _encoder_keys(keys: list[str] | tuple[str, ...]) -> dict[str, object]:
    from mezzotint.recipe.plain_yaml import parse_yaml

    config: dict[str, object] = {}
    for key in keys:
        name, equals, value = key.partition("=")
        if not equals:
            raise RecipeError(
                f"got {key!r}; allowed are keys of the encoder, such as kind=resnet18"
            )
        config[name.removeprefix("encoder.")] = parse_yaml(value, name)
    return config


def _statistics(name: str, audio: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel: of images by name, of spectrograms as two numbers."""
    if not audio and name in _STATISTICS:
        return _STATISTICS[name]
    mean, slash, std = name.partition("/")
    try:
        if audio and slash and float(std) > 0:
            return (float(mean),), (float(std),)
    except ValueError:
        pass
    allowed = (
        "MEAN/STD of the log-mel spectrograms it was trained on, such as -7.1/4.2"
        if audio
        else ", ".join(_STATISTICS)
    )
    raise RecipeError(f"got --normalization {name!r}; allowed: {allowed}")


@app.command(name="norm-rescale")
def norm_rescale(
    encoder: Annotated[
        Path, typer.Argument(metavar="ENCODER", help="A run, or an encoder's directory.")
    ],
    anchor: Annotated[
        Path, typer.Option(help="An encoder with the norms that are wanted: a run or directory.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path(
        "encoder-rescaled"
    ),
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Every tensor, as the authors' code does; this changes the function."
        ),
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Another encoder to draw into the picture; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Give an encoder's weights the norms of another's, so that the other's optimizer suits it; its function stays."""
    from mezzotint.encoders.saving import load_encoder, save_encoder
    from mezzotint.files import write_text
    from mezzotint.interop.norm_rescale import as_svg, as_text, norms
    from mezzotint.interop.norm_rescale import norm_rescale as rescale

    if out.exists():
        raise RecipeError(
            f"got --out {out}, which exists; allowed is a new directory: choose another --out"
        )
    loaded, wanted = load_encoder(encoder), load_encoder(anchor)
    shown = {path.resolve().name: load_encoder(path) for path in (encoder, *(beside or ()))}
    table = norms(shown, wanted)
    changes = rescale(loaded, wanted, everything=everything)
    save_encoder(
        loaded, out, {"rescaled_from": encoder.name, "anchor": anchor.name, "all": everything}
    )
    text = as_text(changes)
    write_text(out / "norms.txt", text + "\n")
    write_text(out / "norms.svg", as_svg(table))
    kept = "the function has changed" if everything else "the function is the same"
    typer.echo(f"{text}\n{len(changes)} tensors rescaled; {kept}\n{out}")
