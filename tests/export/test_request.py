"""Calibration samples are drawn from the right fold, and the copied encoder is in fp32."""

from pathlib import Path

import torch

from mezzotint import load_encoder, quant
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.evaluation.measurement import Measurement
from mezzotint.export.request import Request, copy_to_fp32
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.convert import make_encoder_quantizable
from mezzotint.quant.fake import Quantizer
from mezzotint.recipe.recipe import Recipe


def test_calibration_draws_exactly_its_number_and_no_test_samples(run: Path) -> None:
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
    drawn = torch.cat(batches).flatten(1)
    distances = torch.cdist(drawn, train, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(distances.amin(dim=1).max()) < 1e-3
    default = Request(measurement, run, Bits(8, 8))
    assert sum(map(len, default.calibration_batches())) == 512


def test_a_copy_has_no_quantizers_and_computes_in_fp32(run: Path) -> None:
    encoder, x = load_encoder(run), torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        target = encoder(x)
        make_encoder_quantizable(encoder, "ssql")
        quant.calibrate(encoder, [x])
        copied = copy_to_fp32(encoder.train())
        assert torch.equal(copied(x), target)
    assert not copied.training and encoder.training
    assert not any(isinstance(module, Quantizer) for module in copied.modules())
    assert any(isinstance(module, Quantizer) for module in encoder.modules())
