"""The verbs for encoders: embed, export, import, norm-rescale."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mezzotint.cli.app import Debug, EncoderPath, Json, RunPath, app
from mezzotint.recipe.schema import RecipeError, nearest


@app.command()
def embed(
    encoder: EncoderPath,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder or file of the encoder's modality, or embedded data's name.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")] = Path(
        "features.npz"
    ),
    debug: Debug = False,
) -> None:
    """Write the features of every sample to a file."""
    from mezzotint.data.open import open_source
    from mezzotint.encoders.saving import load_encoder
    from mezzotint.runs import evaluate

    loaded = load_encoder(encoder)
    count, dim, unreadable = evaluate.embed(loaded, open_source(data, loaded.input), out)
    for sample in unreadable:
        print(f"unreadable, left out: {sample}", file=sys.stderr)
    typer.echo(f"{out}: {count} samples, {dim} features")


_Bits = Annotated[
    str | None,
    typer.Option(help="Bits. onnx: W8A8 (default) or fp32; packed: W4A32 (default), W2A8 …."),
]
_Group = Annotated[
    int | None,
    typer.Option(help="Weights per scale, for --format packed. Default: one channel."),
]
_Policy = Annotated[
    str | None,
    typer.Option(
        help="Layers to quantize, for --format packed. Default: the run's policy, or ssql."
    ),
]
_ReduceRange = Annotated[
    bool | None,
    typer.Option(
        "--reduce-range/--no-reduce-range",
        help="Use 7 bits for weights. Default: where this CPU lacks VNNI.",
    ),
]
_Calibration = Annotated[int | None, typer.Option(help="Samples to calibrate on. Default: 512.")]
_Reestimate = Annotated[
    bool,
    typer.Option(
        "--reestimate-batch-norm",
        help="Re-estimate BatchNorm with the rounded weights, for --format packed.",
    ),
]


@app.command()
def export(
    run: RunPath,
    format: Annotated[
        str, typer.Option(help="Format: onnx, packed, timm, torchvision or torch_export.")
    ] = "onnx",
    bits: _Bits = None,
    group: _Group = None,
    policy: _Policy = None,
    observer: Annotated[
        str, typer.Option(help="Observer that chooses the ranges of activations.")
    ] = "min_max",
    reduce_range: _ReduceRange = None,
    calibration: _Calibration = None,
    runtime: Annotated[
        str, typer.Option(help="Runtime to verify with: onnxruntime or openvino.")
    ] = "onnxruntime",
    data: Annotated[
        str | None, typer.Option(help="Data to calibrate and verify on. Default: the run's.")
    ] = None,
    reestimate_batch_norm: _Reestimate = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Export an encoder to ONNX, packed integers or another format, and verify it there.

    The file is kept only if its features agree with the encoder's.
    """
    from mezzotint.export import exporting
    from mezzotint.quant.bitwidth import Bits

    folder = exporting.export(
        run,
        format,  # type: ignore[arg-type]
        None if bits is None else Bits.parse(bits, "--bits"),
        group=group,
        policy=policy,
        observer=observer,
        reduce_range=reduce_range,
        calibration=calibration,
        runtime=runtime,  # type: ignore[arg-type]
        data=data,
        reestimate_batch_norm=reestimate_batch_norm,
    )
    verification = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    if as_json:
        typer.echo(json.dumps({"artifact": str(folder), **verification}))
        return
    for title, value in exporting.summary_rows(verification):
        typer.echo(f"{title:<24} {value}")
    typer.echo(folder)


_Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]…",
        help="Keys of the encoder: kind=resnet18 stem=small. Default: read from the file.",
    ),
]
_Layout = Annotated[
    str,
    typer.Option(
        "--from",
        help="Project: auto, plain, mocov3, randquant, airl, ssql, massrl, solo, lightly, "
        "vissl, byol_a, timm or torchvision.",
    ),
]
_Branch = Annotated[
    str, typer.Option(help="Branch to import: online, target (momentum copy) or auto.")
]
_Prefix = Annotated[
    str | None, typer.Option(help="Prefix of the tensors' names. Default: searched for.")
]
_Normalization = Annotated[
    str,
    typer.Option(
        help="Normalization in training: imagenet, cifar10, half, or MEAN/STD of spectrograms."
    ),
]


