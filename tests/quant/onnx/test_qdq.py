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
from mezzotint.quant.onnx import qdq
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


@pytest.mark.parametrize(
    ("found", "needed"),
    [
        ([], True),
        (["avx512_vnni"], False),
        (["avx_vnni"], False),
        (["amx_int8"], False),
        (["asimddp"], False),
    ],
)
def test_only_processors_without_exact_sums_saturate(found: list[str], needed: bool) -> None:
    assert qdq.saturates(found) is needed


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("flags\t\t: fpu avx avx2 fma", []),
        ("flags\t\t: fpu avx2 avx512_vnni amx_int8", ["amx_int8", "avx512_vnni"]),
        ("Features\t: fp asimd asimddp", ["asimddp"]),
        ("processor\t: 0", []),
    ],
)
def test_flags_are_read_from_the_kernel(
    line: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: f"processor\t: 0\n{line}\n")
    assert qdq.flags() == wanted


def test_no_flags_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: object, encoding: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setattr(Path, "read_text", missing)
    assert qdq.flags() == [] and qdq.saturates()
