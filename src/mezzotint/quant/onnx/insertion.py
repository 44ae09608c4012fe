"""Insert `QuantizeLinear` and `DequantizeLinear` pairs into a graph, and store weights as codes.

Operators that can be quantized are those with a constant weight. Only convolutions and matrix
products are quantized. All other operators (LayerNorm, softmax, GELU, residual sums) stay fp32,
because quantizing them costs accuracy and gains little: a ViT quantized at every operator that ONNX
Runtime supports drops from a cosine of 0.998 to 0.87.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.fake import Layout
from mezzotint.quant.grid import Grid, make_grid
from mezzotint.quant.observers import MinMax, Observer

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


_LARGEST_BIAS = 2.0**30
"""Largest code of a bias: half of int32's range, so that a sum with the products fits as well."""


def insert(
    graph: Graph,
    sites: list[Site],
    observers: Mapping[str, Observer],
    *,
    bits: Bits,
) -> None:
    """Quantize the sites of a graph, in place.

    Args:
        graph: graph of an fp32 model.
        sites: operators to quantize.
        observers: observer of every tensor `graph.source(t)`, for inputs and outputs `t` of sites.
        bits: bit-widths, 2 to 8.
    """
    _Insertion(graph, observers, bits).rewrite(sites)


class _Insertion:
    def __init__(self, graph: Graph, observers: Mapping[str, Observer], bits: Bits) -> None:
        number = torch.tensor(float(bits.activation))
        self.graph, self.weight_bits, self.bits = graph, bits.weight, bits.activation
        self.grids = {
            name: make_grid("affine", *observer.range("affine", number), number)
            for name, observer in observers.items()
        }
        self.made: dict[tuple[str | None, ...], str] = {}
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def rewrite(self, sites: list[Site]) -> None:
        """Rewrite the nodes in their order, which stays topological.

        A tensor is quantized for all consumers, and its fp32 version gets another name. If another
        consumer needs it in fp32, only the sites get the quantized version.
        """
        model = self.graph.model
        by_output = {site.node.output[0]: site for site in sites}
        inputs = {site.input for site in sites}
        for_all = {site.output for site in sites if site.output is not None}
        for_all |= {name for name in inputs if self.graph.is_rectified(name)}
        fed: dict[str, str] = {}
        if self.graph.input in inputs:
            fed[self.graph.input] = self._pair(
                self.graph.input, self.graph.input, f"{self.graph.input}_dequantized"
            )
        for node in list(model.graph.node):
            site = by_output.get(node.output[0])
            if site is not None:
                node.input[0] = fed.get(site.input, site.input)
                self._quantize_weight(site)
            self.nodes.append(node)
            for index, name in enumerate(node.output):
                if name in for_all:
                    node.output[index] = self._pair(name, f"{name}_float", name, renamed=True)
                elif name in inputs:
                    fed[name] = self._pair(name, name, f"{name}_dequantized")
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        self._replace_initializers()

    def _pair(self, name: str, taken: str, out: str, renamed: bool = False) -> str:
        """Quantize and dequantize the activation `name`, from tensor `taken` to tensor `out`.

        Returns:
            `taken` if it is the activation's new name, else `out`.
        """
        source = self.graph.source(name)
        grid, code = self.grids[source], f"{name}_quantized"
        assert grid.zero_point is not None
        scale = self._constant(f"{source}_scale", grid.scale.numpy().reshape(()).astype(np.float32))
        zero = self._constant(
            f"{source}_zero_point", grid.zero_point.numpy().reshape(()).astype(np.uint8)
        )
        self._node("QuantizeLinear", [taken, scale, zero], code)
        if self.bits < 8:
            low = self._constant("lowest_code", np.array(0, np.uint8))
            high = self._constant("highest_code", np.array(2**self.bits - 1, np.uint8))
            self._node("Clip", [code, low, high], f"{code}_clipped")
            code = f"{code}_clipped"
        self._node("DequantizeLinear", [code, scale, zero], out)
        return taken if renamed else out

    def _quantize_weight(self, site: Site) -> None:
        """Replace the weight and bias of a site by codes."""
        source = self.graph.source(site.input)
        scale_of_input = self.grids[source].scale.double().reshape(())
        weight = torch.from_numpy(self.graph.constants[site.weight].copy())
        layout = Layout("channel", axis=site.axis)
        grid = make_grid("symmetric", *MinMax.of(layout.rows(weight)), self.weight_bits)
        bias = (
            None
            if site.bias is None
            else torch.from_numpy(self.graph.constants[site.bias].copy()).double()
        )
        if bias is not None:
            # At the tiny scale of a dead channel its bias would overflow int32.
            least = bias.reshape(-1, 1).abs() / (scale_of_input * _LARGEST_BIAS)
            grid = Grid(torch.maximum(grid.scale, least.float()), None, grid.low, grid.high)
        codes = layout.unrows(grid.codes(layout.rows(weight)), weight.shape).contiguous()
        key = (site.weight, site.bias, source)
        site.node.input[1] = self._dequantized(
            (*key, "weight"), codes.numpy().astype(np.int8), grid.scale, site.axis
        )
        if bias is not None:
            product = (scale_of_input * grid.scale.double()).float()
            rounded = (bias.reshape(-1) / product.reshape(-1)).round()
            site.node.input[2] = self._dequantized(
                (*key, "bias"), rounded.numpy().astype(np.int32), product, 0
            )

    def _dequantized(
        self, key: tuple[str | None, ...], codes: npt.NDArray[Any], scale: torch.Tensor, axis: int
    ) -> str:
        """Add codes behind a `DequantizeLinear`; operators with equal keys share it."""
        if key not in self.made:
            stem = f"{key[0 if key[-1] == 'weight' else 1]}_{len(self.made)}"
            scales = scale.numpy().reshape(-1)
            parts = [
                self._constant(f"{stem}_codes", codes),
                self._constant(f"{stem}_scales", scales),
                self._constant(f"{stem}_zeros", np.zeros(len(scales), codes.dtype)),
            ]
            self.made[key] = f"{stem}_dequantized"
            self._node("DequantizeLinear", parts, self.made[key], axis=axis)
        return self.made[key]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        from onnx import helper

        self.nodes.append(
            helper.make_node(kind, inputs, [output], name=f"{output}_{kind}", **attributes)
        )

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        if name not in self.graph.constants:
            self.graph.constants[name] = value
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def _replace_initializers(self) -> None:
        """Remove the fp32 weights without consumers, and add the codes."""
        graph = self.graph.model.graph
        used = {name for node in graph.node for name in node.input} | self.graph.outputs
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.initializers])
        del graph.value_info[:]
