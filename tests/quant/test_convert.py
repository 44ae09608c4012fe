"""Whole networks: what is converted, what stays as it was, widths, calibration, state."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet, resnet18, resnet50
from mezzotint.encoders.timm import timm
from mezzotint.quant.clipping_observers import MSE
from mezzotint.quant.convert import (
    POLICIES,
    QuantizationPolicy,
    named_activation_quantizers,
    parameter_of,
    policy_of,
    quantized_layers,
    weight_quantizers,
)
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.types import Input

SMALL = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)
STRONG = QuantizationPolicy(
    "strong",
    weight=lambda: WeightQuantizer(observer=MSE()),
    activation=lambda: ActivationQuantizer(observer=MSE()),
)
Digits = tuple[Tensor, Tensor]


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_the_override_table_of_ssql(make: Callable[..., ResNet]) -> None:
    """Stem at W8A8, other layers at the chosen bits; residual sums once; the input never."""
    encoder = make(SMALL, stem="small", width=4)
    done = quant.quantize_(encoder, "ssql")
    layers = dict(quantized_layers(encoder))
    assert (
        set(layers) == {n for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d)}
        and not done.skipped
    )
    assert all(layer.input_quantizer is None for layer in layers.values())
    fixed = {name: layer.weight_quantizer.fixed_bits for name, layer in layers.items()}
    assert fixed.pop("conv1") == 8 and set(fixed.values()) == {None}
    activations = dict(named_activation_quantizers(encoder))
    last = "act2" if make is resnet18 else "act3"
    assert {"act1", "layer1.0.act1", f"layer1.0.{last}", f"layer4.1.{last}"} <= set(activations)
    assert all(name == "act1" or name.split(".")[2].startswith("act") for name in activations)
    assert activations["act1"].fixed_bits == 8
    assert {q.fixed_bits for name, q in activations.items() if name != "act1"} == {None}
    assert [q.scheme for q in activations.values()] == ["ssql_asymmetric"] * len(activations)
    assert "policy ssql: " in str(done) and "weight     conv1: 8 bits" in str(done)


def test_a_blocks_sum_is_what_is_quantized(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained, "ssql")
    quant.calibrate(trained, [digits[0][:64]])
    seen: list[Tensor] = []
    handle = trained.layer1[0].register_forward_hook(lambda m, a, out: seen.append(out))  # type: ignore[index, union-attr]
    with quant.bits(trained, weight=8, activation=2):
        trained(digits[0][:16])
    handle.remove()
    assert len(seen[0].unique()) <= 4


def test_off_is_bit_exact_and_names_stay(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:32]
    before, keys = trained(x), dict(trained.state_dict())
    parameters = [id(p) for p in trained.parameters()]
    quant.quantize_(trained, "ssql")
    assert torch.equal(trained(x), before) and [id(p) for p in trained.parameters()] == parameters
    quant.calibrate(trained, [x])
    assert torch.equal(trained(x), before)
    with quant.bits(trained, weight=2, activation=2):
        assert not torch.allclose(trained(x), before, atol=1e-3)
        with quant.off(trained):
            assert torch.equal(trained(x), before)
        with quant.bits(trained, weight=32, activation=32):
            assert torch.equal(trained(x), before)
    assert torch.equal(trained(x), before)
    after = trained.state_dict()
    assert all(torch.equal(after[key], value) for key, value in keys.items())
    added = set(after) - set(keys)
    assert added and all(
        key.endswith(("output_quantizer.low", "output_quantizer.high")) for key in added
    )
    assert isinstance(trained.conv1, nn.Conv2d) and isinstance(trained.act1, nn.ReLU)


def test_error_falls_with_every_bit(
    trained: ResNet, digits: Digits, feature_error: Callable[[Tensor, Tensor], float]
) -> None:
    x = digits[0][:256]
    exact = trained(x).detach()
    quant.quantize_(trained, "ssql")
    quant.calibrate(trained, [x])
    for sides in (("weight",), ("activation",), ("weight", "activation")):
        errors = []
        for width in range(2, 9):
            widths = {"weight": 32, "activation": 32} | dict.fromkeys(sides, width)
            with quant.bits(trained, **widths), torch.no_grad():
                errors.append(feature_error(trained(x), exact))
        assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01 < errors[0]


def test_gradients_reach_the_weights_and_the_largest_learns_through_the_scale(
    trained: ResNet, digits: Digits
) -> None:
    quant.quantize_(trained)
    quant.calibrate(trained, [digits[0][:64]])
    with quant.bits(trained, weight=2, activation=4):
        trained(digits[0][:64]).square().sum().backward()
    for name, layer in quantized_layers(trained):
        gradient = parameter_of(layer).grad
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0, name


def test_bad_networks_and_orders(trained: ResNet, digits: Digits) -> None:
    with pytest.raises(ValueError, match="Sequential has nothing to quantize: .* 0 convolutions"):
        quant.quantize_(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    with pytest.raises(
        ValueError, match="the policy skips all of its 1 convolutions and linear layers"
    ):
        quant.quantize_(nn.Sequential(nn.Linear(2, 2)), QuantizationPolicy("none", skip=("0",)))
    with pytest.raises(ValueError, match="must be ssql, all, first_last_8 or a QuantizationPolicy"):
        quant.quantize_(nn.Linear(2, 2), "sql")
    for enter in (lambda: quant.bits(trained, weight=8, activation=8), lambda: quant.off(trained)):
        with pytest.raises(ValueError, match="Call `quantize_"), enter():  # type: ignore[no-untyped-call]
            pass
    with pytest.raises(ValueError, match="Call `quantize_"):
        quant.calibrate(trained, [digits[0]])
    quant.quantize_(trained)
    with pytest.raises(ValueError, match="quantizable already"):
        quant.quantize_(trained)
    with (
        pytest.raises(ValueError, match="Call `calibrate` first"),
        quant.bits(trained, weight=8, activation=8),
    ):
        pass
    with quant.bits(trained, weight=8, activation=32):
        trained(digits[0][:8])
    with pytest.raises(ValueError, match="calibration set is empty"):
        quant.calibrate(trained, [])


@pytest.mark.parametrize("policy", ["ssql", "all", STRONG])
def test_ranges_are_saved_and_loaded(
    trained: ResNet, digits: Digits, policy: str | QuantizationPolicy
) -> None:
    x = digits[0][:64]
    fresh = copy.deepcopy(trained)
    quant.quantize_(trained, policy)
    quant.calibrate(trained, [x])
    with quant.bits(trained, weight=4, activation=8):
        expected = trained(x)
    quant.quantize_(fresh, policy)
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    with quant.bits(fresh, weight=4, activation=8):
        assert torch.equal(fresh(x), expected)


def test_ranges_of_another_shape_are_loaded() -> None:
    def make() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU())
        per_channel = lambda: ActivationQuantizer(Layout("channel", axis=1))  # noqa: E731
        quant.quantize_(
            net, QuantizationPolicy("channels", placement="inputs", activation=per_channel)
        )
        return net

    net, fresh = make(), make()
    x = torch.randn(2, 3, 4, 4)
    quant.calibrate(net, [x])
    fresh.load_state_dict(net.state_dict())
    assert fresh[0].input_quantizer.low.shape == (3, 1)  # type: ignore[index]
    with quant.bits(net, weight=4, activation=4), quant.bits(fresh, weight=4, activation=4):
        assert torch.equal(net(x), fresh(x))


def test_a_copy_is_independent(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:32]
    quant.quantize_(trained)
    quant.calibrate(trained, [x])
    other = copy.deepcopy(trained)
    with quant.bits(other, weight=2, activation=2):
        assert all(q.mode == "off" for _, q in weight_quantizers(trained))
        with torch.no_grad():
            other.conv1._parameters["weight"].zero_()  # type: ignore[union-attr]
        assert not torch.equal(trained(x), other(x))


@pytest.mark.parametrize(
    "name", ["mobilenetv2_035", "convnext_atto", "vit_tiny_patch16_224", "resnet18"]
)
def test_networks_of_timm(name: str, feature_error: Callable[[Tensor, Tensor], float]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm(
            SMALL, name=name
        )  # initial statistics: statistics of noise would amplify errors
        x = torch.randn(12, 3, 32, 32)
    encoder.eval()
    exact = encoder(x).detach()
    done = quant.quantize_(encoder, "ssql")
    linears = [n for n, m in encoder.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert list(done.weights) == linears and torch.equal(encoder(x), exact)
    assert (
        not done.activations or name == "resnet18"
    )  # the others have convolutions that no activation function feeds
    if name.startswith("vit"):
        assert "model.blocks.0.attn.qkv" in done.weights and "pos_embed" not in str(done.weights)
    assert quant.calibrate(encoder, [x]) == 12
    errors = []
    for width in (8, 4, 2):
        with quant.bits(encoder, weight=width, activation=width), torch.no_grad():
            errors.append(feature_error(encoder(x), exact))
    assert errors == sorted(errors) and errors[0] < 0.1


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_policy_is_found_by_name_or_passed_through() -> None:
    for name, policy in POLICIES.items():
        assert policy_of(name) is policy and policy.name == name
    own = QuantizationPolicy("own", placement="none")
    assert policy_of(own) is own
    with pytest.raises(
        ValueError,
        match="`policy` must be ssql, all, first_last_8 or a QuantizationPolicy, got 'most'",
    ):
        policy_of("most")


@pytest.mark.parametrize(
    ("name", "fixed", "inputs"),
    [
        ("ssql", [8, None, None], [False, True, True]),
        ("all", [None, None, None], [True, True, True]),
        ("first_last_8", [8, None, 8], [True, True, True]),
    ],
)
def test_fixed_bits_and_quantized_inputs_of_each_policy(
    name: str, fixed: list[int | None], inputs: list[bool]
) -> None:
    net = network()
    quant.quantize_(net, name)
    layers = [layer for _, layer in quantized_layers(net)]
    assert [layer.weight_quantizer.fixed_bits for layer in layers] == fixed
    assert [layer.input_quantizer is not None for layer in layers] == inputs


def test_skipped_layers_stay_fp32() -> None:
    net = network()
    done = quant.quantize_(net, QuantizationPolicy("skip", placement="none", skip=("2",)))
    assert [name for name, _ in quantized_layers(net)] == ["0", "4"]
    assert done.skipped == {"2": "named in the policy's skip"} and "fp32       2: " in str(done)
