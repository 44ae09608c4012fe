"""QDQ insertion against a naive reference, ONNX Runtime's own quantizer, and its kernels."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.onnx.qdq import quantize_onnx
from mezzotint.quant.onnx.session import OnnxFunction, optimized
from tests.onnx_graphs import Array, images, random, residual, save


def constants(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def fake(x: Array, low: float, high: float, bits: int = 8) -> Array:
    """One affine range, written out."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(2**bits - 1))
    zero = np.rint(np.float32(-low) / scale)
    found: Array = ((np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1) - zero) * scale).astype(
        np.float32
    )
    return found


def fake_weight(w: Array, bits: int = 8) -> Array:
    """One symmetric range for each row."""
    rows = w.reshape(len(w), -1)
    scale = (np.abs(rows).max(axis=1, keepdims=True) / np.float32(2 ** (bits - 1) - 1)).astype(
        np.float32
    )
    found: Array = (np.rint(rows / scale) * scale).reshape(w.shape).astype(np.float32)
    return found


@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (3, 5), (2, 2)])
def test_one_convolution_equals_a_naive_reference(
    weight_bits: int, activation_bits: int, tmp_path: Path
) -> None:
    w = random(4, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    path = save(tmp_path / "a.onnx", nodes, {"w": w}, ["n", 3, 8, 8])
    x = images()
    out = tmp_path / "q.onnx"
    quantize_onnx(path, out, [x], bits=Bits(weight_bits, activation_bits), reduce_range=False)
    exact = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w)).relu().numpy()
    taken, weight = fake(x, x.min(), x.max(), activation_bits), fake_weight(w, weight_bits)
    wanted = (
        torch.nn.functional.conv2d(torch.from_numpy(taken), torch.from_numpy(weight)).relu().numpy()
    )
    wanted = fake(wanted, 0.0, float(exact.max()), activation_bits)
    got = OnnxFunction(out, optimize=False)(torch.from_numpy(x)).numpy()
    step = exact.max() / (2**activation_bits - 1)
    off = np.abs(got - wanted)
    assert off.max() < 1.01 * step  # a sum that rounds the other way moves a value by one step …
    assert (off > 1e-4).mean() < 1e-3  # … and that is rare


def test_the_runtime_computes_everything_in_integers_and_alike(tmp_path: Path) -> None:
    path, out = residual(tmp_path / "a.onnx"), tmp_path / "q.onnx"
    done = quantize_onnx(path, out, [images(32), images(32, seed=10)], reduce_range=False)
    assert (
        done.quantized == {"stem": "Conv", "first": "Conv", "second": "Conv", "head": "Gemm"}
        and not done.skipped
    )
    assert done.samples == 64 and done.integer_kernels == {"QLinearConv": 3, "QGemm": 1}
    kinds = Counter(node.op_type for node in optimized(out).graph.node)
    assert (
        kinds["Relu"] + kinds["Clip"] + kinds["Conv"] + kinds["Gemm"] <= 1
    )  # the last Relu, before the mean
    x = torch.from_numpy(images(seed=11))
    real, simulated, exact = (
        OnnxFunction(out)(x),
        OnnxFunction(out, optimize=False)(x),
        OnnxFunction(path)(x),
    )
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(real, simulated).min() > 0.999 and cosine(real, exact).min() > 0.99


def test_weights_and_ranges_equal_those_of_the_runtimes_own_quantizer(tmp_path: Path) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"x": images()}])

        def get_next(self) -> Any:
            return next(self.batches, None)

    path = residual(tmp_path / "a.onnx")
    quantize_static(
        path, tmp_path / "theirs.onnx", Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
    )  # fmt: skip
    quantize_onnx(path, tmp_path / "ours.onnx", [images()], reduce_range=False)
    theirs, ours = constants(tmp_path / "theirs.onnx"), constants(tmp_path / "ours.onnx")
    for name in ("w1", "w2", "w3"):
        mine = next(
            value
            for key, value in ours.items()
            if key.startswith(f"{name}_") and key.endswith("_codes")
        )
        assert np.array_equal(mine, theirs[f"{name}_quantized"])
    assert (
        np.isclose(ours["x_scale"], theirs["x_scale"])
        and ours["x_zero_point"] == theirs["x_zero_point"]
    )


