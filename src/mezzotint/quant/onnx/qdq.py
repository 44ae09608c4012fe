"""Quantize an ONNX graph by inserting `QuantizeLinear` and `DequantizeLinear` where we say, with ranges that we chose.

The result is plain ONNX. A runtime that knows integer kernels fuses each `DequantizeLinear → Conv →
QuantizeLinear` into one of them; one that does not computes the very same thing in float, as fake
quantization. Weights are int8, one symmetric range for each output channel; activations uint8, one
affine range for each tensor; biases int32 with the product of both scales (Jacob et al. 2018, arXiv
1712.05877). A residual sum between quantized tensors is fused by ONNX Runtime as well.

Differs from ONNX Runtime's own `quantize_static` in that the ranges come from
`mezzotint.quant.observers`, that an activation function's output is quantized instead of its input,
that a product's result stays float unless the next quantized operator takes it, and that the result
says what was left float and why.

Widths below 8 are simulated: codes of fewer bits in the same int8 and uint8 storage. No processor's
runtime computes with them, so the file is neither smaller nor faster; it says what the accuracy
would be.

What the processor can do with 8-bit integers.

x86 without VNNI or AMX multiplies unsigned by signed bytes with `vpmaddubsw`, which adds pairs of
products in 16 bits and *saturates*: 2 · 255 · 127 = 64,770 is above 32,767, so large activations
times large weights come out wrong and nothing says so. With weights of 7 bits the sum is at most 2
· 255 · 63 = 32,130, which fits. That is `reduce_range`, and it is needed exactly where those
instructions are missing.

Ranges of a graph's tensors: our observers, fed by the runtime that will serve the graph.
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
from mezzotint.quant.observers import Observer
from mezzotint.quant.onnx.insertion import insert
from mezzotint.quant.onnx.session import OnnxFunction, integer_kernels, optimized, require
from mezzotint.quant.onnx.sites import Graph, find_sites, label
from mezzotint.recipe.schema import construct, resolve

_EXACT = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""Instructions that add products of bytes in 32 bits, by the kernel's names: x86, then ARM."""


def flags() -> list[str]:
    """Which of those instructions this processor has; none where the system does not say."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ["asimddp"]  # every Apple processor of 64 bits that runs a current Python
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return sorted(_EXACT.intersection(line.partition(":")[2].split()))


def saturates(found: list[str] | None = None) -> bool:
    """Whether sums of 8-bit products may saturate, so that weights should keep to 7 bits.

    Args:
        found: instructions as `flags` names them; by default those of this processor.
    """
    return not _EXACT.intersection(flags() if found is None else found)


ObserverKind = str | Mapping[str, Any] | Callable[[], Observer]
Batches = Iterable[Tensor | np.ndarray[Any, Any]]


def make_observer(observer: ObserverKind) -> Observer:
    """An observer by kind, such as `"min_max"`, by kind and keys, or by a function that makes one.

    Raises:
        RecipeError: for an unknown kind or key, with those that are known.
    """
    if callable(observer):
        return observer()
    made: Observer = construct(resolve(observer, "Observer", "observer"), "Observer", {})
    return made


def observe(
    model: bytes, tensors: Sequence[str], batches: Batches, observer: ObserverKind = "min_max"
) -> tuple[dict[str, Observer], int]:
    """Run a model over calibration data, and collect the ranges of some of its tensors.

    Args:
        model: an ONNX model.
        tensors: names of activations; each gets one range.
        batches: normalized inputs; each as large as a model with a fixed batch size wants it.
        observer: its kind, or what makes it.

    Returns:
        The observers, by tensor, and how many samples they have seen.

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
                    f"the activation {name} is not finite on the calibration data; allowed are finite values: look at "
                    "the weights and at the input's normalization"
                )
            collector.update(value.float().reshape(1, -1))
        seen += len(x)
    if seen == 0:
        raise ValueError(
            "the calibration set is empty; allowed is one sample or more: give batches of inputs"
        )
    return collectors, seen


def torch_of(array: np.ndarray[Any, Any]) -> Tensor:
    """A float32 tensor of an array."""
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


