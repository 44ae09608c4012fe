"""Quantize an ONNX graph with `QuantizeLinear` and `DequantizeLinear` nodes (QDQ format).

The result is plain ONNX. A runtime with integer kernels fuses each `DequantizeLinear → Conv →
QuantizeLinear` into one of them; other runtimes compute the same values in fp32, as fake
quantization. Weights are int8 with one symmetric range per output channel, activations are uint8
with one affine range per tensor, and biases are int32 with the product of both scales (Jacob et al.
2018, arXiv 1712.05877). ONNX Runtime also fuses a residual sum between quantized tensors.

Differs from ONNX Runtime's own `quantize_static`: the ranges come from `mezzotint.quant.observers`
on calibration data run by the deployment runtime; the output of an activation function is
quantized instead of its input; the result of a matrix product stays fp32 unless the next quantized
operator takes it; and the report lists what stays fp32 and why.

Fewer than 8 bits are simulated: the codes have fewer bits, the storage is still int8 and uint8. No
CPU runtime computes with them, so the file is neither smaller nor faster; it shows the accuracy.

**Saturation.** x86 without VNNI or AMX multiplies unsigned by signed bytes with `vpmaddubsw`, which
adds pairs of products in 16 bits and *saturates*: 2 · 255 · 127 = 64,770 exceeds 32,767, so large
activations times large weights are silently wrong. With 7-bit weights the sum is at most 2 · 255 ·
63 = 32,130, which fits. That is `reduce_range`; it is the default where these instructions are
missing.
"""

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.files import replacing
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.observers import Observer
from mezzotint.quant.onnx.insertion import Graph, find_sites, insert, label
from mezzotint.quant.onnx.session import OnnxFunction, integer_kernels, optimized, require
from mezzotint.recipe.schema import construct, resolve

_EXACT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""Instructions that accumulate products of bytes in 32 bits, as Linux names them: x86, then ARM."""


def flags() -> list[str]:
    """List the exact instructions of this processor; empty if the system does not report them."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ["asimddp"]  # every Apple processor of 64 bits that runs a current Python
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return sorted(_EXACT.intersection(line.partition(":")[2].split()))


def saturates(instructions: list[str] | None = None) -> bool:
    """Return whether sums of 8-bit products may saturate, so that weights should have 7 bits.

    Args:
        instructions: names as in `flags`; by default read from this processor.
    """
    return not _EXACT.intersection(flags() if instructions is None else instructions)


ObserverKind = str | Mapping[str, Any] | Callable[[], Observer]
Batches = Iterable[Tensor | np.ndarray[Any, Any]]


def make_observer(observer: ObserverKind) -> Observer:
    """Make an observer from a kind such as `"min_max"`, a kind with keys, or a function.

    Raises:
        RecipeError: for an unknown kind or key.
    """
    if callable(observer):
        return observer()
    made: Observer = construct(resolve(observer, "Observer", "observer"), "Observer", {})
    return made


def observe(
    model: bytes, tensors: Sequence[str], batches: Batches, observer: ObserverKind = "min_max"
) -> tuple[dict[str, Observer], int]:
    """Run a model over calibration data, and observe some of its tensors.

    Args:
        model: bytes of an ONNX model.
        tensors: names of activations; each gets one range.
        batches: normalized inputs, of the model's batch size if it is fixed.
        observer: kind of the observer, or a function that makes one.

    Returns:
        Observers by tensor, and the number of samples.

    Raises:
        ValueError: when there are no samples, or a tensor is not finite.
    """
    import onnx

    collectors = {name: make_observer(observer) for name in tensors}
    graph = onnx.load_from_string(model)
    function = OnnxFunction(model)
    inner = [name for name in tensors if name != function.input]
    given = {output.name for output in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner if name not in given)
    function = OnnxFunction(graph.SerializeToString(), outputs=inner)
    seen = 0
    for batch in batches:
        x = batch if isinstance(batch, Tensor) else torch_of(batch)
        values = {**function.run(x), function.input: x}
        for name, collector in collectors.items():
            value = values[name]
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"The activation {name} contains NaN or inf on the calibration data. Check the "
                    "weights and the normalization of the input."
                )
            collector.update(value.float().reshape(1, -1))
        seen += len(x)
    if seen == 0:
        raise ValueError(
            "The calibration set is empty. It needs one sample or more: pass batches of inputs."
        )
    return collectors, seen


