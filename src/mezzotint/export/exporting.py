"""Export a run's encoder to a verified artifact in `RUN/exports/`."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mezzotint._version import __version__
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.features import Reading
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export.artifacts import FORMATS, OPENVINO, Format
from mezzotint.export.request import Request, Runtime
from mezzotint.export.verify import VerificationError, verify
from mezzotint.files import replacing_folder, seal, write_json
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.onnx.qdq import make_observer
from mezzotint.recipe.schema import nearest
from mezzotint.runs.settings import Export
from mezzotint.runs.subject import data_of

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
    overrides: Sequence[str] = (),
    reestimate_batch_norm: bool = False,
) -> Path:
    """Export a run's encoder, and verify the artifact in the runtime that will serve it.

    Args:
        run: directory of a run or of an encoder.
        format: `onnx`, `packed`, `timm`, `torchvision` or `torch_export`.
        bits: bit-widths: W8A8 (the default) or fp32 for `onnx`; for `packed` weights of 2 to 8 bits
            with fp32 activations (W4A32 by default) or simulated ones (W4A8); fp32 for the others.
        group: weights per scale, for `packed`; by default one scale per channel.
        policy: quantization policy, for `packed`; by default the one that the encoder was trained
            with, or `ssql`.
        observer: kind of the observer that sets the ranges of activations.
        reduce_range: whether to quantize weights to 7 bits, for `onnx` at W8A8; by default only
            where this processor's integer sums may saturate. Set it if another processor will
            serve the file.
        calibration: number of calibration samples; by default 512, or all of them if there are
            fewer.
        runtime: `onnxruntime` or `openvino`, for `onnx`.
        data: data to calibrate and verify on: a folder, a file, or the name of embedded data, read
            as the training data; by default the run's.
        overrides: overrides of the data, such as `data.size=64`.
        reestimate_batch_norm: whether to re-estimate BatchNorm with the rounded weights, for
            `packed`; it helps at 2 and 3 bits.

    Returns:
        The directory `RUN/exports/FORMAT-BITS`, with the artifact and `verification.json`.

    Raises:
        ValueError: if the format does not support an option, a package is missing, or the
            directory is not a run.
        VerificationError: if the artifact does not agree with its reference. It is removed; an
            earlier artifact is kept.
    """
    chosen = _select_format(format, runtime)
    bits = _select_bits(format, chosen, bits)
    _check_options(format, group, policy, reestimate_batch_norm)
    make_observer(observer)  # refuses an unknown kind before anything is written
    folder = Path(run)
    encoder = load_encoder(folder)
    source, workers = data_of(folder, encoder, data, overrides)
    name = f"{'openvino' if runtime == 'openvino' else format}-{bits}"
    with replacing_folder(folder / "exports" / name) as temporary:
        request = Request(
            Measurement(encoder, source, Reading(workers=workers)),
            temporary,
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
        results = verify(artifact, request.measurement)
        origin = {
            "mezzotint": __version__,
            "format": format,
            "bits": str(bits),
            "encoder": _describe_weights(folder),
        }
        write_json(temporary / "verification.json", origin | results, sealed=True)
        for file in sorted(p for p in temporary.iterdir() if p.is_file()):
            seal(file)
    return folder / "exports" / name


def check_exports(settings: Export) -> None:
    """Refuse bit-widths that a format does not have, before anything is trained.

    Raises:
        ValueError: naming the key of the recipe and the bit-widths there are.
    """
    for format, bits in settings.artifacts:
        if bits not in FORMATS[format].bits:
            raise ValueError(
                f"`export.{format}` must be {FORMATS[format].choices}, got {bits}. Change or "
                "remove it."
            )


def export_all(run: str | Path, settings: Export) -> Iterator[tuple[Path | None, str]]:
    """Export a run in the formats of its recipe.

    Yields:
        The directory of each artifact, and its size and verification in a sentence; `None` and the
        reason for one that cannot be made here, or that did not agree with its reference.
    """
    for format, bits in settings.artifacts:
        try:
            folder = export(run, format, bits)
        except (ValueError, VerificationError) as error:
            yield None, f"{format}-{bits} was not exported: {error}"
            continue
        verification = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
        size, knn = verification["bytes"], verification["knn"]
        top1 = f"; kNN {knn['artifact']:.3f}, fp32 {knn['float']:.3f}" if knn else ""
        yield (
            folder,
            f"{folder}: {size['artifact']:,} bytes ({size['ratio']:.2f} of fp32), verified on "
            f"{verification['samples']:,} samples; cosine to fp32 "
            f"{verification['to_float']['cosine_mean']:.5f}{top1}",
        )


def _select_format(format: str, runtime: str) -> Format:
    if format not in FORMATS:
        raise ValueError(
            f"`--format` must be one of {', '.join(FORMATS)}, got {format!r}."
            f"{nearest(format, FORMATS)}"
        )
    if runtime not in ("onnxruntime", "openvino"):
        raise ValueError(
            f"`--runtime` must be onnxruntime or openvino, got {runtime!r}. "
            "Omit it for onnxruntime."
        )
    if runtime == "openvino" and format != "onnx":
        raise ValueError(
            f"`--runtime openvino` needs `--format onnx`, got `--format {format}`. "
            "Omit one of the two options."
        )
    return OPENVINO if runtime == "openvino" else FORMATS[format]


def _select_bits(name: str, format: Format, bits: Bits | None) -> Bits:
    if bits is None:
        return format.bits[0]
    if bits not in format.bits:
        packed = name != "packed" and bits in FORMATS["packed"].bits
        raise ValueError(
            f"`--bits` must be {format.choices} for `--format {name}`, got {bits}."
            f"{' Use `--format packed` for fewer bits in storage.' if packed else ''}"
        )
    return bits


def _check_options(format: str, group: int | None, policy: str | None, reestimate: bool) -> None:
    """Refuse options that only `packed` supports."""
    given = {
        "--group": group is not None,
        "--policy": policy is not None,
        "--reestimate-batch-norm": reestimate,
    }
    extra = next((name for name, present in given.items() if present), None)
    if format != "packed" and extra is not None:
        raise ValueError(
            f"`{extra}` needs `--format packed`, got `--format {format}`. "
            f"Omit `{extra}`, or export with `--format packed`."
        )
    if group is not None and group < 1:
        raise ValueError(f"`--group` must be at least 1, got {group}. Try 64.")


def _describe_weights(folder: Path) -> Mapping[str, Any]:
    """Return the path and hash of the exported weights."""
    weights = next(folder / name for name in _WEIGHTS if (folder / name).is_file())
    return {
        "path": weights.relative_to(folder).as_posix(),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }


def summary_rows(verification: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the main results of a verification as titles and values, for printing."""
    size, knn = verification["bytes"], verification["knn"]
    rows = [
        ("runtime", "{name} {version}".format(**verification["runtime"])),
        ("bits in storage", verification["storage_bits"]),
        ("bits in arithmetic", verification["compute_bits"]),
        ("bytes", f"{size['artifact']:,}, {size['ratio']:.2f} of fp32"),
        (f"ms for a batch of {verification['milliseconds']['batch']}", _format_time(verification)),
    ]
    if "operators" in verification:
        operators = verification["operators"]
        rows.insert(1, ("operators quantized", f"{operators['quantized']} of {operators['of']}"))
    cosine = "{cosine_mean:.5f}, 1st percentile {cosine_p01:.5f}"
    rows.append(("cosine to the simulation", cosine.format(**verification["to_simulation"])))
    rows.append(("cosine to fp32", cosine.format(**verification["to_float"])))
    if "bits_per_weight" in verification:
        rows.insert(2, ("with scales", f"{verification['bits_per_weight']:.2f} bits per weight"))
    if knn is not None:
        top1 = "{artifact:.4f}, simulated {simulation:.4f}, fp32 {float:.4f} ({task})"
        rows.append(("kNN top-1", top1.format(**knn)))
    return rows


def _format_time(verification: Mapping[str, Any]) -> str:
    """Format the milliseconds of a batch; compare with fp32 if the arithmetic differs."""
    milliseconds = verification["milliseconds"]
    if not Bits.parse(verification["compute_bits"]).is_float:
        return "{artifact:.2f}, fp32 {float:.2f}: {speed_up:.2f} times as fast".format(
            **milliseconds
        )
    # Both sides compute in fp32, so a difference would be noise.
    smaller = not Bits.parse(verification["storage_bits"]).is_float
    note = " (a smaller file, not a faster one)" if smaller else ""
    return f"{milliseconds['artifact']:.2f}, computed in fp32{note}"
