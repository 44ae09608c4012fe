"""Folding keeps the outputs, re-estimation can be undone, bias correction removes the shift."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.batch_norm import (
    correct_bias_,
    fold_batch_norm_,
    reestimate_batch_norm_,
    statistics,
)
from mezzotint.quant.convert import QuantizationPolicy, quantized_layers

Digits = tuple[Tensor, Tensor]


@pytest.mark.parametrize("first", ["fold", "quantize"])
def test_folding_a_resnet(trained: ResNet, digits: Digits, first: str) -> None:
    x = digits[0][:64]
    before = trained(x).detach()
    norms = [name for name, m in trained.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if first == "quantize":
        quant.quantize_(trained)
    trained.train()
    done = fold_batch_norm_(trained)
    assert trained.training
    assert (
        sorted(done) == sorted(norms) and done["layer2.0.downsample.1"] == "layer2.0.downsample.0"
    )
    trained.eval()
    torch.testing.assert_close(trained(x), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trained.modules())
    trained.train()
    torch.testing.assert_close(
        trained(x), before, rtol=1e-4, atol=1e-4
    )  # nothing depends on the batch any more
    if first == "fold":
        quant.quantize_(trained)
    quant.calibrate(trained, [x])
    with quant.bits(trained, weight=8, activation=8):
        assert nn.functional.cosine_similarity(trained(x), before).min() > 0.99


class Odd(nn.Module):
    """Norms of every kind that must be left, and a linear's that must not."""

    def __init__(self) -> None:
        super().__init__()
        self.orphan = nn.BatchNorm1d(6)
        self.shared, self.after_shared = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.stateless = nn.Sequential(
            nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False)
        )
        self.plain = nn.Sequential(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6, affine=False))

    def forward(self, x: Tensor) -> Tensor:
        x = self.orphan(x)
        x = self.after_shared(self.shared(self.shared(x)))
        out: Tensor = self.plain(self.stateless(x))
        return out


def test_orphans_and_shared_layers_are_left() -> None:
    net = Odd()
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    net.train()(x * 3 + 1)
    net.eval()
    before = net(x).detach()
    assert fold_batch_norm_(net, x) == {"plain.1": "plain.0"}
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    assert isinstance(net.orphan, nn.BatchNorm1d) and isinstance(net.stateless[1], nn.BatchNorm1d)


class Skip(nn.Module):
    """A layer whose output is also added elsewhere, which hooks cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out + self.norm(out)  # type: ignore[no-any-return]


def test_what_cannot_be_folded_is_left_as_it_was() -> None:
    net = Skip()
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    net.train()(x * 3 + 1)
    net.eval()
    state, before = copy.deepcopy(net.state_dict()), net(x).detach()
    with pytest.raises(ValueError, match="Folding changes the outputs of Skip"):
        fold_batch_norm_(net, x)
    assert torch.equal(net(x), before) and all(
        torch.equal(v, state[k]) for k, v in net.state_dict().items()
    )
    with pytest.raises(ValueError, match="has no attribute `input`.* Pass an example batch"):
        fold_batch_norm_(net)


@pytest.mark.parametrize("name", ["mobilenetv2_035", "resnet18"])
def test_folding_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = timm.create_model(name, num_classes=0)
        x = torch.randn(4, 3, 64, 64)
        net.train()(x)
    net.eval()
    before = net(x).detach()
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert sorted(fold_batch_norm_(net, x)) == sorted(norms)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-3 * before.abs().max().item())


@pytest.mark.parametrize("activation", [32, 4])
def test_bias_correction(
    trained: ResNet,
    digits: Digits,
    feature_error: Callable[[Tensor, Tensor], float],
    activation: int,
) -> None:
    x, unseen = digits[0][:256], digits[0][512:]
    fold_batch_norm_(trained)
    exact = trained(unseen).detach()
    quant.quantize_(trained, QuantizationPolicy("free", network_input=False))
    quant.calibrate(trained, [x])

    def out(weight: int) -> Tensor:
        with quant.bits(trained, weight=weight, activation=activation), torch.no_grad():
            return trained(unseen)  # type: ignore[no-any-return]

    before, elsewhere = out(3), out(5)
    done = correct_bias_(trained, x.split(100), weight=3, activation=activation)
    assert [c.name for c in done][0] == "conv1" and max(c.shift for c in done) > 0.005
    assert feature_error(out(3), exact) < feature_error(before, exact)
    assert (out(3) - exact).mean(0).square().sum() < 0.5 * (before - exact).mean(0).square().sum()
    assert torch.equal(out(5), elsewhere) and torch.equal(trained(unseen), exact)
    corrected = out(3)
    again = [c.shift for c in correct_bias_(trained, x.split(100), weight=3, activation=activation)]
    assert again == pytest.approx([c.shift for c in done], rel=1e-4) and torch.equal(
        out(3), corrected
    )
    keys = [key for key in trained.state_dict() if "shift_" in key]
    assert (
        len(keys) == len(list(quantized_layers(trained)))
        and "layer1.0.conv1.weight_quantizer.shift_3" in keys
    )


def test_mean_of_every_layer_is_right_after_correction() -> None:
    net = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 4))
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) + 1
    wanted = net[0](x).mean(0), net(x).mean(0)
    quant.quantize_(net, QuantizationPolicy("weights", placement="none"))
    correct_bias_(net, [x], weight=2)
    with quant.bits(net, weight=2, activation=32):
        torch.testing.assert_close(net[0](x).mean(0), wanted[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(x).mean(0), wanted[1], rtol=1e-4, atol=1e-5)
    assert net[0].bias is None
    with pytest.raises(ValueError, match="calibration set is empty"):
        correct_bias_(net, [])


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