_OLDEST = 13  # DequantizeLinear has an axis since then


@dataclass(frozen=True)
class OnnxQuantization:
    """What `quantize_onnx` did.

    Attributes:
        quantized: names of the operators that were, with their kind.
        left: names of those that were left float, with the reason.
        weight_bits: effective width of the weights' codes.
        activation_bits: of the activations'.
        reduce_range: whether the weights keep to 7 bits, so that no sum can saturate.
        samples: how many calibrated the ranges.
        integer_kernels: what the runtime here computes in integers, by kind; empty where nothing
            is.
    """

    quantized: dict[str, str]
    left: dict[str, str]
    weight_bits: int
    activation_bits: int
    reduce_range: bool
    samples: int
    integer_kernels: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        total = len(self.quantized) + len(self.left)
        lines = [
            f"{len(self.quantized)} of {total} operators quantized, W{self.weight_bits}A{self.activation_bits}"
        ]
        return "\n".join(
            [*lines, *(f"  left float: {name}: {reason}" for name, reason in self.left.items())]
        )


def quantize_onnx(
    path_in: str | Path,
    path_out: str | Path,
    batches: Batches,
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    reduce_range: bool | None = None,
    observer: ObserverKind = "min_max",
    skip: tuple[str, ...] = (),
) -> OnnxQuantization:
    """Quantize any float ONNX encoder.

    Args:
        path_in: a float model with one input.
        path_out: file to write.
        batches: normalized inputs that represent what the model will meet, not its test data.
        weight_bits: 2 to 8; below 8 a simulation in 8-bit storage.
        activation_bits: 2 to 8, likewise.
        reduce_range: keep weights to 7 bits; by default where this processor's sums of 8-bit
            products may saturate.
        observer: kind of the observer, or what makes one, that chooses the activations' ranges.
        skip: names of operators to leave float.

    Raises:
        ValueError: for other widths, no samples, a model that cannot be opened, that is quantized
            already, or in which nothing can be quantized.
    """
    onnx = require("onnx", "ONNX export", "onnx")
    for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        if not 2 <= bits <= 8:
            raise ValueError(
                f"got {name}={bits}; allowed are 2 to 8: use 8 for what a runtime computes in integers"
            )
    reduce_range = saturates() if reduce_range is None else reduce_range
    model = prepare(path_in)
    graph = Graph(model)
    sites, left = find_sites(graph, skip)
    if not sites:
        raise ValueError(
            f"nothing to quantize in {path_in}: 0 of {len(left)} convolutions and products can be"
            f"{''.join(f' ({reason})' for reason in list(left.values())[:1])}; allowed is a float model with constant "
            "weights: export it anew in float"
        )
    tensors = {graph.source(site.input): None for site in sites}
    tensors |= {graph.source(site.output): None for site in sites if site.output is not None}
    observers, samples = observe(model.SerializeToString(), list(tensors), batches, observer)
    effective = min(weight_bits, 7) if reduce_range else weight_bits
    insert(graph, sites, observers, weight_bits=effective, activation_bits=activation_bits)
    kernels = integer_kernels(
        model.SerializeToString()
    )  # which also shows that the runtime takes it
    with replacing(Path(path_out)) as temporary:
        onnx.save(model, temporary)
    quantized = {label(site.node): site.node.op_type for site in sites}
    return OnnxQuantization(
        quantized, left, effective, activation_bits, reduce_range, samples, kernels
    )


def prepare(path: str | Path) -> Any:
    """A model with constants folded and BatchNorm folded into convolutions, of an opset that can be quantized.

    Raises:
        ValueError: when there is no such file, it cannot be opened, or it is quantized already.
    """
    onnx = require("onnx", "ONNX export", "onnx")
    if not Path(path).is_file():
        raise ValueError(f"got {path}, which is no file; allowed is an ONNX model: give its path")
    model = optimized(path, basic=True)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node):
        raise ValueError(
            f"got {path}, which is quantized already; allowed is a float model: give the original"
        )
    used = {node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    if min(entry.version for entry in kept if entry.domain == "") < _OLDEST:
        model = onnx.version_converter.convert_version(model, 17)
    return model
