"""Artifacts compute what their format promises, and are described correctly."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from mezzotint import load_encoder, quant, save_encoder
from mezzotint.encoders.saving import load_packed
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export import export
from mezzotint.export.artifacts import parameter_bytes
from mezzotint.export.exporting import summary_rows
from mezzotint.export.request import Request
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.recipe.recipe import Recipe
from tests.untrained_run import read_verification


def test_onnx_at_8_bits(run: Path) -> None:
    folder = export(run, "onnx", Bits(8, 8), calibration=100, reduce_range=True)
    found = read_verification(folder)
    assert folder == run / "exports" / "onnx-W8A8" and not list(folder.parent.glob(".tmp*"))
    assert {path.name for path in folder.iterdir()} == {
        "encoder.onnx",
        "seals.json",
        "verification.json",
    }
    assert found["operators"] == {
        "quantized": 9, "of": 9, "left_float": {}, "integer_kernels": {"QLinearConv": 9},
    }  # fmt: skip
    assert found["calibration"] == {"samples": 100, "observer": "min_max"}
    assert found["reduce_range"] and found["compute_bits"] == "W7A8"
    assert found["bytes"]["artifact"] == (folder / "encoder.onnx").stat().st_size
    assert found["runtime"]["name"] == "onnxruntime" and found["bits"] == "W8A8"
    assert found["to_simulation"]["cosine_p01"] > 0.999 and found["knn"]["task"] == "digit/holdout"
    assert ("operators quantized", "9 of 9") in summary_rows(found)
    assert re.fullmatch(
        r"[\d.]+, fp32 [\d.]+: [\d.]+ times as fast",
        dict(summary_rows(found))["ms for a batch of 8"],
    )
    properties = {
        entry.key: entry.value for entry in onnx.load(folder / "encoder.onnx").metadata_props
    }
    assert json.loads(properties["input"])["std"] == [0.3759]


@pytest.mark.parametrize(
    "options", [{}, {"bits": Bits(3, 4), "group": 16, "observer": "percentile"}]
)
def test_packed_computes_exactly_what_the_simulation_does(
    options: dict[str, Any], run: Path
) -> None:
    folder = export(run, "packed", **options)
    found = read_verification(folder)
    assert found["to_simulation"]["max_error"] == 0.0
    weight = options.get("bits", Bits(4)).weight
    assert (found["storage_bits"], found["compute_bits"]) == (f"W{weight}A32", "fp32")
    assert re.fullmatch(
        r"[\d.]+, computed in fp32 \(a smaller file, not a faster one\)",
        dict(summary_rows(found))["ms for a batch of 8"],
    )
    assert load_encoder(folder)(torch.zeros(1, 1, 8, 8)).shape == (1, load_encoder(run).dim)
    # the stem keeps 8 bits, and groups of 16 add two bits of scale per weight
    assert weight < found["bits_per_weight"] < weight + 2.5


def test_packed_with_reestimated_batch_norm_is_closer_to_fp32(run: Path) -> None:
    encoder = load_encoder(run)
    x = Request(Measurement(encoder, Recipe.load(run).data), run, Bits(2)).calibration_batches(64)[
        0
    ]
    cosine = {}
    for reestimate in (False, True):
        folder = export(run, "packed", Bits(2), reestimate_batch_norm=reestimate)
        with torch.no_grad():
            cosine[reestimate] = float(
                torch.nn.functional.cosine_similarity(load_packed(folder)(x), encoder(x)).mean()
            )
    assert read_verification(folder)["calibration"]["reestimated"] > 0
    assert cosine[True] > cosine[False]


def test_packed_keeps_the_policy_that_the_encoder_was_trained_with(
    run: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(run)
    make_encoder_quantizable(encoder, "first_last_8")
    quant.calibrate(encoder, [torch.randn(8, 1, 8, 8)])
    trained = tmp_path / "run"
    shutil.copytree(run, trained, ignore=shutil.ignore_patterns("exports"))
    save_encoder(encoder, trained / "encoder")
    assert read_verification(export(trained, "packed", Bits(2)))["policy"] == "first_last_8"
    assert read_verification(export(trained, "packed", Bits(2), policy="all"))["policy"] == "all"
    assert (
        read_verification(export(trained, "torch_export"))["to_simulation"]["cosine_mean"] > 0.9999
    )


def test_parameter_bytes_count_parameters_and_buffers() -> None:
    norm = torch.nn.BatchNorm2d(5)  # four float32 vectors, and one int64 counter
    assert parameter_bytes(norm) == 4 * 5 * 4 + 8
    assert parameter_bytes(torch.nn.Conv2d(2, 3, 3)) == 4 * (2 * 3 * 9 + 3)
