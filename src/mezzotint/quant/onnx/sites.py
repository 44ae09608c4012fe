"""Where a graph can be quantized: the operators with a constant weight, and the tensors around them.

Only convolutions and matrix products are quantized. Everything else (LayerNorm, softmax, GELU, the
sums of a residual network) stays float, because quantizing it costs accuracy and gains little; a
ViT quantized at every operator that ONNX Runtime offers falls from a cosine of 0.998 to 0.87.
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
    """An operator that can be quantized.

    Attributes:
        node: of the graph.
        input: the activation that it takes.
        weight: name of its constant weight.
        axis: of the weight's output channels.
        bias: name of its constant bias.
        output: the tensor to be quantized behind it, after a rectifier that is its only consumer,
            so that the runtime can do all of it in integers; `None` where its result is wanted in
            float.
    """

    node: Any
    input: str
    weight: str
    axis: int
    bias: str | None
    output: str | None


class Graph:
    """An ONNX graph, indexed.

    Args:
        model: a `ModelProto`.

    Attributes:
        constants: arrays of the initializers, by name.
        producer: the node that makes a tensor.
        consumers: the nodes that take it.
        input: name of the graph's first input.
        outputs: names of the graph's outputs.
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
        """The tensor behind the rectifier that alone consumes this one, or this one."""
        consumers = self.consumers[tensor]
        if (
            len(consumers) == 1
            and consumers[0].op_type in _RECTIFIERS
            and tensor not in self.outputs
        ):
            return str(consumers[0].output[0])
        return tensor

    def source(self, tensor: str) -> str:
        """The tensor whose values this one only orders anew or chooses from: it can share that one's range."""
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
        """Whether a rectifier makes it, or chooses its values: whoever takes it may then take it quantized."""
        node = self.producer.get(self.source(tensor))
        return node is not None and node.op_type in _RECTIFIERS


def label(node: Any) -> str:
    """A name for reports: an operator without a name is called by what it makes."""
    return str(node.name or node.output[0])


def find_sites(graph: Graph, skip: tuple[str, ...] = ()) -> tuple[list[Site], dict[str, str]]:
    """All operators that can be quantized, and why the others of their kinds cannot.

    Args:
        graph: to look through.
        skip: names of operators to leave float.
    """
    found, left = [], {}
    for node in graph.model.graph.node:
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            continue
        reason = "named in skip" if label(node) in skip else _obstacle(graph, node)
        if reason is None:
            found.append(node)
        elif reason:
            left[label(node)] = f"{node.op_type}: {reason}"
    inputs = {graph.source(node.input[0]) for node in found}
    return [_site(graph, node, inputs) for node in found], left


def _obstacle(graph: Graph, node: Any) -> str | None:
    """Why an operator stays float: `None` if it need not, empty for a product of two activations, without a weight."""
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
        given = {
            entry.name: entry.i if entry.name.startswith("trans") else entry.f
            for entry in node.attribute
        }
        if given.get("transA") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
            return "it transposes or scales its input"
        return _bias_obstacle(graph, node, weight.shape[0 if given.get("transB") else 1])
    return None


def _bias_obstacle(graph: Graph, node: Any, channels: int) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        return None
    bias = graph.constants.get(node.input[2])
    if bias is None or bias.dtype != np.float32 or bias.size != channels:
        return "its bias is not a constant of one value a channel"
    return None


def _site(graph: Graph, node: Any, inputs: set[str]) -> Site:
    """With its axis, and the tensor to quantize behind it."""
    transposed = any(entry.name == "transB" and entry.i for entry in node.attribute)
    axis = 0 if node.op_type == "Conv" or transposed else 1
    bias = str(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    behind = graph.rectified(str(node.output[0]))
    # A convolution is only done in integers when its result is quantized; a product also gives
    # float.
    wanted = node.op_type == "Conv" or behind in inputs
    return Site(
        node, str(node.input[0]), str(node.input[1]), axis, bias, behind if wanted else None
    )
