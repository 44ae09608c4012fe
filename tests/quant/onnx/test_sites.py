"""Which operators can be quantized, and why the others stay fp32."""

from pathlib import Path

import numpy as np
import torch
from onnx import helper

from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction
from tests.onnx_graphs import images, random, residual, save


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
