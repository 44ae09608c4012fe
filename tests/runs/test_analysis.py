"""Layers one by one: the quantizers' results are kept, printed and shown."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from typer.testing import CliRunner

from mezzotint import quant
from mezzotint.cli import app
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.saving import load_encoder, save_encoder
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.convert import quantized_layers
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.analysis import measure_layers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    config = {
        "data": {"kind": "embedded_images", "name": "digits"},
        "encoder": {"kind": "resnet8", "stem": "small", "width": 4},
        "method": {"kind": "simclr", "hidden_dim": 8, "dim": 8},
        "optimizer": {"kind": "sgd", "lr": 0.1},
    }
    (folder / "recipe.yaml").write_text(
        Recipe.build(resolve_recipe(config)).to_yaml(), encoding="utf-8"
    )
    torch.manual_seed(3)
    encoder = resnet8(EmbeddedImages(name="digits").input, stem="small", width=4)
    with torch.no_grad():
        encoder.get_parameter("layer2.0.conv1.weight")[0] *= (
            30.0  # a channel that no range for the tensor suits
        )
    save_encoder(encoder, folder / "encoder")
    return folder


def test_one_weight_at_a_time(run: Path) -> None:
    found = measure_layers(run, Bits(2), samples=48)
    assert json.loads((run / "layers.json").read_text()) == json.loads(json.dumps(found.as_json()))
    assert "calibration=48" in found.how and {row.what for row in found.sensitivity} == {"weight"}
    errors = [row.error for row in found.sensitivity]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]
    # By hand: quantize all, then put the float weights of all layers but one back.
    source = EmbeddedImages(name="digits")
    samples, tasks = source.evaluation()
    x = torch.cat(
        read_calibration(samples, source.input, calibration_order(tasks, len(samples)), 48)
    )
    encoder = load_encoder(run)
    with torch.no_grad():
        exact = encoder(x)
        quant.quantize_(encoder, "ssql")
        row = next(row for row in found.sensitivity if row.name == "layer3.0.conv2")
        with quant.bits(encoder, weight=2, activation=32):
            for name, layer in quantized_layers(encoder):
                layer.weight_quantizer.mode = "quantize" if name == row.name else "off"
            features = encoder(x)
    assert row.cosine == pytest.approx(
        functional.cosine_similarity(features, exact).mean().item(), abs=1e-6
    )
    widest = next(
        r for r in found.distributions if (r.name, r.what) == ("layer2.0.conv1", "weight")
    )
    assert widest.channel_ratio > 10 and widest.kurtosis > 3


def test_command_line_and_report(run: Path) -> None:
    done = CliRunner().invoke(app, ["layers", str(run), "--bits", "W4A4", "--samples", "32"])
    assert done.exit_code == 0, done.output
    assert "layer3.0.conv2" in done.output and "kurtosis" in done.output
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page[page.index('<section id="layers"') :].partition("</section>")[0]
    assert (
        "quantized to W4A4, all others stay fp32" in section
        and "layer2.0.conv1" in section
        and 'href="#layers"' in page
    )
    as_json = CliRunner().invoke(app, ["layers", str(run), "--samples", "32", "--json"])
    assert json.loads(as_json.stdout.splitlines()[-1])["bits"] == "W4A4"


@pytest.mark.parametrize(
    ("bits", "options", "message"),
    [
        (FP32, {}, "`--bits` must quantize weights or activations, got fp32"),
        (Bits(1, 4), {}, "WeightQuantizer, which supports 2 to 8 bits, got 1"),
        (Bits(4, 4), {"policy": "most"}, "`policy` must be ssql, .*, got 'most'"),
        (Bits(4, 4), {"samples": 10**6}, "`--samples` must be 1 to .* got 1000000"),
    ],
)
def test_what_cannot_be_is_refused(
    bits: Bits, options: dict[str, int], message: str, run: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_layers(run, bits, **options)  # type: ignore[arg-type]
