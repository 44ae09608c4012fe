"""Codes, scales and nodes that are inserted: naive reference, constants, and dead channels."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction
from tests.onnx_graphs import Array, images, random, residual, save


def constants(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_keep_to_the_width(bits: int, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    quantize_onnx(
        residual(tmp_path / "a.onnx"),
        out,
        [images()],
        bits=Bits(bits, bits),
        reduce_range=False,
    )
    largest = max(
        np.abs(v).max() for v in constants(out).values() if v.dtype == np.int8 and v.ndim > 1
    )
    assert largest == 2 ** (bits - 1) - 1
    codes = [
        n.output[0] for n in onnx.load(out).graph.node if n.op_type in ("QuantizeLinear", "Clip")
    ]
    codes = [name for name in codes if name.endswith("_clipped" if bits < 8 else "_quantized")]
    model = onnx.load(out)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in codes)
    values = OnnxFunction(model.SerializeToString(), optimize=False, outputs=codes).run(
        images(seed=12) * 3
    )
    assert len(values) == 6 and all(int(value.max()) <= 2**bits - 1 for value in values.values())


def test_products_keep_a_float_result_and_a_tensor_that_others_take_stays_float_for_them(
    tmp_path: Path,
) -> None:
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["h"], name="in"),
        node("Add", ["h", "b"], ["a"]),
        node("Erf", ["a"], ["e"]),
        node("MatMul", ["e", "w2"], ["o"], name="out"),
        node("MatMul", ["o", "o"], ["s"], name="attention"),
        node("Add", ["s", "e"], ["y"]),
    ]
    weights = {"w1": random(6, 6, seed=1), "b": random(6, seed=2), "w2": random(6, 6, seed=3)}
    path = save(tmp_path / "a.onnx", nodes, weights, ["n", 6, 6])
    x = random(20, 6, 6, seed=4)
    done = quantize_onnx(path, tmp_path / "q.onnx", [x], reduce_range=False)
    assert done.quantized == {"in": "MatMul", "out": "MatMul"} and not done.skipped
    assert done.integer_kernels == {"MatMulIntegerToFloat": 2}
    graph = onnx.load(tmp_path / "q.onnx").graph
    assert next(n for n in graph.node if n.output[0] == "y").input[1] == "e"
    assert Counter(n.op_type for n in graph.node)["QuantizeLinear"] == 2
    exact, real = (
        OnnxFunction(path)(torch.from_numpy(x)),
        OnnxFunction(tmp_path / "q.onnx")(torch.from_numpy(x)),
    )
    assert torch.nn.functional.cosine_similarity(exact.flatten(1), real.flatten(1)).min() > 0.999


def test_dead_and_constant_channels_keep_their_bias(tmp_path: Path) -> None:
    w, b = random(4, 3, 1, 1), np.array([1e4, -3.0, 0.0, 2.0], np.float32)
    w[0] = 0.0  # dead, with a bias that is far out of int32 at the least scale
    w[1] = 1e-30
    path = save(
        tmp_path / "a.onnx",
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        {"w": w, "b": b},
        ["n", 3, 8, 8],
    )
    quantize_onnx(path, tmp_path / "q.onnx", [images()], reduce_range=False)
    x = torch.from_numpy(images())
    for optimize in (False, True):
        got = OnnxFunction(tmp_path / "q.onnx", optimize=optimize)(x)
        assert torch.allclose(got[:, 0], torch.tensor(1e4), rtol=0.005)
    scales = [v for name, v in constants(tmp_path / "q.onnx").items() if name.endswith("scales")]
    assert all(np.isfinite(v).all() and (v > 0).all() for v in scales)


def test_a_constant_input_is_kept(tmp_path: Path) -> None:
    path = residual(tmp_path / "a.onnx")
    x = np.full((4, 3, 8, 8), 0.7, np.float32)
    quantize_onnx(path, tmp_path / "q.onnx", [x])
    got, wanted = (
        OnnxFunction(tmp_path / "q.onnx")(torch.from_numpy(x)),
        OnnxFunction(path)(torch.from_numpy(x)),
    )
    assert torch.nn.functional.cosine_similarity(got, wanted).min() > 0.99


def test_what_stays_float_is_named_with_its_reason(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="scaled", alpha=0.5),
        helper.make_node("Gemm", ["h", "w"], ["y"], name="plain"),
    ]
    path = save(tmp_path / "a.onnx", nodes, {"w": random(6, 6)}, ["n", 6])
    done = quantize_onnx(path, tmp_path / "q.onnx", [random(9, 6, seed=5)])
    assert list(done.quantized) == ["plain"] and done.skipped == {
        "scaled": "Gemm: it transposes or scales its input"
    }
    assert str(done).startswith("1 of 2 operators quantized")
    done = quantize_onnx(
        residual(tmp_path / "r.onnx"), tmp_path / "q.onnx", [images()], skip=("stem", "head")
    )
    assert list(done.quantized) == ["first", "second"] and set(done.skipped.values()) == {
        "Conv: named in skip", "Gemm: named in skip",
    }  # fmt: skip
