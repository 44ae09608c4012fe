"""From a run to a verified artifact in `RUN/exports/`."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from mezzotint._version import __version__
from mezzotint.data.open import open_source
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export.artifacts import FORMATS, OPENVINO, Format
from mezzotint.export.request import Request, Runtime
from mezzotint.export.verify import verify
from mezzotint.files import write_json
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.onnx.qdq import make_observer
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import nearest
from mezzotint.train.settings import Loader

_WEIGHTS = ("encoder.safetensors", "encoder/encoder.safetensors")
FormatName = Literal["onnx", "packed", "timm", "torchvision", "torch_export"]


def export(
    run: str | Path,
    format: FormatName = "onnx",
    bits: Bits | None = None,
    *,
    group: int | None = None,
    policy: str | None = None,
    observer: str = "min_max",
    reduce_range: bool | None = None,
    calibration: int | None = None,
    runtime: Runtime = "onnxruntime",
    data: str | None = None,
    reestimate_batch_norm: bool = False,
) -> Path:
    """Write a run's encoder in another format, run it in the runtime that will serve it, and keep it if it agrees.

    Args:
        run: a directory that `pretrain` wrote, or, with `data`, any encoder's.
        format: `onnx`, `packed`, `timm`, `torchvision` or `torch_export`.
        bits: bit-widths: W8A8 (the default) or fp32 for `onnx`; for `packed` weights of 2 to 8 bits
            with fp32 activations (W4A32 by default) or simulated ones (W4A8); fp32 for the others.
        group: of `packed`: so many weights share a scale, instead of a whole channel.
        policy: of `packed`: which layers; by default the one that the encoder was trained with, or
            `ssql`.
        observer: kind of the observer that chooses the ranges of activations.
        reduce_range: of `onnx` at W8A8: keep weights to 7, by default where this processor's
            integer sums may saturate. Say it when another processor will serve the file.
        calibration: samples that choose the ranges; by default 512, or all that may be used if
            there are fewer.
        runtime: `onnxruntime`, or `openvino`, for `onnx`.
        data: to calibrate and compare on: an image folder, a file of arrays, or embedded data's
            name; by default the run's.
        reestimate_batch_norm: for `packed`: re-estimate BatchNorm's statistics for the rounded
            weights from calibration samples, which helps at 2 and 3 bits.

    Returns:
        The directory `RUN/exports/FORMAT-BITS`, with the artifact and `verification.json`.

    Raises:
        ValueError: for what a format does not have, a missing package, or a directory that is not a
            run.
        Refused: when the artifact does not compute what it should. Nothing is left of it; an
            earlier artifact stays.
    """
    chosen = _format(format, runtime)
    bits = _bits(format, chosen, bits)
    _check_options(format, group, policy, reestimate_batch_norm)
    make_observer(observer)  # which refuses an unknown one
    folder = Path(run)
    encoder = load_encoder(folder)
    source, workers = _data(folder, encoder, data)
    name = f"{'openvino' if runtime == 'openvino' else format}-{bits}"
    with _replacing_folder(folder / "exports" / name) as place:
        request = Request(
            Measurement(encoder, source, Reading(workers=workers)),
            place,
            bits,
            group=group,
            policy=policy,
            observer=observer,
            reduce_range=reduce_range,
            calibration=calibration,
            runtime=runtime,
            reestimate_batch_norm=reestimate_batch_norm,
        )
        artifact = chosen.write(request)
        found = verify(artifact, request.measurement)
        made = {
            "mezzotint": __version__,
            "format": format,
            "bits": str(bits),
            "encoder": _origin(folder),
        }
        write_json(place / "verification.json", made | found)
    return folder / "exports" / name


def _data(folder: Path, encoder: Encoder, data: str | None) -> tuple[Source, int]:
    """What to calibrate and compare on, and how many processes read it."""
    if data is not None:
        source = open_source(data, encoder.input)
        return source, Loader().processes(source)
    if not (folder / "recipe.yaml").is_file():
        raise ValueError(
            f"got {folder}, an encoder without a run and so without data; allowed is a run, or an encoder with --data: "
            "name an image folder, a file of arrays, or embedded data"
        )
    recipe = Recipe.load(folder)
    return recipe.data, recipe.run.loader.processes(recipe.data)


def _format(format: str, runtime: str) -> Format:
    if format not in FORMATS:
        raise ValueError(
            f"got --format {format}; allowed: {', '.join(FORMATS)}.{nearest(format, FORMATS)}"
        )
    if runtime not in ("onnxruntime", "openvino"):
        raise ValueError(
            f"got --runtime {runtime}; allowed: onnxruntime, openvino: leave it out for the first"
        )
    if runtime == "openvino" and format != "onnx":
        raise ValueError(
            f"got --runtime openvino with --format {format}; allowed is --format onnx: leave one out"
        )
    return OPENVINO if runtime == "openvino" else FORMATS[format]


def _bits(name: str, format: Format, bits: Bits | None) -> Bits:
    if bits is None:
        return format.bits[0]
    if bits not in format.bits:
        packed = name != "packed" and bits in FORMATS["packed"].bits
        raise ValueError(
            f"`--bits` must be {format.choices} for `--format {name}`, got {bits}."
            f"{' Fewer bits in storage: --format packed.' if packed else ''}"
        )
    return bits


def _check_options(format: str, group: int | None, policy: str | None, reestimate: bool) -> None:
    """What only `packed` has."""
    given = {
        "--group": group is not None, "--policy": policy is not None,
        "--reestimate-batch-norm": reestimate,
    }  # fmt: skip
    extra = next((name for name, present in given.items() if present), None)
    if format != "packed" and extra is not None:
        raise ValueError(
            f"got {extra} with --format {format}; allowed is --format packed: leave {extra} out"
        )
    if group is not None and group < 1:
        raise ValueError(f"got --group {group}; allowed is 1 or more: 32 to 128 are usual")


@contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """A directory to write into, which takes the place of `target` at the end, or is removed if anything fails."""
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _origin(folder: Path) -> Mapping[str, Any]:
    """Which encoder it was."""
    weights = next(folder / name for name in _WEIGHTS if (folder / name).is_file())
    return {
        "path": weights.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def table(verification: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A verification's headline figures, for people."""
    size, knn = verification["bytes"], verification["knn"]
    rows = [
        ("runtime", "{name} {version}".format(**verification["runtime"])),
        ("bits in storage", verification["storage_bits"]),
        ("bits in arithmetic", verification["compute_bits"]),
        ("bytes", f"{size['artifact']:,}, {size['ratio']:.2f} of float"),
        (f"ms for a batch of {verification['milliseconds']['batch']}", _took(verification)),
    ]
    if "operators" in verification:
        operators = verification["operators"]
        rows.insert(1, ("operators quantized", f"{operators['quantized']} of {operators['of']}"))
    for title, key in (
        ("cosine to the simulation", "to_simulation"),
        ("cosine to float", "to_float"),
    ):
        rows.append(
            (
                title,
                "{cosine_mean:.5f}, 1st percentile {cosine_p01:.5f}".format(**verification[key]),
            )
        )
    if "bits_per_weight" in verification:
        rows.insert(2, ("with scales", f"{verification['bits_per_weight']:.2f} bits a weight"))
    if knn is not None:
        shown = "{artifact:.4f}, simulated {simulation:.4f}, float {float:.4f} ({task})"
        rows.append(("kNN top-1", shown.format(**knn)))
    return rows


def _took(verification: Mapping[str, Any]) -> str:
    """Milliseconds, beside those of float where the arithmetic is another; where it is the same, all is noise."""
    took = verification["milliseconds"]
    if not Bits.parse(verification["compute_bits"]).is_float:
        return f"{took['artifact']:.2f}, float {took['float']:.2f}: {took['speed_up']:.2f} times as fast"
    smaller = not Bits.parse(verification["storage_bits"]).is_float
    saved = ": saves bytes, and no time" if smaller else ""
    return f"{took['artifact']:.2f}, in float{saved}"
