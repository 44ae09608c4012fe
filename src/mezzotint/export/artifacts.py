"""One writer per format: it writes the files and names the reference to verify them against."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mezzotint import quant
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.saving import load_packed
from mezzotint.export import openvino_runtime
from mezzotint.export.float_formats import (
    open_timm,
    open_torch_export,
    open_torchvision,
    write_onnx,
    write_timm,
    write_torch_export,
    write_torchvision,
)
from mezzotint.export.packed import save_packed
from mezzotint.export.request import Request, copy_to_fp32
from mezzotint.export.verify import Artifact, Function
from mezzotint.quant.batch_norm import reestimate_batch_norm_
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.convert import QuantizationPolicy, policy_of
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.quant.onnx.qdq import make_observer, quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction, require

_FP32: dict[str, Any] = {"storage_bits": str(FP32), "compute_bits": str(FP32)}


@dataclass(frozen=True)
class Format:
    """An export format: its bit-widths and its writer.

    Attributes:
        bits: supported bit-widths; the first is the default.
        choices: the supported bit-widths in words, for messages.
        write: function that writes the files.
    """

    bits: tuple[Bits, ...]
    choices: str
    write: Callable[[Request], Artifact]


def _onnx(request: Request) -> Artifact:
    """Write ONNX: a QDQ graph (quantize, dequantize) at 8 bits, fp32 at 32 bits."""
    runtime = require("onnxruntime", "--format onnx", "onnx")
    encoder, path = copy_to_fp32(request.encoder), request.folder / "encoder.onnx"
    # Before the file is written, as the number of calibration samples may be refused.
    batches = [] if request.bits.is_float else request.calibration_batches()
    write_onnx(encoder, path)
    served: dict[str, Any] = {"runtime": {"name": "onnxruntime", "version": runtime.__version__}}
    if request.bits.is_float:
        return _fp32_artifact(request, (path,), lambda: OnnxFunction(path), encoder, served)
    fp32_model = path.read_bytes()
    report = quantize_onnx(
        path, path, batches, reduce_range=request.reduce_range, observer=request.observer
    )
    return Artifact(
        (path,),
        lambda: OnnxFunction(path),
        OnnxFunction(path.read_bytes(), optimize=False),
        OnnxFunction(fp32_model),
        len(fp32_model),
        "quantized",
        served
        | {
            "storage_bits": str(request.bits),
            "compute_bits": str(report.bits),
            "accumulator_bits": 32,
            "reduce_range": report.reduce_range,
            "operators": _count_operators(report.quantized, report.skipped, report.integer_kernels),
            "calibration": {"samples": report.samples, "observer": request.observer},
        },
    )


def _count_operators(
    quantized: Mapping[str, str],
    skipped: Mapping[str, str],
    kernels: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "quantized": len(quantized),
        "of": len(quantized) + len(skipped),
        "left_float": dict(skipped),
    }
    return counts if kernels is None else counts | {"integer_kernels": dict(kernels)}


def _fp32_artifact(
    request: Request,
    files: tuple[Path, ...],
    reopen: Callable[[], Function],
    encoder: Encoder,
    facts: Mapping[str, Any],
) -> Artifact:
    """Describe an fp32 artifact: it must compute what the encoder computes."""
    # ONNX in ONNX Runtime is timed against itself: the encoder in torch is another runtime.
    reference = (
        reopen() if request.runtime == "onnxruntime" and files[0].suffix == ".onnx" else encoder
    )
    return Artifact(
        files, reopen, encoder, reference, parameter_bytes(encoder), "float", _FP32 | dict(facts)
    )


def parameter_bytes(encoder: torch.nn.Module) -> int:
    """Return the size of an encoder's parameters and buffers in bytes."""
    return sum(value.numel() * value.element_size() for value in encoder.state_dict().values())


