"""Export to OpenVINO, quantized by NNCF and verified like every other format.

NNCF sets the ranges itself (histograms, bias correction), so `observer` and `reduce_range` do not
apply; it prevents overflow on processors that need it. The simulation is the quantized model with
its `FakeQuantize` operators computed in fp32.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mezzotint.export.float_formats import write_onnx
from mezzotint.export.request import Request, copy_to_fp32
from mezzotint.export.verify import Artifact
from mezzotint.quant.bitwidth import FP32
from mezzotint.quant.onnx.session import require


class OpenvinoFunction:
    """An OpenVINO model as a function of one tensor.

    Args:
        model: a file, or an in-memory model.
        quantized: whether to compute quantized operators in integers; otherwise every operator
            runs in fp32, as written.
    """

    def __init__(self, model: Any, *, quantized: bool = True) -> None:
        openvino = require("openvino", "--runtime openvino", "openvino")
        self._tensor = openvino.Tensor
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if not quantized:
            settings["LP_TRANSFORMS_MODE"] = False
        source = str(model) if isinstance(model, Path) else model
        self._compiled = openvino.Core().compile_model(source, "CPU", settings)

    def __call__(self, x: Tensor) -> Tensor:
        features = self._compiled(x.detach().cpu().contiguous().numpy())[0]
        return torch.from_numpy(features.copy())


def write(request: Request) -> Artifact:
    """Write `encoder.xml` and `encoder.bin`: int8 by NNCF, or fp32.

    Raises:
        ValueError: if openvino or nncf is missing.
    """
    openvino = require("openvino", "--runtime openvino", "openvino")
    nncf = require("nncf", "--runtime openvino", "openvino") if not request.bits.is_float else None
    encoder = copy_to_fp32(request.encoder)
    onnx_path, path = request.folder / "encoder.onnx", request.folder / "encoder.xml"
    write_onnx(encoder, onnx_path)
    model = openvino.convert_model(str(onnx_path))
    runtime = {"runtime": {"name": "openvino", "version": openvino.__version__}}
    files, float_size = (path, path.with_suffix(".bin")), onnx_path.stat().st_size
    reference = OpenvinoFunction(onnx_path)
    onnx_path.unlink()
    if nncf is None:
        openvino.save_model(model, path, compress_to_fp16=False)
        bits = {"storage_bits": str(FP32), "compute_bits": str(FP32)}
        return Artifact(
            files,
            lambda: OpenvinoFunction(path),
            encoder,
            reference,
            float_size,
            "float",
            runtime | bits,
        )
    batches = [x.numpy() for batch in request.calibration_batches() for x in torch.split(batch, 1)]
    transformer = any(isinstance(module, torch.nn.LayerNorm) for module in encoder.modules())
    quantized = nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    openvino.save_model(quantized, path, compress_to_fp16=False)
    facts = {
        "storage_bits": str(request.bits),
        "compute_bits": str(request.bits),
        "accumulator_bits": 32,
        "operators": _count_operators(quantized),
        "calibration": {"samples": len(batches), "observer": f"nncf {nncf.__version__}"},
    }
    simulation = OpenvinoFunction(quantized, quantized=False)
    return Artifact(
        files,
        lambda: OpenvinoFunction(path),
        simulation,
        reference,
        float_size,
        "quantized",
        runtime | facts,
    )


def _count_operators(model: Any) -> dict[str, Any]:
    """Count the convolutions and products whose input and weight are both quantized."""
    skipped, quantized = {}, 0
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        kinds = [_producer_kind(node.input_value(index).get_node()) for index in range(2)]
        if kinds == ["FakeQuantize", "FakeQuantize"]:
            quantized += 1
        else:
            skipped[node.get_friendly_name()] = (
                f"{kind}: its inputs come from {kinds[0]} and {kinds[1]}"
            )
    return {"quantized": quantized, "of": quantized + len(skipped), "left_float": skipped}


def _producer_kind(node: Any) -> str:
    """Return the kind of operator that computes a tensor, before reshapes and conversions."""
    while node.get_type_name() in ("Reshape", "Transpose", "Convert"):
        node = node.input_value(0).get_node()
    kind = str(node.get_type_name())
    if kind != "Multiply":
        return kind
    # NNCF stores a weight as integers, which a `Multiply` scales.
    if _producer_kind(node.input_value(0).get_node()) in ("Constant", "Subtract"):
        return "FakeQuantize"
    return kind
