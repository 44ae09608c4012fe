"""Bits as a pair, and running a quantizable network at one."""

import pickle

import pytest
import torch

from mezzotint import quant
from mezzotint.quant.bitwidth import FP32, Bits


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
