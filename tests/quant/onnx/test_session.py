"""ONNX Runtime as a function, and the kernels that it uses."""

from pathlib import Path

import pytest
import torch
from onnx import helper

from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction, integer_kernels, optimized
from tests.onnx_graphs import images, random, residual, save


def test_without_the_runtime_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = residual(tmp_path / "a.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ValueError, match=r"needs the package `onnxruntime`, .*`pip install 'mezzotint\[onnx\]'`"
    ):
        quantize_onnx(path, tmp_path / "q.onnx", [images()])


def test_a_function_returns_the_requested_tensors_and_states_its_shapes(tmp_path: Path) -> None:
    weight = random(3, 5)
    path = save(tmp_path / "a.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])],
                {"w": weight}, ["batch", 3])  # fmt: skip
    x = torch.from_numpy(random(4, 3, seed=1))
    for model in (path, path.read_bytes()):
        for optimize in (True, False):
            function = OnnxFunction(model, optimize=optimize)
            torch.testing.assert_close(function(x), x @ torch.from_numpy(weight))
    assert function.input == "x" and function.input_type == "tensor(float)"
    assert function.input_shape == ["batch", 3] and list(function.output_shapes) == ["y"]
    assert list(function.run(x.numpy())) == ["y"]


def test_the_optimized_graph_folds_constants(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("Add", ["a", "b"], ["c"]), node("Mul", ["x", "c"], ["y"])]
    path = save(tmp_path / "a.onnx", nodes, {"a": random(3), "b": random(3)}, ["n", 3])
    assert [n.op_type for n in optimized(path, basic=True).graph.node] == ["Mul"]
    assert integer_kernels(path) == {}


def test_integer_kernels_are_counted(tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    done = quantize_onnx(residual(tmp_path / "a.onnx"), out, [images()], reduce_range=False)
    assert integer_kernels(out) == done.integer_kernels and sum(done.integer_kernels.values()) == 4


def test_what_is_no_model_of_one_input_is_refused(tmp_path: Path) -> None:
    two = save(tmp_path / "two.onnx", [helper.make_node("Add", ["x", "x1"], ["y"])], {}, ["n", 3],
               inputs=2)  # fmt: skip
    with pytest.raises(ValueError, match="must have one input .*, got 2: x, x1"):
        OnnxFunction(two)
    with pytest.raises(ValueError, match="The model cannot be opened by onnxruntime"):
        OnnxFunction(b"no model")
