"""The verbs for encoders: embed, export, import, norm-rescale."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mezzotint.cli.app import Data, Debug, EncoderPath, Json, app, data_of
from mezzotint.files import read_json
from mezzotint.recipe.schema import RecipeError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from mezzotint.types import Input


@app.command(epilog="Example: `mezzotint embed runs/photos more-photos/ --out features.npz`")
def embed(
    encoder: EncoderPath,
    arguments: Data = None,
    out: Annotated[Path, typer.Option(help="File to write: .npz or .parquet.")] = Path(
        "features.npz"
    ),
    whiten: Annotated[
        str | None,
        typer.Option(
            metavar="fit|FILE",
            help="Whiten the features, for search and clustering: `fit` by the training samples of "
            "this data; an earlier .npz by the map that it keeps.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the features of every sample to a file, with ids, splits, labels and class names.

    Data is read with the settings of the encoder's training data; overrides change them. Under
    torchrun, the processes divide the samples.
    """
    import torch

    from mezzotint import dist
    from mezzotint.runs import embed
    from mezzotint.runs.subject import encoder_at, open_data

    name, overrides = data_of(arguments)
    loaded = encoder_at(encoder)
    with dist.process_group(torch.device("cpu")):
        source = open_data(encoder, loaded, name, overrides)
        written = embed.embed(loaded, source, out, whiten=whiten)
    if not dist.launched_as_main():
        return
    for sentence in written.left_out:
        print(sentence, file=sys.stderr)
    typer.echo(f"{out}: {written}")


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


@app.command(epilog="Example: `mezzotint export runs/photos --format onnx --bits W8A8`")
def export(
    run: EncoderPath,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="Overrides of the data, such as data.window=64."
        ),
    ] = None,
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

    name, overrides = data_of(arguments)
    if name is not None:
        raise RecipeError(
            f"Data to verify on is named with --data, got {name!r}. Only KEY=VALUE may follow."
        )
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
        overrides=overrides,
        reestimate_batch_norm=reestimate_batch_norm,
    )
    verification = read_json(folder / "verification.json")
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
        "vissl, byol_a, bridle, mae, dino, timm or torchvision.",
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


@app.command(
    name="import",
    epilog="Example: `mezzotint import checkpoint_0099.pth.tar --from mocov3 --out imported/`",
)
def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .safetensors file or a torch checkpoint.")
    ],
    keys: _Keys = None,
    out: Annotated[Path, typer.Option(help="Directory to write the encoder to.")] = Path("encoder"),
    layout: _Layout = "auto",
    branch: _Branch = "auto",
    prefix: _Prefix = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side of the images that the network takes. Default: the file's, or 224."
        ),
    ] = None,
    normalization: _Normalization = "imagenet",
    debug: Debug = False,
) -> None:
    """Import an encoder that another project trained, to evaluate, export or embed with it."""
    from mezzotint.encoders.saving import save_encoder
    from mezzotint.interop.layouts import LAYOUTS
    from mezzotint.interop.load import load_checkpoint, read_tensors
    from mezzotint.recipe.schema import construct

    for option, value, choices in (
        ("--from", layout, ("auto", *LAYOUTS)),
        ("--branch", branch, ("auto", "online", "target")),
    ):
        if value not in choices:
            raise RecipeError(
                f"{option} must be one of {', '.join(choices)}, got {value!r}."
                f"{nearest(value, choices)}"
            )
    own = _encoder_keys(keys or ())
    if "/" not in normalization:
        _statistics(normalization, audio=False)  # refused here rather than after reading
    tensors = read_tensors(file)
    resolved = _encoder_of_file(file, tensors, layout, own)
    input = _input_of_file(resolved, tensors, size, normalization, layout)
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


def _encoder_of_file(
    file: Path, tensors: Mapping[str, "Tensor"], layout: str, keys: dict[str, Any]
) -> dict[str, Any]:
    """The encoder section: what the file shows, with the given keys on top."""
    from mezzotint.interop.layouts import recognize_encoder
    from mezzotint.recipe.schema import resolve

    recognized = recognize_encoder(tensors, layout)
    if layout == "byol_a":
        keys = {"kind": "audio_ntt", **keys}
    if recognized is not None and keys.get("kind", recognized["kind"]) == recognized["kind"]:
        keys = {**recognized, **keys}
    if "kind" not in keys:
        raise RecipeError(
            f"`{file}` has no ResNet, ViT or AudioNTT with known tensor names. Name the encoder, "
            "such as kind=timm name=vit_small_patch16_224."
        )
    return resolve(keys, "Encoder", "encoder")


def _input_of_file(
    config: Mapping[str, Any],
    tensors: Mapping[str, "Tensor"],
    size: int | None,
    normalization: str,
    layout: str,
) -> "Input":
    """The samples that the encoder takes, as far as the file shows them."""
    from mezzotint.interop.load import channels_of
    from mezzotint.interop.vit import prefixes_of, shape_of
    from mezzotint.recipe.schema import construct
    from mezzotint.types import Input

    shape: tuple[int, ...] = (3, size or 224, size or 224)
    if config["kind"] == "audio_ntt":
        frame = tensors["fc.0.weight"].shape[1] if "fc.0.weight" in tensors else 0
        shape = (1, frame // config["width"] * 2 ** config["blocks"] or 64, 96)
    elif config["kind"] == "vit" and prefixes_of(tensors):
        shape = shape_of(tensors, 128, size)
    else:
        three = construct(config, "Encoder", {"Encoder": (Input(shape, (0.5,) * 3, (0.5,) * 3),)})
        shape = (channels_of(three, tensors, layout), *shape[1:])
    audio = shape[0] == 1 and config["kind"] in ("audio_ntt", "vit")
    mean, std = _statistics(normalization, audio)
    if not audio and shape[0] != len(mean):  # gray images, or bands beyond color
        mean, std = ((sum(part) / len(part),) * shape[0] for part in (mean, std))
    return Input(shape, mean, std, "audio" if audio else "image")


def _encoder_keys(keys: list[str] | tuple[str, ...]) -> dict[str, Any]:
    from mezzotint.recipe.reading import apply_overrides

    config: dict[str, Any] = {"encoder": {}}
    for key in keys:
        name, equals, value = key.partition("=")
        if not equals:
            raise RecipeError(
                f"Keys of the encoder are KEY=VALUE, got {key!r}. Write kind=resnet18, for example."
            )
        apply_overrides(config, [f"encoder.{name.removeprefix('encoder.')}={value}"])
    encoder: dict[str, Any] = config["encoder"]
    return encoder


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


@app.command(
    name="norm-rescale",
    epilog="Example: `mezzotint norm-rescale runs/lars --anchor runs/sgd --out rescaled/`",
)
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