def torch_of(array: np.ndarray[Any, Any]) -> Tensor:
    """Convert an array to a float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


_OLDEST = 13  # DequantizeLinear has an axis since then


@dataclass(frozen=True)
class OnnxQuantization:
    """Report of `quantize_onnx`.

    Attributes:
        quantized: quantized operators: name and kind.
        skipped: operators that stay fp32: name and reason.
        bits: effective bit-widths.
        reduce_range: whether the weights are limited to 7 bits, so that no sum can saturate.
        samples: number of calibration samples.
        integer_kernels: number of operators that the local runtime computes in integers, by kind.
    """

    quantized: dict[str, str]
    skipped: dict[str, str]
    bits: Bits
    reduce_range: bool
    samples: int
    integer_kernels: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        total = len(self.quantized) + len(self.skipped)
        head = f"{len(self.quantized)} of {total} operators quantized, {self.bits}"
        return "\n".join(
            [head, *(f"  fp32: {name}: {reason}" for name, reason in self.skipped.items())]
        )


def quantize_onnx(
    path_in: str | Path,
    path_out: str | Path,
    batches: Batches,
    *,
    bits: Bits = Bits(8, 8),
    reduce_range: bool | None = None,
    observer: ObserverKind = "min_max",
    skip: tuple[str, ...] = (),
) -> OnnxQuantization:
    """Quantize an fp32 ONNX encoder.

    Args:
        path_in: fp32 model with one input.
        path_out: file to write.
        batches: normalized inputs for calibration, of the training data and not the test data.
        bits: bit-widths, 2 to 8; below 8 a simulation in 8-bit storage.
        reduce_range: limit weights to 7 bits; by default only where sums of 8-bit products may
            saturate on this processor.
        observer: kind of the observer of the activations' ranges, or a function that makes one.
        skip: names of operators that stay fp32.

    Raises:
        ValueError: for other bits, no samples, or a model that cannot be opened, is quantized
            already, or has nothing to quantize.
    """
    onnx = require("onnx", "Quantizing an ONNX model", "onnx")
    if not (2 <= bits.weight <= 8 and 2 <= bits.activation <= 8):
        raise ValueError(
            f"`bits` must be 2 to 8 on both sides, got {bits}. Runtimes have "
            "integer kernels for W8A8."
        )
    reduce_range = saturates() if reduce_range is None else reduce_range
    model = prepare(path_in)
    graph = Graph(model)
    sites, skipped = find_sites(graph, skip)
    if not sites:
        reason = "".join(f" ({reason})" for reason in list(skipped.values())[:1])
        raise ValueError(
            f"`{path_in}` has nothing to quantize: none of its {len(skipped)} convolutions and "
            f"matrix products qualifies{reason}. It must be an fp32 model with constant weights. "
            "Export it again in fp32."
        )
    tensors = {graph.source(site.input): None for site in sites}
    tensors |= {graph.source(site.output): None for site in sites if site.output is not None}
    observers, samples = observe(model.SerializeToString(), list(tensors), batches, observer)
    effective = Bits(min(bits.weight, 7) if reduce_range else bits.weight, bits.activation)
    insert(graph, sites, observers, bits=effective)
    kernels = integer_kernels(model.SerializeToString())  # also checks that the runtime opens it
    with replacing(Path(path_out)) as temporary:
        onnx.save(model, temporary)
    quantized = {label(site.node): site.node.op_type for site in sites}
    return OnnxQuantization(quantized, skipped, effective, reduce_range, samples, kernels)


def prepare(path: str | Path) -> Any:
    """Load a model, fold constants and BatchNorm, and convert it to an opset that supports QDQ.

    Raises:
        ValueError: when there is no such file, it cannot be opened, or it is quantized already.
    """
    onnx = require("onnx", "Quantizing an ONNX model", "onnx")
    if not Path(path).is_file():
        raise ValueError(f"`{path}` is not a file. It must be an ONNX model. Check the path.")
    model = optimized(path, basic=True)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ValueError(
            f"`{path}` is quantized already. It must be an fp32 model. Use the original file."
        )
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if min(entry.version for entry in kept if entry.domain == "") < _OLDEST:
        model = onnx.version_converter.convert_version(model, 17)
    return model