def _packed(request: Request) -> Artifact:
    """Write packed integers, whose outputs must equal the simulation's."""
    encoder = copy_to_fp32(request.encoder)
    trained_with = getattr(request.encoder, "quantization", None)
    policy = _make_policy(request, request.policy or trained_with or "ssql")
    conversion = quant.quantize_(encoder, policy)
    facts: dict[str, Any] = {"policy": policy.name, "group": request.group}
    if request.bits.activation != 32 or request.reestimate_batch_norm:
        batches = request.calibration_batches()
        facts["calibration"] = {
            "samples": quant.calibrate(encoder, batches),
            "observer": request.observer,
        }
        if request.reestimate_batch_norm:
            facts["calibration"]["reestimated"] = reestimate_batch_norm_(
                encoder, batches, weight=request.bits.weight
            )
    save_packed(encoder, request.folder, request.bits)
    facts["bits_per_weight"] = _bits_per_weight(request.folder / "packed.safetensors")

    def simulation(x: Tensor) -> Tensor:
        with quant.bits(encoder, request.bits):
            out: Tensor = encoder(x)
        return out

    reference = copy_to_fp32(request.encoder)
    return Artifact(
        (request.folder / "packed.safetensors", request.folder / "packed.json"),
        lambda: load_packed(request.folder),
        simulation,
        reference,
        parameter_bytes(reference),
        "equal",
        facts
        | {
            "storage_bits": str(Bits(request.bits.weight)),
            "compute_bits": str(FP32),
            "simulated_bits": str(request.bits),
            "operators": _count_operators(conversion.weights, conversion.skipped),
            "runtime": {"name": "torch", "version": torch.__version__},
        },
    )


def _bits_per_weight(file: Path) -> float:
    """Return the average bits per quantized weight, including scales and zero points."""
    tensors = load_file(file)
    description = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    names = [
        f"{name}.{part}"
        for name in description["weights"]
        for part in ("codes", "scale", "zero_point")
    ]
    size = sum(
        tensors[name].numel() * tensors[name].element_size() for name in names if name in tensors
    )
    return float(
        8 * size / sum(math.prod(entry["shape"]) for entry in description["weights"].values())
    )


def _make_policy(request: Request, name: str) -> QuantizationPolicy:
    """Build the policy of this name with the request's observer and group size."""
    base = policy_of(name)
    weight, activation = base.weight, base.activation
    if request.group is not None:
        layout = Layout("group", group=request.group)
        weight = functools.partial(WeightQuantizer, layout)
    if request.observer != "min_max":

        def activation() -> ActivationQuantizer:
            return ActivationQuantizer(observer=make_observer(request.observer))

    return QuantizationPolicy(
        base.name,
        base.placement,
        base.first_bits,
        base.last_bits,
        base.network_input,
        weight,
        activation,
        base.skip,
    )


def _timm(request: Request) -> Artifact:
    encoder = copy_to_fp32(request.encoder)
    files = write_timm(encoder, request.folder)
    version = require("timm", "--format timm", "timm").__version__
    return _fp32_artifact(
        request,
        files,
        lambda: open_timm(request.folder),
        encoder,
        {"runtime": {"name": "timm", "version": version}},
    )


def _torchvision(request: Request) -> Artifact:
    import torchvision

    encoder = copy_to_fp32(request.encoder)
    files = write_torchvision(encoder, request.folder)
    runtime = {"runtime": {"name": "torchvision", "version": torchvision.__version__}}
    return _fp32_artifact(
        request, files, lambda: open_torchvision(request.folder), encoder, runtime
    )


def _torch_export(request: Request) -> Artifact:
    encoder, path = copy_to_fp32(request.encoder), request.folder / "encoder.pt2"
    write_torch_export(encoder, path)
    runtime = {"runtime": {"name": "torch.export", "version": torch.__version__}}
    return _fp32_artifact(request, (path,), lambda: open_torch_export(path), encoder, runtime)


_INT8 = (Bits(8, 8), FP32)
_PACKED = (Bits(4), *(Bits(w, a) for w in range(2, 9) for a in (*range(2, 9), 32)))
FORMATS: dict[str, Format] = {
    "onnx": Format(_INT8, "W8A8 or fp32", _onnx),
    "packed": Format(
        _PACKED, "W2A32 to W8A32, or W2A2 to W8A8 with simulated activations", _packed
    ),
    "timm": Format((FP32,), "fp32", _timm),
    "torchvision": Format((FP32,), "fp32", _torchvision),
    "torch_export": Format((FP32,), "fp32", _torch_export),
}
OPENVINO = Format(_INT8, "W8A8 or fp32", openvino_runtime.write)
