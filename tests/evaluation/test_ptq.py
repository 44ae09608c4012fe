"""Post-training quantization: the papers' quantizer in naive code, and better methods."""

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.calibration import calibration_order, read_calibration
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.knn import KNN
from mezzotint.evaluation.ptq import Calibrated, calibrated_copy
from mezzotint.quant.bitwidth import FP32, Bits, bits
from tests.evaluation.stripes import COUNT, INPUT, Net, Stripes, of, quick


@pytest.mark.parametrize("setting", ["W8A8", "W4A4", "W3A5", "W2A2"])
def test_plain_is_the_papers_quantizer(trained: Net, setting: str) -> None:
    """SSQL's arithmetic in naive code: per channel, divisor (2^b − 1) / 2; per tensor, extremes."""
    net, source = copy.deepcopy(trained).eval(), Stripes()
    wanted = Bits.parse(setting)
    order = calibration_order(source.evaluation()[1], COUNT)
    batch = torch.cat(read_calibration(source, INPUT, order, 32))

    def weight(w: Tensor, bits: int) -> Tensor:
        rows = []
        for row in w:
            scale = row.abs().max() / ((2**bits - 1) / 2)
            rows.append(
                scale
                * torch.clamp(torch.round(row / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            )
        return torch.stack(rows)

    with torch.no_grad():
        inner = net.norm(net.act(net.first(batch)))
        low, high = inner.min(), inner.max()
        scale = (high - low) / (2**wanted.activation - 1)
        zero = -torch.round(low / scale)
        x = (source.images.float() / 255 - 0.5) / 0.25
        hidden = functional.conv2d(x, weight(net.first.weight, 8), net.first.bias, padding=1).relu()
        hidden = net.norm(hidden)
        codes = torch.clamp(torch.round(hidden / scale) + zero, 0, 2**wanted.activation - 1)
        expected = functional.conv2d(
            (codes - zero) * scale, weight(net.second.weight, wanted.weight)
        )
        expected = expected.relu().mean((2, 3))
    with calibrated_copy(trained, [batch]).at(wanted) as network:
        found = extract(network, source)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_quantizing_weights_once_changes_nothing(trained: Net) -> None:
    batch = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    made = calibrated_copy(trained, [batch], policy="all")
    parameters = [(name, p.data_ptr()) for name, p in made.network.named_parameters()]
    made.network.eval()
    with bits(made.network, weight=3, activation=4):
        expected = made.network(batch)
    with made.at(Bits(3, 4)) as network:
        torch.testing.assert_close(network(batch), expected, rtol=0, atol=0)
    assert parameters == [(name, p.data_ptr()) for name, p in made.network.named_parameters()]
    assert not torch.equal(made.network(batch), expected)  # and float again outside


def test_strong_rounds_better_than_plain(trained: Net) -> None:
    source = Stripes()
    batches = read_calibration(source, INPUT, calibration_order(source.evaluation()[1], COUNT), 60)
    target = extract(trained, source)

    def error(made: Calibrated) -> float:
        with made.at(Bits(2, 4)) as network:
            return float((extract(network, source) - target).square().mean())

    plain, strong = (
        calibrated_copy(trained, batches),
        calibrated_copy(trained, batches, "adaround", steps=150),
    )
    assert error(strong) < 0.8 * error(plain)


def test_corrected_leaves_the_network_as_it_was(trained: Net) -> None:
    source = Stripes()
    batches = read_calibration(source, INPUT, calibration_order(source.evaluation()[1], COUNT), 60)
    target = extract(trained, source)
    errors = {}
    for method in ("min_max", "batch_norm"):
        made = calibrated_copy(trained, batches, method)
        before = {name: value.clone() for name, value in made.network.state_dict().items()}
        with made.at(Bits(2, 8)) as network:
            errors[method] = float((extract(network, source) - target).square().mean())
        after = made.network.state_dict()
        assert before.keys() == after.keys() and all(
            torch.equal(before[name], after[name]) for name in before
        )
        assert ("batchnorm=reestimated" in str(made.ptq)) == (method == "batch_norm")
    assert errors["batch_norm"] < errors["min_max"]


def test_a_side_can_stay_float(trained: Net) -> None:
    with calibrated_copy(trained, [torch.randn(32, 1, 6, 6)]).at(FP32) as network:
        assert torch.equal(extract(network, Stripes()), extract(trained, Stripes()))
    rows = quick(trained, ["W2A32", "32/2"], probes=[KNN()])
    assert of(rows, "W2A32") and of(rows, "32/2")


def test_nothing_to_quantize_is_refused() -> None:
    class Flat(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    with pytest.raises(ValueError, match="Flat has nothing to quantize"):
        quick(Flat(INPUT, 36), ["W8A8"])