@app.command(name="import")
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file or a torch checkpoint.")
    ],
    keys: _Keys = None,
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path("encoder"),
    layout: _Layout = "auto",
    branch: _Branch = "auto",
    prefix: _Prefix = None,
    size: Annotated[int, typer.Option(help="Side of the images that the network takes.")] = 224,
    normalization: _Normalization = "imagenet",
    debug: Debug = False,
) -> None:
    """Import an encoder that another project trained, to evaluate, export or embed with it."""
    from mezzotint.encoders.saving import save_encoder
    from mezzotint.interop.layouts import LAYOUTS, recognize_encoder
    from mezzotint.interop.load import load_checkpoint, read_tensors
    from mezzotint.recipe.schema import construct, resolve
    from mezzotint.types import Input

    for option, value, choices in (
        ("--from", layout, ("auto", *LAYOUTS)),
        ("--branch", branch, ("auto", "online", "target")),
    ):
        if value not in choices:
            raise RecipeError(
                f"{option} must be one of {', '.join(choices)}, got {value!r}."
                f"{nearest(value, choices)}"
            )
    config = _encoder_keys(keys or ())
    if layout == "byol_a":
        config = {"kind": "audio_ntt", **config}
    if "kind" not in config:
        recognized = recognize_encoder(read_tensors(file), layout)
        if recognized is None:
            raise RecipeError(
                f"`{file}` has no ResNet with known tensor names. Name the encoder, such as "
                "kind=timm name=vit_small_patch16_224."
            )
        config = {**recognized, **config}
    resolved = resolve(config, "Encoder", "encoder")
    audio = resolved["kind"] == "audio_ntt"
    mean, std = _statistics(normalization, audio)
    input = Input((1, 64, 96), mean, std, "audio") if audio else Input((3, size, size), mean, std)
    encoder = construct(resolved, "Encoder", {"Encoder": (input,)})
    loaded = load_checkpoint(encoder, file, layout, branch=branch, prefix=prefix)  # type: ignore[arg-type]
    made_by = {
        "imported_from": file.name,
        "layout": loaded.layout,
        "branch": loaded.branch,
        "loaded": loaded.loaded,
        "tensors": loaded.total,
        "normalization": normalization,
    }
    save_encoder(encoder, out, made_by)
    typer.echo(f"{loaded}\n{out}")


def _encoder_keys(keys: list[str] | tuple[str, ...]) -> dict[str, object]:
    from mezzotint.recipe.reading import parse_yaml

    config: dict[str, object] = {}
    for key in keys:
        name, equals, value = key.partition("=")
        if not equals:
            raise RecipeError(
                f"Keys of the encoder are KEY=VALUE, got {key!r}. Write kind=resnet18, for example."
            )
        config[name.removeprefix("encoder.")] = parse_yaml(value, name)
    return config


def _statistics(name: str, audio: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std by channel: of images by name, of spectrograms as two numbers."""
    from mezzotint.types import IMAGENET_MEAN, IMAGENET_STD

    named = {
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
    if not audio and name in named:
        return named[name]
    mean, slash, std = name.partition("/")
    try:
        if audio and slash and float(std) > 0:
            return (float(mean),), (float(std),)
    except ValueError:
        pass
    if audio:
        raise RecipeError(
            "--normalization must be MEAN/STD of the log-mel spectrograms in training, "
            f"got {name!r}. Write two numbers, such as -7.1/4.2."
        )
    raise RecipeError(
        f"--normalization must be one of {', '.join(named)}, got {name!r}.{nearest(name, named)}"
    )


@app.command(name="norm-rescale")
def norm_rescale(
    encoder: EncoderPath,
    anchor: Annotated[
        Path, typer.Option(help="The encoder whose norms to match: a run or its directory.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path(
        "encoder-rescaled"
    ),
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Rescale every tensor, as the authors' code does; changes the function."
        ),
    ] = False,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Another encoder to show in the chart; may be repeated."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Rescale weights to match another encoder's per-layer norms (function-preserving).

    Optimizer settings of the other encoder then suit this one.
    """
    from mezzotint.encoders.saving import load_encoder, save_encoder
    from mezzotint.files import write_text
    from mezzotint.interop import norm_rescale

    if out.exists():
        raise RecipeError(f"--out must be a new directory, and {out} exists. Choose another --out.")
    loaded, target = load_encoder(encoder), load_encoder(anchor)
    shown = {path.resolve().name: load_encoder(path) for path in (encoder, *(compare or ()))}
    table = norm_rescale.norms(shown, target)
    changes = norm_rescale.norm_rescale(loaded, target, everything=everything)
    save_encoder(
        loaded, out, {"rescaled_from": encoder.name, "anchor": anchor.name, "all": everything}
    )
    text = norm_rescale.as_text(changes)
    write_text(out / "norms.txt", text + "\n")
    write_text(out / "norms.svg", norm_rescale.as_svg(table))
    effect = "the function changed" if everything else "the function is the same"
    typer.echo(f"{text}\n{len(changes)} tensors rescaled; {effect}\n{out}")