def test_reduced_range_keeps_to_seven_bits(tmp_path: Path) -> None:
    done = quantize_onnx(
        residual(tmp_path / "a.onnx"), tmp_path / "q.onnx", [images()], reduce_range=True
    )
    found = [
        value
        for value in constants(tmp_path / "q.onnx").values()
        if value.dtype == np.int8 and value.ndim > 1
    ]
    assert len(found) == 4 and max(np.abs(value).max() for value in found) == 63
    assert done.bits.weight == 7 and done.reduce_range


@pytest.mark.parametrize(("needed", "bits"), [(True, 7), (False, 8)])
def test_the_range_is_reduced_where_the_processor_needs_it(
    needed: bool, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mezzotint.quant.onnx.qdq.saturates", lambda: needed)
    done = quantize_onnx(residual(tmp_path / "a.onnx"), tmp_path / "q.onnx", [images()])
    assert (done.reduce_range, done.bits.weight) == (needed, bits)


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


def test_a_foreign_file_of_an_old_opset_with_batch_norm(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv"),
        node("BatchNormalization", ["c", "g", "s", "m", "v"], ["n"]),
        node("Relu", ["n"], ["y"]),
    ]
    values = {
        "w": random(4, 3, 3, 3), "g": np.abs(random(4, seed=1)) + 0.5, "s": random(4, seed=2),
        "m": random(4, seed=3), "v": np.abs(random(4, seed=4)) + 0.5,
    }  # fmt: skip
    path = save(tmp_path / "old.onnx", nodes, values, ["n", 3, 8, 8], opset=11)
    done = quantize_onnx(path, tmp_path / "q.onnx", [images()])
    assert len(done.quantized) == 1 and done.integer_kernels == {"QLinearConv": 1}
    x = torch.from_numpy(images(seed=3))
    got, wanted = OnnxFunction(tmp_path / "q.onnx")(x).flatten(1), OnnxFunction(path)(x).flatten(1)
    assert torch.nn.functional.cosine_similarity(got, wanted).min() > 0.995


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


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    path, out = residual(tmp_path / "a.onnx"), tmp_path / "q.onnx"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    two = [helper.make_node("MatMul", ["x", "x1"], ["y"])]
    nan = images()
    nan[3, 1, 2, 2] = np.nan
    cases: list[tuple[Path, Any, dict[str, Any], str]] = [
        (path, [], {}, "calibration set is empty"),
        (path, [nan], {}, "contains NaN or inf on the calibration data"),
        (path, [images()], {"bits": Bits(8, 1)}, "`bits` must be 2 to 8 on both sides, got W8A1"),
        (path, [images()], {"bits": Bits(32, 8)}, "`bits` must be 2 to 8 on both sides, got W32A8"),
        (path, [images()], {"observer": "min_mex"}, "Did you mean 'min_max'"),
        (tmp_path / "none.onnx", [images()], {}, "is not a file"),
        (broken, [images()], {}, "cannot be opened"),
        (
            save(tmp_path / "r.onnx", relu, {}, ["n", 3, 8, 8]),
            [images()],
            {},
            "has nothing to quantize: none of its 0 ",
        ),
        (
            save(tmp_path / "t.onnx", two, {}, ["n", 6], inputs=2),
            [images()],
            {},
            "must have one input .*, got 2: ",
        ),
    ]
    for given, batches, options, message in cases:
        with pytest.raises(ValueError, match=message):
            quantize_onnx(given, out, batches, **options)
    assert not out.exists()
    quantize_onnx(path, out, [images()])
    with pytest.raises(ValueError, match="quantized already"):
        quantize_onnx(out, tmp_path / "again.onnx", [images()])


def test_without_the_runtime_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = residual(tmp_path / "a.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ValueError, match=r"needs the package `onnxruntime`, .*`pip install 'mezzotint\[onnx\]'`"
    ):
        quantize_onnx(path, tmp_path / "q.onnx", [images()])
