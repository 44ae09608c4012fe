"""Encoders of other projects: any callable, and ONNX files."""

import importlib
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mezzotint.data.image.arrays import Arrays
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.onnx import ForeignEncoder, OnnxFeatures, onnx
from mezzotint.evaluation.bits import evaluate_bits
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.measurement import Measurement
from mezzotint.evaluation.ptq import CalibratedFile
from mezzotint.evaluation.results import read_baselines, read_evaluation, results_directory
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.runs.evaluate import evaluate
from mezzotint.types import Input

INPUT = Input((3, 8, 8), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()


def write_onnx(
    path: Path, shape: list[int | str] | None = None, *, out: list[int | str] | None = None
) -> Path:
    """A convolution, a rectifier and a mean, as `network()` is."""
    made = pytest.importorskip("onnx")
    conv = network()[0]
    weights = [
        made.numpy_helper.from_array(p.detach().numpy(), n) for n, p in conv.named_parameters()
    ]
    nodes = [
        made.helper.make_node("Conv", ["x", "weight", "bias"], ["a"]),
        made.helper.make_node("Relu", ["a"], ["b"]),
        made.helper.make_node("ReduceMean", ["b"], ["features"], axes=[2, 3], keepdims=0),
    ]
    graph = made.helper.make_graph(
        nodes,
        "net",
        [made.helper.make_tensor_value_info("x", 1, shape or ["batch", 3, 8, 8])],
        [
            made.helper.make_tensor_value_info("features", 1, out or ["batch", 6]),
            made.helper.make_tensor_value_info("b", 1, ["batch", 6, 6, 6]),
        ],
        initializer=weights,
    )
    made.save(
        made.helper.make_model(
            graph, opset_imports=[made.helper.make_opsetid("", 13)], ir_version=8
        ),
        path,
    )
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.integers(0, 150, (60, 8, 8, 3))
    x[np.arange(60), :, :, labels] += 60
    np.savez(tmp_path / "images.npz", x=x.astype(np.uint8), y=labels)
    return tmp_path / "images.npz"


def test_any_module_is_evaluated_and_quantized() -> None:
    source = EmbeddedImages(name="digits")
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
    rows = evaluate_bits(
        Measurement(ForeignEncoder(source.input, net, 128), source),
        bits=[Bits(4, 4)],
        probes=[KNN()],
    ).rows
    assert {row.bits for row in rows} == {FP32, Bits(4, 4)}


def test_a_function_without_weights_is_evaluated_in_float() -> None:
    encoder = ForeignEncoder(INPUT, lambda x: x.flatten(1), 192)
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(encoder(x), x.flatten(1))
    with pytest.raises(ValueError, match=r"must return \[5, 7\] for 5 samples, got \[5, 192\]"):
        ForeignEncoder(INPUT, lambda x: x.flatten(1), 7)(x)


@pytest.mark.parametrize("batch", ["batch", 4])
def test_an_onnx_file_gives_what_the_network_gives(tmp_path: Path, batch: int | str) -> None:
    pytest.importorskip("onnxruntime")
    out: list[int | str] = [batch, 6]
    encoder = onnx(INPUT, path=str(write_onnx(tmp_path / "net.onnx", [batch, 3, 8, 8], out=out)))
    assert encoder.dim == 6 and encoder.input == INPUT
    for count in (1, 4, 7):
        x = torch.randn(count, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(encoder(x), network()(x), rtol=1e-5, atol=1e-6)


def test_mean_and_std_can_be_set(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = str(write_onnx(tmp_path / "net.onnx"))
    encoder = onnx(INPUT, path=path, mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    assert encoder.input.mean == (0.1, 0.2, 0.3) and encoder.input.std == (1.0, 1.0, 1.0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "net.onnx")
    with pytest.raises(
        ValueError, match=r"takes x tensor\(float\) .*It must take floats \[batch, 3, 9, 9\]"
    ):
        OnnxFeatures(path, replace(INPUT, shape=(3, 9, 9)))
    with pytest.raises(
        ValueError, match=r"Output 'b' of .* has the shape .*It must be \[batch, features\]"
    ):
        OnnxFeatures(path, INPUT, "b")
    with pytest.raises(
        ValueError, match="must be an output of .*, got 'c'. Its outputs: features, b"
    ):
        OnnxFeatures(path, INPUT, "c")
    with pytest.raises(ValueError, match="other.onnx` is not a file"):
        OnnxFeatures(tmp_path / "other.onnx", INPUT)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(
        ValueError, match="bad.onnx` cannot be opened by onnxruntime .* valid ONNX file"
    ):
        OnnxFeatures(tmp_path / "bad.onnx", INPUT)


def test_without_the_runtime_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    (tmp_path / "net.onnx").touch()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        ValueError, match=r"needs the package `onnxruntime`, .* `pip install 'mezzotint\[onnx\]'`"
    ):
        OnnxFeatures(tmp_path / "net.onnx", INPUT)


def test_an_onnx_file_is_evaluated_like_a_run(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "net.onnx")
    overrides = ["data.kind=arrays", f"data.path={images}", "evaluate.seeds=1"]
    evaluate(path, overrides)
    folder = results_directory(path)
    assert folder == tmp_path / "net.evaluation"
    rows = {(row.probe, row.metric): row.value for row in read_evaluation(folder)}
    data = Arrays(path=str(images))
    torch_rows = evaluate_bits(
        Measurement(ForeignEncoder(data.input, network(), 6), data), seeds=1, bits=[]
    ).rows
    for row in torch_rows:
        if row.metric.endswith("top1"):
            assert math.isclose(rows[row.probe, row.metric], row.value, abs_tol=1 / 12 + 1e-9)
    baselines = read_baselines(folder)
    assert baselines.raw and not baselines.untrained  # fresh weights of an ONNX file do not exist


def test_an_onnx_file_is_evaluated_by_bits_as_quantized_files(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = write_onnx(tmp_path / "net.onnx")
    overrides = [
        "data.kind=arrays",
        f"data.path={images}",
        "evaluate.seeds=1",
        "evaluate.calibration_samples=9",
    ]
    evaluate(path, [*overrides, "evaluate.bits=[8/8,2/2]"])
    rows = read_evaluation(results_directory(path))
    settings = {str(r.bits) for r in rows if r.probe == "knn"}
    assert settings == {"fp32", "W8A8", "W2A2"}
    assert any(
        "ptq/1 min_max policy=onnx_qdq" in str(r.protocol) and "calibration=9" in str(r.protocol)
        for r in rows
    )
    encoder = onnx(Arrays(path=str(images)).input, path=str(path))
    x = torch.randn(9, *encoder.input.shape)
    file = CalibratedFile(encoder, OnnxFeatures(path, encoder.input), [x])
    close = {}
    for text in ("W8A8", "W2A2"):
        with file.at(Bits.parse(text)) as quantized:
            close[text] = float(
                torch.nn.functional.cosine_similarity(quantized(x), encoder(x)).mean()
            )
    assert close["W8A8"] > 0.99 > close["W2A2"]
    for setting, message in (
        (
            "evaluate.bits=[1/8]",
            "must be 2 to 8 on both sides, or fp32, for an ONNX file, got W1A8",
        ),
        ("evaluate.bits=[32/8]", "for an ONNX file, got W32A8"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(path, [*overrides, setting])
    for option, message in (
        ("evaluate.ptq=[adaround]", "for an ONNX file, got 'adaround'"),
        ("evaluate.policy=all", "must be null for an ONNX file, .*, got 'all'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(path, [*overrides, "evaluate.bits=[8/8]", option])


def test_a_checkpoint_of_another_project_is_evaluated_from_a_file_of_two_sections(
    tmp_path: Path, images: Path
) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    sections = {
        "encoder": {
            "kind": "timm",
            "name": "resnet10t",
            "pretrained_path": str(tmp_path / "weights.pth"),
        },
        "data": {"kind": "arrays", "path": str(images)},
    }
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(sections))
    bits = [
        "evaluate.bits=[8/8]",
        "evaluate.calibration_samples=16",
        "evaluate.seeds=1",
        "evaluate.probes=[knn]",
    ]
    found = evaluate(path, bits)
    assert {row.bits for row in found.rows} == {FP32, Bits(8, 8)}
    baselines = read_baselines(results_directory(path))
    assert baselines.raw and baselines.untrained
    fresh = {row.value for row in baselines.untrained if row.metric == "all/spread"}
    own = next(row.value for row in found.rows if row.metric == "all/spread")
    data = Arrays(path=str(images))
    torch_own = evaluate_bits(
        Measurement(ForeignEncoder(data.input, model, model.num_features), data), bits=[], seeds=1
    ).rows
    assert own == pytest.approx(
        next(row.value for row in torch_own if row.metric == "all/spread"), rel=1e-4
    )
    assert own not in fresh


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"encoder": {"kind": "resnet18"}},
            "must have the sections encoder and data, .* got encoder",
        ),
        (
            {"data": "embedded_images", "encoder": "resnet18", "method": "simclr"},
            "got data, encoder, method",
        ),
        (["encoder"], "got a list"),
    ],
)
def test_other_sections_are_refused(tmp_path: Path, sections: object, message: str) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(sections))
    with pytest.raises(ValueError, match=message):
        evaluate(path)
    with pytest.raises(ValueError, match="is not a file"):
        evaluate(tmp_path / "absent.yaml")
