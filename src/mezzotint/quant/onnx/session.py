"""ONNX Runtime: opened, asked for tensors, and looked into for what it really computes."""

import collections
import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
            f"{purpose} needs the package {package}, which is not installed; pip install 'mezzotint[{extra}]'"
        ) from error


class OnnxFunction:
    """An ONNX model as a function of one tensor.

    Args:
        model: a file, or the bytes of one.
        optimize: as it will be served. Without, every node runs as it is written, in float:
            `QuantizeLinear` and `DequantizeLinear` are then fake quantization, and the model is its
            own simulation.
        outputs: names of the tensors wanted; by default the first output.
        optimized_path: where to write the graph that the runtime made of it.

    Attributes:
        input: name of the only input.

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
        runtime = require("onnxruntime", "an ONNX model", "onnx")
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        levels = runtime.GraphOptimizationLevel
        level = levels.ORT_ENABLE_BASIC if basic else levels.ORT_ENABLE_ALL
        options.graph_optimization_level = level if optimize else levels.ORT_DISABLE_ALL
        if optimized_path is not None:
            options.optimized_model_filepath = str(optimized_path)
        source = model if isinstance(model, bytes) else str(model)
        try:
            self._session = runtime.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: B902 - the runtime's own classes differ from version to version
            reason = " ".join(str(error).split())[:200]
            name = "the model" if isinstance(model, bytes) else str(model)
            raise ValueError(
                f"onnxruntime {runtime.__version__} cannot open {name}: {reason}; allowed is a valid ONNX file of an "
                "opset it knows: export it again"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise ValueError(
                f"got a model with {len(inputs)} inputs; allowed is one, of images or other samples: cut the rest off"
            )
        self.input: str = inputs[0].name
        self.outputs = (
            list(outputs) if outputs is not None else [self._session.get_outputs()[0].name]
        )

    def run(self, x: Tensor | np.ndarray[Any, Any]) -> Mapping[str, Tensor]:
        """All wanted tensors, by name."""
        array = x.detach().cpu().numpy() if isinstance(x, Tensor) else x
        values = self._session.run(self.outputs, {self.input: np.ascontiguousarray(array)})
        return {
            name: torch.from_numpy(value) for name, value in zip(self.outputs, values, strict=True)
        }

    def __call__(self, x: Tensor) -> Tensor:
        """The first wanted tensor."""
        return self.run(x)[self.outputs[0]]


def optimized(model: str | Path | bytes, *, basic: bool = False) -> Any:
    """The graph that the runtime executes.

    Args:
        model: a file, or the bytes of one.
        basic: only the optimizations that keep to ONNX's own operators: constants are folded, and
            BatchNorm into the convolution before it.
    """
    onnx = require("onnx", "an ONNX model", "onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OnnxFunction(model, optimized_path=path, basic=basic)
        return onnx.load(path)


def integer_kernels(model: str | Path | bytes) -> dict[str, int]:
    """How many operators the runtime computes in integers, by kind: what quantization really led to."""
    found = collections.Counter(node.op_type for node in optimized(model).graph.node)
    return {name: found[name] for name in INTEGER_KERNELS if found[name]}
