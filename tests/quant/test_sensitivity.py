"""Curvature against the exact Hessian, a planted weak layer, moments against closed forms."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.bitwidth import Bits
from mezzotint.quant.convert import QuantizationPolicy, parameter_of, quantized_layers
from mezzotint.quant.sensitivity import (
    distributions,
    feature_loss,
    hessian_eigenvalue,
    hessian_trace,
    layer_sensitivity,
)

Digits = tuple[Tensor, Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    with torch.no_grad():
        for index in (0, 2):
            net[index].weight.copy_(normal(*net[index].weight.shape, seed=index) * 0.7)  # type: ignore[misc, operator]
            net[index].bias.zero_()  # type: ignore[operator]
    quant.quantize_(net, QuantizationPolicy("weights", placement="none"))
    return net


def cross_entropy(net: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), torch.arange(len(x)) % 3)


@pytest.mark.parametrize("loss", [feature_loss, cross_entropy])
def test_curvature_is_that_of_the_exact_hessian(loss: object) -> None:
    net, batches = tiny(), [normal(6, 4), normal(6, 4, seed=1)]
    traces = hessian_trace(net, batches, loss=loss, probes=1500)  # type: ignore[arg-type]
    tops = hessian_eigenvalue(net, batches, loss=loss, steps=60)  # type: ignore[arg-type]
    for name, layer in quantized_layers(net):
        weight = parameter_of(layer)

        def of(w: Tensor, name: str = name) -> Tensor:
            # a copy, so that the layer's own weight stays
            values = [loss(_With(net, name, w), x) for x in batches]  # type: ignore[operator]
            return torch.stack(values).mean()

        hessian = torch.autograd.functional.hessian(of, weight.detach().clone()).reshape(  # type: ignore[no-untyped-call]
            weight.numel(), -1
        )
        assert traces[name] == pytest.approx(
            hessian.trace().item() / weight.numel(), rel=0.1, abs=3e-3
        )
        assert tops[name] == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item(), rel=1e-2)


class _With(nn.Module):
    """The network with one weight exchanged."""

    def __init__(self, net: nn.Sequential, name: str, weight: Tensor) -> None:
        super().__init__()
        self.net, self.name, self.exchanged = net, name, weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(
            self.net, {f"{self.name}.weight": self.exchanged}, (x,)
        )
        return out


def test_the_feature_losss_curvature_is_never_negative(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    before = [p.clone() for p in trained.parameters()]
    traces = hessian_trace(trained, [digits[0][:32]], probes=20)
    assert min(traces.values()) > 0.0 and set(traces) == {
        name for name, _ in quantized_layers(trained)
    }
    assert traces == hessian_trace(trained, [digits[0][:32]], probes=20)
    assert all(
        torch.equal(p, q) and p.grad is None
        for p, q in zip(trained.parameters(), before, strict=True)
    )


def test_a_weak_layer_comes_first(trained: ResNet, digits: Digits) -> None:
    with torch.no_grad():
        trained.layer2[0].conv2.weight[:, 0, 0, 0] = 40.0  # type: ignore[index, union-attr]
    quant.quantize_(trained)
    quant.calibrate(trained, [digits[0][:128]])
    found = layer_sensitivity(trained, [digits[0][:64]], Bits(4, 8))
    assert found[0].name == "layer2.0.conv2" and found[0].what == "weight"
    assert found[0].error == max(entry.error for entry in found) > 1.5 * found[1].error
    assert {entry.what for entry in found} == {"weight", "activation"}
    (alone,) = [e for e in found if e.name == "layer1.0.conv1"]
    other = copy.deepcopy(trained)
    with torch.no_grad():
        layer = other.layer1[0].conv1  # type: ignore[index, union-attr]
        with quant.bits(other, weight=4, activation=32):
            rounded = layer.weight.clone()
        exact = other(digits[0][:64])
        parameter_of(layer).copy_(rounded)
        cosine = nn.functional.cosine_similarity(other(digits[0][:64]), exact).mean().item()
    assert alone.cosine == pytest.approx(cosine, abs=1e-6)
    only_weights = layer_sensitivity(trained, [digits[0][:64]], Bits(4))
    assert {entry.what for entry in only_weights} == {"weight"}
    with pytest.raises(ValueError, match="`batches` is empty"):
        layer_sensitivity(trained, [])


def test_distributions() -> None:
    net = nn.Sequential(nn.Linear(2000, 4), nn.Linear(4, 1000))
    with torch.no_grad():
        net[0].weight.copy_(normal(4, 2000))  # type: ignore[operator]
        net[1].weight.copy_(torch.rand(1000, 4, generator=torch.Generator().manual_seed(0)))  # type: ignore[operator]
    quant.quantize_(net, QuantizationPolicy("weights", placement="none"))
    x = normal(50, 2000)
    x[:, 7] *= 100.0
    found = {(entry.name, entry.what): entry for entry in distributions(net, x.split(20))}
    assert found["0", "weight"].kurtosis == pytest.approx(3.0, rel=0.1)
    assert found["1", "weight"].kurtosis == pytest.approx(1.8, rel=0.05)
    entry = found["0", "activation"]
    assert (
        entry.kurtosis > 500
        and entry.peak > 20
        and 0 < entry.outliers < 1 / 2000
        and entry.channel_ratio > 50
    )
    assert found["0", "weight"].outliers == 0.0 and found["0", "weight"].channel_ratio < 1.5
    kurtoses = [entry.kurtosis for entry in distributions(net, [x])]
    assert kurtoses == sorted(kurtoses, reverse=True)
