"""Symmetry, granularity and observer of `evaluate.policy`, against naive quantization."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mezzotint.evaluation.ptq import calibrated_copy
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.clipping_observers import Percentile
from mezzotint.quant.convert import QuantizationPolicy, quantize_
from mezzotint.quant.learned import LSQ
from mezzotint.quant.ranges import Quantization, Ranges
from mezzotint.recipe.schema import construct, resolve
from mezzotint.runs.settings import Evaluate
from tests.evaluation.stripes import Net


def made(**sides: Any) -> Quantization:
    evaluate: Evaluate = construct(
        resolve({"policy": sides}, "Evaluate", "evaluate"), "Evaluate", {}
    )
    assert isinstance(evaluate.policy, Quantization)
    return evaluate.policy


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    # Channels of very different size, so that one range for all is another grid.
    net.second.weight.data *= torch.logspace(-1, 1, len(net.second.weight)).view(-1, 1, 1, 1)
    net.norm.weight.data = torch.logspace(-1, 1, len(net.norm.weight))
    return net.eval()


def rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Tensor:
    """SSQL's two grids, by definition."""
    if symmetric:
        scale: Tensor = torch.maximum(low.abs(), high.abs()) / ((2**bits - 1) / 2)
        return scale * torch.clamp(torch.round(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scale = (high - low) / (2**bits - 1)
    zero = -torch.round(low / scale)
    return scale * (torch.clamp(torch.round(x / scale) + zero, 0, 2**bits - 1) - zero)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_weights(net: Net, symmetric: bool, granularity: str) -> None:
    """QUANT.W.SYMMETRY and QUANT.W.GRANULARITY (channelwise, layerwise) of SSQL."""
    scheme = "ssql_symmetric" if symmetric else "ssql_asymmetric"
    policy = made(weights={"scheme": scheme, "granularity": granularity})
    batch = torch.randn(8, 1, 6, 6)
    weight = net.second.weight.detach()
    over = (1, 2, 3) if granularity == "channel" else (0, 1, 2, 3)
    low, high = weight.amin(over, keepdim=True), weight.amax(over, keepdim=True)
    expected = rounded(weight, low, high, 4, symmetric)
    prepared = calibrated_copy(net, [batch], policy=policy)
    with prepared.at(Bits(4, 32)) as network:
        torch.testing.assert_close(network.get_submodule("second").weight, expected)
    assert f"weights={scheme}/{granularity}" in str(prepared.ptq)
    first: Any = prepared.network.get_submodule("first")
    assert first.weight_quantizer.fixed_bits == 8, "the stem keeps the bits of its policy"


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_activations(net: Net, symmetric: bool, granularity: str) -> None:
    """QUANT.A.SYMMETRY and QUANT.A.GRANULARITY; channels of an image are dimension 1."""
    scheme = "ssql_symmetric" if symmetric else "ssql_asymmetric"
    policy = made(activations={"scheme": scheme, "granularity": granularity})
    batch = torch.randn(8, 1, 6, 6)
    with torch.no_grad():
        inner = net.norm(net.act(net.first(batch)))
        over = (0, 2, 3) if granularity == "channel" else (0, 1, 2, 3)
        low, high = inner.amin(over, keepdim=True), inner.amax(over, keepdim=True)
        quantized = rounded(inner, low, high, 4, symmetric)
        expected = torch.relu(net.second(quantized)).mean((2, 3))
    with calibrated_copy(net, [batch], policy=policy).at(Bits(32, 4)) as network, torch.no_grad():
        torch.testing.assert_close(network(batch), expected, rtol=1e-4, atol=1e-5)


def test_observers(net: Net) -> None:
    """QUANT.A.OBSERVER_METHOD: an outlier sets the range of min-max, and not of a percentile."""
    batch = torch.randn(64, 1, 6, 6)
    batch[0, 0, 0, 0] = 300.0
    observer = {"kind": "percentile", "alpha": 0.01}
    ranges = []
    for policy in (None, made(activations={"observer": observer})):
        prepared = calibrated_copy(net, [batch], policy=policy)
        second: Any = prepared.network.get_submodule("second")
        ranges.append(float(second.input_quantizer.high - second.input_quantizer.low))
    assert ranges[1] < 0.2 * ranges[0]
    assert "activations=percentile(alpha=0.01,tails=magnitude)" in str(prepared.ptq)
    # Of both sides, and kept by AdaRound, which otherwise takes the least squared error.
    both = made(weights={"observer": "gaussian"}, activations={"observer": observer})
    network = calibrated_copy(net, [batch], "adaround", policy=both, steps=1).network
    first: Any = network.get_submodule("first")
    second = network.get_submodule("second")
    assert type(second.weight_quantizer.observer).__name__ == "Gaussian"
    assert isinstance(second.input_quantizer.observer, Percentile)
    assert second.weight_quantizer.observer is not first.weight_quantizer.observer


def test_groups_of_weights_and_channels_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    quantize_(linear, "all")
    policy = Quantization(
        weights=Ranges(granularity="group", group=2), activations=Ranges(granularity="channel")
    )
    policy.apply_(linear)
    layer: Any = linear[0]
    assert (layer.weight_quantizer.layout.group, layer.input_quantizer.layout.axis) == (2, -1)
    layer.weight_quantizer.set_bits(3)
    layer.weight_quantizer.mode = "quantize"
    weight = layer._parameters["weight"].detach().reshape(-1, 2)
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    expected = rounded(weight, low, high, 3, symmetric=True).reshape(4, 8)
    torch.testing.assert_close(layer.weight.detach(), expected)


def test_nothing_chosen_changes_nothing(net: Net) -> None:
    batch = torch.randn(8, 1, 6, 6)
    plain, chosen = (
        calibrated_copy(copy.deepcopy(net), [batch], policy=policy)
        for policy in ("all", made(layers="all"))
    )
    assert plain.ptq == chosen.ptq
    with plain.at(Bits(3, 3)) as a, chosen.at(Bits(3, 3)) as b:
        assert torch.equal(a(batch), b(batch))


def test_refusals(net: Net) -> None:
    with pytest.raises(ValueError, match="`group` must be 1 or more with `granularity: group`"):
        Ranges(granularity="group")
    with pytest.raises(ValueError, match="`activations.granularity` must be tensor or channel"):
        Quantization(activations=Ranges(granularity="group", group=4))
    learned = QuantizationPolicy("learned", weight=LSQ)
    quantize_(net, learned)
    with pytest.raises(ValueError, match="ranges of uniform quantizers only, got LSQ"):
        Quantization(weights=Ranges(granularity="tensor")).apply_(net)
