"""Insert `QuantizeLinear` and `DequantizeLinear` pairs into a graph, and store weights as codes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.fake import Layout
from mezzotint.quant.grid import Grid, make_grid
from mezzotint.quant.observers import MinMax, Observer
from mezzotint.quant.onnx.sites import Graph, Site

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
