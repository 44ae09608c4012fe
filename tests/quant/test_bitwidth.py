"""Bits as a pair, and running a quantizable network at one."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.bitwidth import FP32, Bits
from mezzotint.quant.clipping_observers import MSE
from mezzotint.quant.convert import (
    QuantizationPolicy,
    named_activation_quantizers,
)
from mezzotint.quant.fake import ActivationQuantizer, Quantizer, WeightQuantizer


@pytest.mark.parametrize(
    ("text", "weight", "activation"),
    [
        ("W4A8", 4, 8),
        ("w2a32", 2, 32),
        ("4/8", 4, 8),
        ("8", 8, 8),
        (8, 8, 8),
        (" 2/4 ", 2, 4),
        ("fp32", 32, 32),
        ("FP32", 32, 32),
        ("W32A32", 32, 32),
        ("32/32", 32, 32),
    ],
)
def test_all_spellings_are_read(text: str | int, weight: int, activation: int) -> None:
    assert Bits.parse(text) == Bits(weight, activation)


@pytest.mark.parametrize(
    "text",
    ["9/8", "8/9", "0/8", "W8", "8/8/8", "8 /8", "a/b", "16/16", "", "-4/4", "W0A8", "float"],
)
def test_other_texts_are_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"`--bits` must be a pair .*, got .* write fp32\."):
        Bits.parse(text, "--bits")


def test_every_pair_is_written_and_read_back() -> None:
    for weight in (*range(1, 9), 32):
        for activation in (*range(1, 9), 32):
            bits = Bits(weight, activation)
            assert Bits.parse(str(bits)) == bits == pickle.loads(pickle.dumps(bits))
            assert bits.is_float == (str(bits) == "fp32") == (bits == FP32)
    assert str(Bits(4)) == "W4A32" and sorted([FP32, Bits(2, 8), Bits(2, 4)])[0] == Bits(2, 4)
    for sides in ((0, 8), (9, 8), (8, 16)):
        with pytest.raises(ValueError, match=r"Bits must be 1 to 8, or 32 for fp32, got"):
            Bits(*sides)


def test_a_pair_runs_the_network_as_its_two_sides_do() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()
    )
    quant.quantize_(net, "all")
    x = torch.randn(8, 1, 8, 8)
    quant.calibrate(net, [x])
    with torch.no_grad():
        plain = net(x)
        with quant.bits(net, weight=3, activation=4):
            sides = net(x)
        with quant.bits(net, Bits(3, 4)):
            pair = net(x)
        with quant.bits(net, FP32):
            full = net(x)
    assert torch.equal(pair, sides) and not torch.equal(pair, plain) and torch.equal(full, plain)


STRONG = QuantizationPolicy(
    "strong",
    weight=lambda: WeightQuantizer(observer=MSE()),
    activation=lambda: ActivationQuantizer(observer=MSE()),
)


Digits = tuple[Tensor, Tensor]


@pytest.mark.parametrize("policy", ["ssql", STRONG])
def test_bits_restores_widths_and_ranges_whatever_happens(
    trained: ResNet, digits: Digits, policy: str | QuantizationPolicy
) -> None:
    x = digits[0][:32]
    quant.quantize_(trained, policy)
    quant.calibrate(trained, [x])
    with quant.bits(trained, weight=6, activation=5):
        before = trained(x)
        with (
            pytest.raises(RuntimeError, match="on purpose"),
            quant.bits(trained, weight=2, activation=3),
        ):
            assert not torch.equal(trained(x), before)
            raise RuntimeError("on purpose")
        assert torch.equal(trained(x), before)
        with (
            pytest.raises(ValueError, match="which supports 2 to 8 bits"),
            quant.bits(trained, weight=1, activation=4),
        ):
            pass
        assert torch.equal(trained(x), before)
        quant.calibrate(trained, [x])
        assert torch.equal(trained(x), before)
    assert all(m.mode == "off" for m in trained.modules() if isinstance(m, Quantizer))


def test_a_width_may_be_a_tensor(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:32]
    quant.quantize_(trained)
    quant.calibrate(trained, [x])
    with quant.bits(trained, weight=3, activation=4):
        expected = trained(x)
    with quant.bits(trained, weight=torch.tensor(3.0), activation=torch.tensor(4)):
        assert torch.equal(trained(x), expected)


@pytest.mark.parametrize("width", [0, 9, 16, -1])
@pytest.mark.parametrize("side", ["weight", "activation"])
def test_widths_outside_are_refused(trained: ResNet, digits: Digits, width: int, side: str) -> None:
    quant.quantize_(trained)
    quant.calibrate(trained, [digits[0][:8]])
    widths = {"weight": 8, "activation": 8} | {side: width}
    with pytest.raises(ValueError, match=f"Bits must be 1 to 8, or 32 for fp32, got {width}"):
        quant.bits(trained, **widths).__enter__()


def test_activations_that_are_not_finite_are_named(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    with torch.no_grad():
        trained.layer2[0].bn1.bias.fill_(math.nan)  # type: ignore[index, union-attr]
    with pytest.raises(ValueError, match="activation of `layer2.0.act1` contains NaN or inf"):
        quant.calibrate(trained, [digits[0][:8]])
    with (
        pytest.raises(ValueError, match="Call `calibrate` first"),
        quant.bits(trained, weight=8, activation=8),
    ):
        pass


def test_calibration_counts_and_touches_nothing_else(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    trained.train()
    trained.layer1.eval()  # type: ignore[union-attr]
    before = {
        name: value.clone()
        for name, value in trained.state_dict().items()
        if "quantizer" not in name
    }
    modes = {
        name: module.training for name, module in trained.named_modules() if "quantizer" not in name
    }
    assert quant.calibrate(trained, digits[0][:100].split(32)) == 100
    assert all(torch.equal(trained.state_dict()[name], value) for name, value in before.items())
    assert modes == {
        name: m.training for name, m in trained.named_modules() if "quantizer" not in name
    }
    whole = copy.deepcopy(trained)
    quant.calibrate(whole, [digits[0][:100]])
    for (name, one), (_, other) in zip(
        named_activation_quantizers(trained), named_activation_quantizers(whole), strict=True
    ):
        torch.testing.assert_close(
            (one.low, one.high), (other.low, other.high), msg=name, rtol=1e-5, atol=1e-5
        )
    quant.calibrate(whole, [digits[0][:4]])  # ranges are replaced, not widened
    assert sum(float(q.high) for _, q in named_activation_quantizers(whole)) < sum(
        float(q.high) for _, q in named_activation_quantizers(trained)
    )


def test_quantized_passes_leave_running_statistics_in_eval_mode(
    trained: ResNet, digits: Digits
) -> None:
    quant.quantize_(trained)
    quant.calibrate(trained, [digits[0][:32]])
    before = [
        b.clone() for name, b in trained.named_buffers() if "running" in name or "tracked" in name
    ]
    with quant.bits(trained, weight=2, activation=2):
        trained(digits[0][:32])
    after = [b for name, b in trained.named_buffers() if "running" in name or "tracked" in name]
    assert before and all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
