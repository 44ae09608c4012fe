"""`export` writes a verified directory, and the command line refuses bad input in one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from mezzotint.cli import main
from mezzotint.export import export, verify
from mezzotint.export.exporting import check_exports, export_all
from mezzotint.quant.bitwidth import Bits
from mezzotint.runs.settings import Export
from tests.untrained_run import read_verification


def test_a_refusal_leaves_no_files_and_keeps_the_earlier_artifact(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = read_verification(export(run, "packed", Bits(5)))
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
            "mezzotint: Export refused: the artifact differs from the simulation"
        )
    assert read_verification(run / "exports" / "packed-W5A32")["files"] == earlier["files"]
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
        (
            ["--format", "onxx"],
            ["`--format` must be one of onnx, packed,", "got 'onxx'", "Did you mean 'onnx'"],
        ),
        (
            ["--format", "onnx", "--bits", "4"],
            [
                "`--bits` must be W8A8 or fp32 for `--format onnx`, got W4A4.",
                "Use `--format packed`",
            ],
        ),
        (
            ["--format", "packed", "--bits", "32"],
            [
                "`--bits` must be W2A32 to W8A32, or W2A2 to W8A8 with simulated activations "
                "for `--format packed`"
            ],
        ),
        (
            ["--format", "timm", "--bits", "8"],
            ["`--bits` must be fp32 for `--format timm`, got W8A8."],
        ),
        (
            ["--group", "8"],
            ["`--group` needs `--format packed`, got `--format onnx`. Omit `--group`"],
        ),
        (
            ["--reestimate-batch-norm"],
            ["`--reestimate-batch-norm` needs `--format packed`, got `--format onnx`."],
        ),
        (["--format", "packed", "--group", "0"], ["`--group` must be at least 1, got 0. Try 64."]),
        (
            ["--format", "packed", "--bits", "W4A9"],
            ["`--bits` must be a pair of bit-widths such as W8A8", "got 'W4A9'"],
        ),
        (
            ["--format", "packed", "--policy", "some"],
            ["`policy` must be ssql, all, first_last_8 or a QuantizationPolicy, got 'some'"],
        ),
        (
            ["--runtime", "tensorrt"],
            ["`--runtime` must be onnxruntime or openvino, got 'tensorrt'."],
        ),
        (
            ["--runtime", "openvino", "--format", "timm"],
            ["`--runtime openvino` needs `--format onnx`, got `--format timm`."],
        ),
        (
            ["--format", "timm"],
            [
                "timm does not have the encoder resnet8 with stem small, width 8, grid 1 and "
                "feature_stages 1."
            ],
        ),
        (
            ["--format", "torchvision"],
            ["torchvision does not have", "Use `--format onnx` or `--format torch_export`."],
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
    assert "Data is missing: the encoder was saved without its data" in capsys.readouterr().err
    assert (
        command(
            monkeypatch, "export", str(alone), "--format", "packed", "--data", "digits", "--json"
        )
        == 0
    )
    printed = json.loads(capsys.readouterr().out)
    assert (
        printed["artifact"] == str(alone / "exports" / "packed-W4A32")
        and printed["knn"]["task"] == "digit/holdout"
    )


def test_a_recipe_names_the_artifacts_of_a_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(export_all(run, Export(packed=["W4A32", "W2A32"])))
    for (folder, words), bits in zip(found, ("W4A32", "W2A32"), strict=True):
        assert folder == run / "exports" / f"packed-{bits}"
        verification = read_verification(folder)
        assert verification["bits"] == bits
        size = verification["bytes"]["artifact"]
        assert words.startswith(f"{folder}: {size:,} bytes (") and "verified on " in words
        assert f"fp32 {verification['to_float']['cosine_mean']:.5f}" in words
    # What cannot be exported here is a sentence, and the others follow.
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    (missing, why), (folder, _) = export_all(run, Export(onnx=["W8A8"], packed=["W4A32"]))
    assert missing is None and folder is not None
    assert why.startswith("onnx-W8A8 was not exported: --format onnx needs the package")


def test_bits_that_a_format_does_not_have_are_refused_before_training() -> None:
    check_exports(Export(onnx=["W8A8", "fp32"], packed=["W2A8"]))
    for settings, key in ((Export(onnx=["W4A4"]), "onnx"), (Export(packed=["fp32"]), "packed")):
        with pytest.raises(ValueError, match=f"`export.{key}` must be .*, got .* Change or remove"):
            check_exports(settings)
