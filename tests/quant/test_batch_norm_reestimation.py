"""BatchNorm re-estimation: one layer by hand, exact undoing, and the accuracy that it regains."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.batch_norm import reestimate_batch_norm_, statistics
from mezzotint.quant.convert import quantized_layers

Digits = tuple[Tensor, Tensor]


def test_the_difference_is_what_rounding_made(digits: Digits) -> None:
    x = digits[0][:64]
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    net = nn.Sequential(nn.Conv2d(x.shape[1], 8, 3, bias=False), norm, nn.ReLU()).eval()
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    quant.quantize_(net, "all")
    before = statistics(net)
    exact = net[0](x)
    with quant.bits(net, weight=2, activation=32):
        rounded = net[0](x)
    assert reestimate_batch_norm_(net, [x[:32], x[32:]], weight=2) == 1
    halves = [
        (e.var((0, 2, 3)), r.var((0, 2, 3)))
        for e, r in zip(exact.split(32), rounded.split(32), strict=True)
    ]
    ratio = sum(r for _, r in halves) / sum(e for e, _ in halves)
    shift = rounded.mean((0, 2, 3)) - exact.mean((0, 2, 3))
    torch.testing.assert_close(
        norm.running_mean, before["1.running_mean"] + shift, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        norm.running_var, before["1.running_var"] * ratio, rtol=1e-4, atol=1e-5
    )
    assert norm.momentum == 0.1 and not net.training
    net.load_state_dict(before, strict=False)
    mean, variance = before["1.running_mean"], before["1.running_var"]
    expected = nn.functional.batch_norm(exact, mean, variance, norm.weight, norm.bias).relu()
    torch.testing.assert_close(net(x), expected)


def test_two_bits_come_closer_to_float(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:128]
    target = trained(x).detach()
    quant.quantize_(trained)
    quant.calibrate(trained, [x])
    corrected = copy.deepcopy(trained)
    count = reestimate_batch_norm_(corrected, [x], weight=2)
    assert count == sum(isinstance(m, nn.BatchNorm2d) for m in trained.modules())

    def closeness(net: nn.Module) -> float:
        with quant.bits(net, weight=2, activation=8), torch.no_grad():
            return float(cosine_similarity(net(x), target).mean())

    assert closeness(corrected) > closeness(trained) + 0.02


def test_ranges_are_those_of_the_rounded_weights(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:64]
    quant.quantize_(trained)
    quant.calibrate(trained, [x])
    by_float = [q.high.clone() for q in quant.bitwidth.Quantizers.of(trained).activations]
    quant.calibrate(trained, [x], weight=2)
    by_two = [q.high.clone() for q in quant.bitwidth.Quantizers.of(trained).activations]
    assert not all(torch.equal(a, b) for a, b in zip(by_float, by_two, strict=True))
    assert all(layer.weight_quantizer.mode == "off" for _, layer in quantized_layers(trained))


def test_nothing_to_correct_and_nothing_to_see(digits: Digits) -> None:
    x = digits[0][:8]
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4), nn.ReLU(), nn.Linear(4, 4))
    quant.quantize_(net, "all")
    assert reestimate_batch_norm_(net, [x], weight=4) == 0
    with pytest.raises(ValueError, match="calibration set is empty"):
        reestimate_batch_norm_(net, [], weight=4)
