"""The only wrapper of ONNX Runtime: open a model, run it, and see which kernels it uses."""

import collections
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mezzotint.files import require_seal

INTEGER_KERNELS = (
    "QLinearConv",
    "QGemm",
    "QLinearMatMul",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "MatMulInteger",
)
"""Operators of ONNX Runtime that multiply integers."""


def require(package: str, purpose: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ValueError: when it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs the package `{package}`, which is not installed. "
            f"Install it with `pip install 'mezzotint[{extra}]'`."
        ) from error


class OnnxFunction:
    """An ONNX model as a function of one tensor.

    Args:
        model: a file, or its bytes.
        optimize: optimize the graph, as in deployment. Without it every node runs as written, in
            fp32: `QuantizeLinear` and `DequantizeLinear` are then fake quantization, and the model
            simulates itself.
        outputs: names of the tensors to return; by default the first output.
        optimized_path: where to write the optimized graph.
        basic: only the optimizations that keep ONNX's own operators.

    Attributes:
        input: name of the only input.
        input_type: its type as the runtime writes it, such as `tensor(float)`.
        input_shape: its shape; dynamic dimensions are names or `None`.
        output_shapes: shape of each output of the model, by name.
        metadata: properties that the file states, by name.

    Raises:
        ValueError: when the runtime is missing, cannot open the model, or the model has several
            inputs.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        optimize: bool = True,
        outputs: Sequence[str] | None = None,
        optimized_path: Path | None = None,
        basic: bool = False,
    ) -> None:
        runtime = require("onnxruntime", "An ONNX model", "onnx")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors arrive as exceptions; a log line would double them
        options.intra_op_num_threads = torch.get_num_threads()
        levels = runtime.GraphOptimizationLevel
        level = levels.ORT_ENABLE_BASIC if basic else levels.ORT_ENABLE_ALL
        options.graph_optimization_level = level if optimize else levels.ORT_DISABLE_ALL
        if optimized_path is not None:
            options.optimized_model_filepath = str(optimized_path)
        source = model if isinstance(model, bytes) else str(model)
        if isinstance(source, str) and Path(source).is_file():
            require_seal(Path(source))
        name = "The model" if isinstance(model, bytes) else f"`{model}`"
        try:
            self._session = runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: B902 - the runtime's own classes differ between versions
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise ValueError(
                f"{name} cannot be opened by onnxruntime {runtime.__version__}: {reason}. "
                "It must be a valid ONNX file of an opset that this version knows. Export it again."
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"{name} must have one input (images or other samples), got {len(inputs)}: "
                f"{', '.join(entry.name for entry in inputs)}. Export the model without the others."
            )
        self.input: str = inputs[0].name
        self.input_type: str = inputs[0].type
        self.input_shape: list[int | str | None] = inputs[0].shape
        self.output_shapes: dict[str, list[int | str | None]] = {
            entry.name: entry.shape for entry in self._session.get_outputs()
        }
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.outputs = list(outputs) if outputs is not None else [next(iter(self.output_shapes))]

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> Mapping[str, Tensor]:
        """Return the requested tensors by name."""
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        values = self._session.run(self.outputs, {self.input: np.ascontiguousarray(array)})
        return {
            name: torch.from_numpy(value) for name, value in zip(self.outputs, values, strict=True)
        }

    def __call__(self, x: Tensor) -> Tensor:
        """Return the first requested tensor."""
        return self.run(x)[self.outputs[0]]


def optimized(model: str | Path | bytes, *, basic: bool = False) -> Any:
    """Return the graph that the runtime executes.

    Args:
        model: a file, or its bytes.
        basic: only the optimizations that keep ONNX's own operators: constants are folded, and
            BatchNorm into the convolution before it.
    """
    onnx = require("onnx", "An ONNX model", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OnnxFunction(model, optimized_path=path, basic=basic)
        return onnx.load(path)


def integer_kernels(model: str | Path | bytes) -> dict[str, int]:
    """Count the operators that the runtime computes in integers, by kind."""
    counts = collections.Counter(node.op_type for node in optimized(model).graph.node)
    return {name: counts[name] for name in INTEGER_KERNELS if counts[name]}
