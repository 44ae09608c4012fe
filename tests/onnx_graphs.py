"""Small ONNX graphs, made by hand, so that no test waits for an exporter."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]


def save(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Array],
    shape: list[int | str],
    opset: int = 20,
    inputs: int = 1,
) -> Path:
    """A graph from `x` (and `x1` …) to `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(f"x{i or ''}", TensorProto.FLOAT, shape)
            for i in range(inputs)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path
    )
    return path


def random(*shape: int, seed: int = 0, scale: float = 0.5) -> Array:
    return np.random.default_rng(seed).normal(0.0, scale, shape).astype(np.float32)


def residual(path: Path, opset: int = 20, batch: int | str = "batch") -> Path:
    """Conv, Relu, pool, a residual block, mean: all that a ResNet has."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], name="stem", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p1", "w2", "b2"], ["c2"], name="first", pads=[1, 1, 1, 1]),
        node("Clip", ["c2", "zero", "six"], ["r2"]),
        node("Conv", ["r2", "w3"], ["c3"], name="second", pads=[1, 1, 1, 1]),
        node("Add", ["c3", "p1"], ["a3"]),
        node("Relu", ["a3"], ["r3"]),
        node("GlobalAveragePool", ["r3"], ["m"]),
        node("Flatten", ["m"], ["f"], axis=1),
        node("Gemm", ["f", "w4", "b4"], ["y"], name="head", transB=1),
    ]
    constants = {
        "w1": random(8, 3, 3, 3, seed=1),
        "b1": random(8, seed=2),
        "w2": random(8, 8, 3, 3, seed=3, scale=0.2),
        "b2": random(8, seed=4),
        "w3": random(8, 8, 3, 3, seed=5, scale=0.2),
        "w4": random(16, 8, seed=6),
        "b4": random(16, seed=7),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    return save(path, nodes, constants, [batch, 3, 8, 8], opset)


def images(count: int = 64, seed: int = 9) -> Array:
    return random(count, 3, 8, 8, seed=seed, scale=1.0)
