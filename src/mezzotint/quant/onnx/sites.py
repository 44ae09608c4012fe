"""Find the operators of a graph that can be quantized: those with a constant weight.

Only convolutions and matrix products are quantized. All other operators (LayerNorm, softmax, GELU,
residual sums) stay fp32, because quantizing them costs accuracy and gains little: a ViT quantized
at every operator that ONNX Runtime supports drops from a cosine of 0.998 to 0.87.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

OPERATORS = ("Conv", "Gemm", "MatMul")
_RECTIFIERS = ("Relu", "Clip")
_ORDER_PRESERVING = (
    "MaxPool",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Identity",
)


@dataclass(frozen=True)
class Site:
    """Operator that can be quantized.

    Attributes:
        node: node of the graph.
        input: name of its input activation.
        weight: name of its constant weight.
        axis: dimension of the weight's output channels.
        bias: name of its constant bias.
        output: tensor to quantize after it, behind a ReLU that is the only consumer, so that the
            runtime computes all of it in integers; `None` if the result stays fp32.
    """

    node: Any
    input: str
    weight: str
    axis: int
    bias: str | None
    output: str | None


class Graph:
    """Index of an ONNX graph.

    Args:
        model: a `ModelProto`.

    Attributes:
        constants: arrays of the initializers, by name.
        producer: node that produces a tensor, by the tensor's name.
        consumers: nodes that take a tensor, by the tensor's name.
        input: name of the first input.
        outputs: names of the outputs.
    """

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self.constants: dict[str, np.ndarray[Any, Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self.producer: dict[str, Any] = {}
        self.consumers: dict[str, list[Any]] = defaultdict(list)
        for node in model.graph.node:
            self.producer.update(dict.fromkeys(node.output, node))
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node)
        self.input: str = next(
            str(i.name) for i in model.graph.input if i.name not in self.constants
        )
        self.outputs = {output.name for output in model.graph.output}

    def rectified(self, tensor: str) -> str:
        """Return the output of the ReLU that is this tensor's only consumer, or the tensor."""
        consumers = self.consumers[tensor]
        if (
            len(consumers) == 1
            and consumers[0].op_type in _RECTIFIERS
            and tensor not in self.outputs
        ):
            return str(consumers[0].output[0])
        return tensor

    def source(self, tensor: str) -> str:
        """Return the tensor whose values this one reorders or selects: both share one range."""
        node = self.producer.get(tensor)
        while (
            node is not None
            and node.op_type in _ORDER_PRESERVING
            and node.input[0] not in self.constants
        ):
            tensor = str(node.input[0])
            node = self.producer.get(tensor)
        return tensor

    def is_rectified(self, tensor: str) -> bool:
        """Return whether the values come from a ReLU: all consumers may then take it quantized."""
        node = self.producer.get(self.source(tensor))
        return node is not None and node.op_type in _RECTIFIERS


def label(node: Any) -> str:
    """Return a name for reports: the node's own, or its output's."""
    return str(node.name or node.output[0])


def find_sites(graph: Graph, skip: tuple[str, ...] = ()) -> tuple[list[Site], dict[str, str]]:
    """Find all operators that can be quantized, and say why others of their kinds cannot.

    Args:
        graph: graph to search.
        skip: names of operators that stay fp32.

    Returns:
        Sites, and reasons by name of the operators that stay fp32.
    """
    nodes, skipped = [], {}
    for node in graph.model.graph.node:
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            continue
        reason = "named in skip" if label(node) in skip else _obstacle(graph, node)
        if reason is None:
            nodes.append(node)
        elif reason:
            skipped[label(node)] = f"{node.op_type}: {reason}"
    inputs = {graph.source(node.input[0]) for node in nodes}
    return [_site(graph, node, inputs) for node in nodes], skipped


def _obstacle(graph: Graph, node: Any) -> str | None:
    """Return why an operator stays fp32: `None` if it does not, "" for a product of activations."""
    weight = graph.constants.get(node.input[1])
    if weight is None:
        return "" if node.op_type == "MatMul" else "its weight is not a constant"
    if node.input[0] in graph.constants:
        return "its input is a constant"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}, not float32"
    if node.op_type == "Conv":
        return _bias_obstacle(graph, node, weight.shape[0])
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} dimensions, not 2"
    if node.op_type == "Gemm":
        settings = {
            entry.name: entry.i if entry.name.startswith("trans") else entry.f
            for entry in node.attribute
        }
        if (
            settings.get("transA")
            or settings.get("alpha", 1.0) != 1.0
            or settings.get("beta", 1.0) != 1.0
        ):
            return "it transposes or scales its input"
        return _bias_obstacle(graph, node, weight.shape[0 if settings.get("transB") else 1])
    return None


def _bias_obstacle(graph: Graph, node: Any, channels: int) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    bias = graph.constants.get(node.input[2])
    if bias is None or bias.dtype != np.float32 or bias.size != channels:
        return "its bias is not a constant with one value per channel"
    return None


def _site(graph: Graph, node: Any, inputs: set[str]) -> Site:
    """Make a site: the axis of its weight, and the tensor to quantize after it."""
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    bias = str(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    behind = graph.rectified(str(node.output[0]))
    # Integer kernels of convolutions need a quantized result; matrix products can return fp32.
    quantize_output = node.op_type == "Conv" or behind in inputs
    return Site(
        node,
        str(node.input[0]),
        str(node.input[1]),
        axis,
        bias,
        behind if quantize_output else None,
    )
