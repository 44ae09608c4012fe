"""`export` from a run to a verified directory, in every format, and the command line's refusals."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from mezzotint import load_encoder, quant
from mezzotint.cli import main
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet18
from mezzotint.encoders.saving import load_packed
from mezzotint.encoders.timm import timm
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export import export, verify
from mezzotint.export.exporting import table
from mezzotint.export.float_formats import (
    open_timm,
    open_torchvision,
    write_timm,
    write_torchvision,
)
from mezzotint.export.request import Request
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.recipe.recipe import Recipe
from mezzotint.types import Input
from tests.untrained_run import make_run

RGB = Input((3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
GRAY = Input((1, 32, 32), (0.5,), (0.25,))


def verification(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
    return found


def test_onnx_of_8_bits(run: Path) -> None:
    folder = export(run, "onnx", Bits(8, 8), calibration=100, reduce_range=True)
    found = verification(folder)
    assert folder == run / "exports" / "onnx-W8A8" and not list(folder.parent.glob(".tmp*"))
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.onnx", "verification.json"]
    assert found["operators"] == {
        "quantized": 9, "of": 9, "left_float": {}, "integer_kernels": {"QLinearConv": 9},
    }  # fmt: skip
    assert found["calibration"] == {"samples": 100, "observer": "min_max"}
    assert found["reduce_range"] and found["compute_bits"] == "W7A8"
    assert found["bytes"]["artifact"] == (folder / "encoder.onnx").stat().st_size
    assert found["runtime"]["name"] == "onnxruntime" and found["bits"] == "W8A8"
    assert found["to_simulation"]["cosine_p01"] > 0.999 and found["knn"]["task"] == "digit/holdout"
    assert ("operators quantized", "9 of 9") in table(found)
    assert re.fullmatch(
        r"[\d.]+, float [\d.]+: [\d.]+ times as fast", dict(table(found))["ms for a batch of 8"]
    )
    told = {entry.key: entry.value for entry in onnx.load(folder / "encoder.onnx").metadata_props}
    assert json.loads(told["input"])["std"] == [0.3759]


def test_float_onnx_says_what_it_takes_and_nothing_of_the_machine(run: Path) -> None:
    folder = export(run, "onnx", FP32)
    model = onnx.load(folder / "encoder.onnx")
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["input"])["shape"] == [1, 8, 8] and json.loads(told["input"])[
        "mean"
    ] == [0.3053]
    assert model.opset_import[0].version == 20
    assert b"/site-packages/" not in model.SerializeToString()
    assert {node.op_type for node in model.graph.node}.isdisjoint({"BatchNormalization"})
    assert verification(folder)["knn"]["artifact"] == verification(folder)["knn"]["float"]


@pytest.mark.parametrize(
    "options", [{}, {"bits": Bits(3, 4), "group": 16, "observer": "percentile"}]
)
def test_packed_computes_exactly_what_the_simulation_does(
    options: dict[str, Any], run: Path
) -> None:
    folder = export(run, "packed", **options)
    found = verification(folder)
    assert found["to_simulation"]["max_error"] == 0.0
    weight = options.get("bits", Bits(4)).weight
    assert (found["storage_bits"], found["compute_bits"]) == (f"W{weight}A32", "fp32")
    assert re.fullmatch(
        r"[\d.]+, in float: saves bytes, and no time", dict(table(found))["ms for a batch of 8"]
    )
    assert load_encoder(folder)(torch.zeros(1, 1, 8, 8)).shape == (1, load_encoder(run).dim)
    # the stem keeps 8 bits, and groups of 16 add two bits of scale a weight
    assert weight < found["bits_per_weight"] < weight + 2.5


def test_packed_with_corrected_norms_is_closer_to_float(run: Path) -> None:
    encoder = load_encoder(run)
    x = Request(Measurement(encoder, Recipe.load(run).data), run, Bits(2)).calibration_batches(64)[
        0
    ]
    close = {}
    for corrected in (False, True):
        folder = export(run, "packed", Bits(2), reestimate_batch_norm=corrected)
        with torch.no_grad():
            close[corrected] = float(
                torch.nn.functional.cosine_similarity(load_packed(folder)(x), encoder(x)).mean()
            )
    assert verification(folder)["calibration"]["reestimated"] > 0
    assert close[True] > close[False]


def test_packed_keeps_the_policy_that_the_encoder_was_trained_with(
    run: Path, tmp_path: Path
) -> None:
    from mezzotint import save_encoder
    from mezzotint.quant.convert import make_encoder_quantizable

    encoder = load_encoder(run)
    make_encoder_quantizable(encoder, "first_last_8")
    quant.calibrate(encoder, [torch.randn(8, 1, 8, 8)])
    trained = tmp_path / "run"
    shutil.copytree(run, trained, ignore=shutil.ignore_patterns("exports"))
    save_encoder(encoder, trained / "encoder")
    assert verification(export(trained, "packed", Bits(2)))["policy"] == "first_last_8"
    assert verification(export(trained, "packed", Bits(2), policy="all"))["policy"] == "all"
    assert verification(export(trained, "torch_export"))["to_simulation"]["cosine_mean"] > 0.9999


def test_torch_export(run: Path) -> None:
    folder = export(run, "torch_export")
    module = torch.export.load(folder / "encoder.pt2").module()
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(module(x), load_encoder(run)(x), atol=1e-5)


def test_timm_opens_a_run(tmp_path: Path) -> None:
    folder = export(
        make_run(tmp_path / "run", {"kind": "timm", "name": "test_vit"}, "emoji"), "timm"
    )
    assert verification(folder)["runtime"]["name"] == "timm"
    assert verification(folder)["to_simulation"]["max_error"] < 1e-5


@pytest.mark.parametrize(
    ("build", "input"),
    [
        (lambda i: resnet18(i), RGB),
        (lambda i: resnet18(i), GRAY),
        (lambda i: timm(i, name="vit_tiny_patch16_224"), RGB),
        (lambda i: timm(i, name="mobilenetv2_050"), RGB),
    ],
)
def test_timm_loads_the_same_network(
    build: Callable[[Input], Encoder], input: Input, tmp_path: Path
) -> None:
    library: Any = pytest.importorskip("timm")
    encoder = build(input).eval()
    write_timm(encoder, tmp_path)
    x = torch.randn(2, *input.shape)
    with torch.no_grad():
        assert torch.equal(open_timm(tmp_path)(x), encoder(x))
        hub = library.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert torch.equal(hub(x), encoder(x))
    assert list(library.data.resolve_model_data_config(hub)["mean"]) == list(input.mean)


def test_torchvision_loads_the_same_network(tmp_path: Path) -> None:
    encoder = resnet18(RGB).eval()
    write_torchvision(encoder, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(open_torchvision(tmp_path)(x), encoder(x), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="1 channels; torchvision's networks take 3"):
        write_torchvision(resnet18(GRAY), tmp_path)


def test_calibration_keeps_to_its_number_and_away_from_the_test_samples(run: Path) -> None:
    recipe = Recipe.load(run)
    source, tasks = recipe.data.evaluation()
    measurement = Measurement(load_encoder(run), recipe.data)
    request = Request(measurement, run, Bits(8, 8), calibration=37)
    batches = request.calibration_batches()
    assert sum(map(len, batches)) == 37
    again = request.calibration_batches()
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    assert isinstance(source, EmbeddedImages)
    train = ((source.images[tasks[0].train].float() / 255 - 0.3053) / 0.3759).flatten(1)
    seen = torch.cat(batches).flatten(1)
    assert (
        float(
            torch.cdist(seen, train, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1).max()
        )
        < 1e-3
    )
    default = Request(measurement, run, Bits(8, 8))
    assert sum(map(len, default.calibration_batches())) == 512


def test_a_refusal_leaves_nothing_and_keeps_the_earlier_artifact(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = verification(export(run, "packed", Bits(5)))
    monkeypatch.setattr(verify, "MAX_KNN_DIFFERENCE", -1.0)
    for bits in (5, 6):
        assert (
            command(monkeypatch, "export", str(run), "--format", "packed", "--bits", f"W{bits}A32")
            == 0
        )
    monkeypatch.setattr(
        "mezzotint.export.artifacts.load_packed", lambda folder: lambda x: torch.ones(len(x), 32)
    )
    capsys.readouterr()
    for bits in (5, 7):
        assert (
            command(monkeypatch, "export", str(run), "--format", "packed", "--bits", f"W{bits}A32")
            == 1
        )
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith(
            "mezzotint: refused: the artifact differs from the simulation"
        )
    assert verification(run / "exports" / "packed-W5A32")["files"] == kept["files"]
    assert not (run / "exports" / "packed-W7A32").exists() and not list(
        (run / "exports").glob(".tmp*")
    )


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["mezzotint", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "onxx"], ["got --format onxx", "Did you mean 'onnx'"]),
        (
            ["--format", "onnx", "--bits", "4"],
            ["`--bits` must be W8A8 or fp32 for `--format onnx`, got W4A4.", "--format packed"],
        ),
        (
            ["--format", "packed", "--bits", "32"],
            [
                "`--bits` must be W2A32 to W8A32, or W2A2 to W8A8 with simulated activations for `--format packed`"
            ],
        ),
        (
            ["--format", "timm", "--bits", "8"],
            ["`--bits` must be fp32 for `--format timm`, got W8A8."],
        ),
        (["--group", "8"], ["got --group with --format onnx; allowed is --format packed"]),
        (
            ["--reestimate-batch-norm"],
            ["got --reestimate-batch-norm with --format onnx; allowed is --format packed"],
        ),
        (["--format", "packed", "--group", "0"], ["got --group 0; allowed is 1 or more"]),
        (
            ["--format", "packed", "--bits", "W4A9"],
            ["`--bits` must be a pair of bit-widths such as W8A8", "got 'W4A9'"],
        ),
        (
            ["--format", "packed", "--policy", "some"],
            ["`policy` must be ssql, all, first_last_8 or a QuantizationPolicy, got 'some'"],
        ),
        (["--runtime", "tensorrt"], ["got --runtime tensorrt; allowed: onnxruntime, openvino"]),
        (
            ["--runtime", "openvino", "--format", "timm"],
            ["got --runtime openvino with --format timm"],
        ),
        (
            ["--format", "timm"],
            ["got the encoder resnet8 (stem small, width 8, grid 1), which timm does not have"],
        ),
        (
            ["--format", "torchvision"],
            ["which torchvision does not have", "use --format onnx or torch_export"],
        ),
        (["--calibration", "0"], ["`--calibration` must be 1 to 1439", "got 0"]),
        (["--calibration", "5000"], ["`--calibration` must be 1 to 1439", "got 5000"]),
        (["--observer", "min_mex"], ["Did you mean 'min_max'"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: list[str],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "mezzotint.export.artifacts.write_onnx", lambda encoder, path: path.write_bytes(b"")
    )
    assert command(monkeypatch, "export", str(run), *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("onnxruntime", ["--format", "onnx"], "onnx"),
        ("onnx", ["--format", "onnx", "--bits", "32"], "onnx"),
        ("onnxscript", ["--format", "onnx"], "onnx"),
        ("timm", ["--format", "timm"], "timm"),
        ("openvino", ["--runtime", "openvino"], "openvino"),
    ],
)
def test_a_missing_package_is_one_line(
    package: str,
    arguments: list[str],
    extra: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    assert command(monkeypatch, "export", str(run), *arguments) == 2
    error = capsys.readouterr().err
    assert (
        f"needs the package `{package}`, which is not installed. "
        f"Install it with `pip install 'mezzotint[{extra}]'`." in error
    )
    assert error.count("\n") == 1


def test_a_directory_without_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "export", str(tmp_path)) == 2
    assert (
        "has no encoder.json. It must be an encoder or a run directory" in capsys.readouterr().err
    )


def test_an_encoder_without_a_run_needs_data(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "encoder"
    shutil.copytree(run / "encoder", alone)
    assert command(monkeypatch, "export", str(alone), "--format", "packed") == 2
    assert (
        "an encoder without a run and so without data; allowed is a run, or an encoder with --data"
        in (capsys.readouterr().err)
    )
    assert (
        command(
            monkeypatch, "export", str(alone), "--format", "packed", "--data", "digits", "--json"
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert (
        told["artifact"] == str(alone / "exports" / "packed-W4A32")
        and told["knn"]["task"] == "digit/holdout"
    )


def test_openvino(run: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    found = verification(export(run, "onnx", Bits(8, 8), runtime="openvino", calibration=64))
    assert found["operators"]["quantized"] == found["operators"]["of"] == 9
    assert found["to_simulation"]["cosine_mean"] > 0.99 and found["runtime"]["name"] == "openvino"
