"""LSQ, PACT, DoReFa and binary against the formulas of their papers, and in training."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.convert import (
    QuantizationPolicy,
    named_activation_quantizers,
    quantized_layers,
)
from mezzotint.quant.fake import Quantizer, WeightQuantizer
from mezzotint.quant.learned import LSQ, PACT, Binary, DoReFaActivation, DoReFaWeight, clip_penalty

Digits = tuple[Tensor, Tensor]
POLICIES = {
    "lsq": QuantizationPolicy("lsq", weight=LSQ, activation=LSQ),
    "pact": QuantizationPolicy("pact", activation=PACT),
    "dorefa": QuantizationPolicy("dorefa", weight=DoReFaWeight, activation=DoReFaActivation),
    "binary": QuantizationPolicy("binary", weight=Binary, placement="none"),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def on(quantizer: Quantizer, bits: int) -> Quantizer:
    quantizer.mode = "quantize"
    quantizer.set_bits(bits)
    return quantizer


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_lsq_of_a_weight_is_that_of_the_paper(bits: int) -> None:
    weight = normal(5, 3, 3, 3).requires_grad_()
    lsq = LSQ(bits=bits)
    lsq.attach(weight)
    negative, positive = 2 ** (bits - 1), 2 ** (bits - 1) - 1
    start = 2 * weight.detach().abs().mean((1, 2, 3)) / positive**0.5
    torch.testing.assert_close(lsq.step.flatten(), start, rtol=1e-6, atol=0)
    out = on(lsq, bits)(weight)
    scale = start.view(-1, 1, 1, 1)
    codes = (weight / scale).detach()
    torch.testing.assert_close(out, codes.round().clamp(-negative, positive) * scale)
    gradient = normal(5, 3, 3, 3, seed=1)
    out.backward(gradient)
    # arXiv 1902.08153, eq. 3, and §2.2 for the factor
    by_step = torch.where(codes.round() < -negative, -float(negative), codes.round() - codes)
    by_step = torch.where(codes.round() > positive, float(positive), by_step)
    expected = (gradient * by_step).sum((1, 2, 3)) / (27 * positive) ** 0.5
    assert lsq.step.grad is not None and weight.grad is not None
    torch.testing.assert_close(lsq.step.grad.flatten(), expected, rtol=1e-4, atol=1e-6)
    inside = (codes.round() >= -negative) & (codes.round() <= positive)
    assert torch.equal(weight.grad, gradient * inside)


@pytest.mark.parametrize("signed", [False, True])
def test_lsq_of_an_activation_begins_at_calibration(signed: bool) -> None:
    x = normal(6, 4, 5, 5) if signed else normal(6, 4, 5, 5).relu()
    lsq = LSQ(bits=4)
    lsq.mode = "observe"
    assert not lsq.calibrated
    lsq(x[:3])
    lsq(x[3:])
    lsq.refresh()
    largest = 7 if signed else 15
    assert lsq.calibrated and lsq.step.item() == pytest.approx(
        2 * x.abs().mean().item() / largest**0.5, rel=1e-5
    )
    out = on(lsq, 4)(x)
    codes = (out / lsq.step).detach().round().unique()
    assert (codes.min() < 0) == signed and codes.min() >= -8 and codes.max() <= largest
    out.sum().backward()
    values = 4 * 5 * 5
    ratio = x / lsq.step.detach()
    outside = ratio.round() > largest
    below = ratio.round() < (-8 if signed else 0)
    each = torch.where(outside, float(largest), torch.where(below, -8.0, ratio.round() - ratio))
    assert lsq.step.grad is not None
    torch.testing.assert_close(
        lsq.step.grad.sum(), each.sum() / (values * largest) ** 0.5, rtol=1e-3, atol=1e-4
    )
    begun = lsq.step.item()
    lsq.set_bits(3)
    assert lsq.step.item() == begun  # only calibration initializes it


def test_lsq_at_another_width_scales_by_the_papers_own_rule() -> None:
    weight = normal(4, 100)
    lsq, fresh = LSQ(bits=4), LSQ(bits=2)
    lsq.attach(weight)
    fresh.attach(weight)
    torch.testing.assert_close(
        on(lsq, 2).grid().scale, on(fresh, 2).grid().scale, rtol=1e-6, atol=0
    )
    assert torch.equal(lsq.step, lsq.step.abs()) and lsq.grid_of(weight).high == 1.0


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_pact(signed: bool, bits: int) -> None:
    x = (normal(200) * 2).requires_grad_()
    pact = on(PACT(alpha=1.5, signed=signed), bits)
    out = pact(x)
    levels = 2**bits - 1
    low, count = (-1.5, levels - 1) if signed else (0.0, levels)
    grid = torch.linspace(low, 1.5, count + 1)
    assert (out.detach().unsqueeze(1) - grid).abs().amin(1).max() < 1e-6
    assert {round(v, 5) for v in (out.min().item(), out.max().item())} == {low, 1.5}
    out.sum().backward()
    assert x.grad is not None and pact.alpha.grad is not None
    inside = (x < 1.5) & (x > low)
    assert torch.equal(x.grad, inside.float())
    above, below = (x >= 1.5).sum().item(), (x <= low).sum().item()
    assert pact.alpha.grad.item() == above - (below if signed else 0)  # type: ignore[operator]
    assert clip_penalty(nn.ModuleList([pact, PACT(alpha=2.0)])).item() == pytest.approx(
        1.5**2 + 4.0
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_dorefa_weights(bits: int) -> None:
    weight = (normal(4, 30) * 0.4).requires_grad_()
    out = on(DoReFaWeight(), bits)(weight)
    if bits == 1:
        expected = weight.sign() * weight.abs().mean()
    else:
        count, peak = 2**bits - 1, weight.tanh().abs().max()
        expected = (2 * ((weight.tanh() / (2 * peak) + 0.5) * count).round() / count - 1) * peak
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    out.sum().backward()
    assert weight.grad is not None and (weight.grad != 0).all()
    assert len(out.unique()) <= 2**bits


@pytest.mark.parametrize("bits", [1, 3])
def test_dorefa_activations(bits: int) -> None:
    x = (normal(300)).requires_grad_()
    out = on(DoReFaActivation(), bits)(x.view(1, -1))
    count = 2**bits - 1
    torch.testing.assert_close(out[0], (x.clamp(0, 1) * count).round() / count)
    out.sum().backward()
    codes = (x.detach() * count).round()
    assert x.grad is not None and torch.equal(x.grad, ((codes >= 0) & (codes <= count)).float())


def test_binary() -> None:
    weight = (normal(3, 4, 5) * 0.8).requires_grad_()
    binary = on(Binary(), 1)
    out = binary(weight)
    scale = weight.abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(out, torch.where(weight >= 0, scale, -scale))
    (out * 2.0).sum().backward()
    assert weight.grad is not None
    signs = weight.sign()
    straight = 2.0 * scale * (weight.abs() <= 1.0)
    through_scale = 2.0 * signs.sum((1, 2), keepdim=True) / 20 * signs
    torch.testing.assert_close(weight.grad, straight + through_scale)
    grid = binary.grid_of(weight.detach())
    assert torch.equal(grid.values(binary.codes(weight.detach())).view(3, 4, 5), out.detach())
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    on(Binary(scaled=False), 1)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", POLICIES)
def test_in_training(name: str, trained: ResNet, digits: Digits) -> None:
    """The optimizer finds the parameters, the loss falls, and they are saved and loaded."""
    x, labels = digits[0][:256], digits[1][:256]
    fresh = copy.deepcopy(trained)
    quant.quantize_(trained, POLICIES[name])
    quant.calibrate(trained, [x])
    head = nn.Linear(trained.dim, 10)
    nn.init.zeros_(head.weight)
    learned = {n: p.detach().clone() for n, p in trained.named_parameters() if "quantizer" in n}
    assert bool(learned) == (name in ("lsq", "pact"))
    optimizer = torch.optim.Adam([*trained.parameters(), *head.parameters()], 1e-2)
    widths = {"weight": 1, "activation": 32} if name == "binary" else {"weight": 3, "activation": 3}
    losses = []
    with quant.bits(trained.train(), **widths):
        for _ in range(15):
            loss = nn.functional.cross_entropy(head(trained(x)), labels)
            if name == "pact":
                loss = loss + 1e-4 * clip_penalty(trained)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert all(
        not torch.equal(p, learned[n]) for n, p in trained.named_parameters() if n in learned
    )
    quant.quantize_(fresh, POLICIES[name])
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    with quant.bits(trained.eval(), **widths), quant.bits(fresh.eval(), **widths):
        assert torch.equal(trained(x), fresh(x))


@pytest.mark.parametrize(
    ("make", "bits", "message"),
    [
        (
            WeightQuantizer,
            1,
            "weight of `0` is quantized by WeightQuantizer, which supports 2 to 8",
        ),
        (LSQ, 1, "LSQ, which supports 2 to 8 bits, got 1"),
        (Binary, 4, "quantized by Binary, which supports 1 bit only, got 4"),
    ],
)
def test_unsupported_bits_are_refused(
    make: Callable[[], Quantizer], bits: int, message: str
) -> None:
    net = nn.Sequential(nn.Linear(4, 4))
    quant.quantize_(net, QuantizationPolicy("one", placement="none", weight=make))
    with pytest.raises(ValueError, match=message), quant.bits(net, weight=bits, activation=32):
        pass
    assert torch.equal(net[0].weight, net[0]._parameters["weight"])  # type: ignore[arg-type]


def test_one_bit_activations_and_misplaced_quantizers_are_refused(
    trained: ResNet, digits: Digits
) -> None:
    with pytest.raises(TypeError, match="PACT quantizes activations, not weights"):
        quant.quantize_(nn.Sequential(nn.Linear(2, 2)), QuantizationPolicy("wrong", weight=PACT))
    with pytest.raises(TypeError, match="DoReFaActivation quantizes activations"):
        quant.quantize_(
            nn.Sequential(nn.Linear(2, 2)), QuantizationPolicy("wrong", weight=DoReFaActivation)
        )
    quant.quantize_(trained, QuantizationPolicy("mixed", weight=DoReFaWeight))
    quant.calibrate(trained, [digits[0][:8]])
    with pytest.raises(
        ValueError,
        match="The activation of `act1` is quantized by ActivationQuantizer, which supports",
    ):
        quant.bits(trained, weight=1, activation=1).__enter__()
    with pytest.raises(ValueError, match="must be positive"):
        PACT(alpha=-1.0)
    with pytest.raises(ValueError, match="has no PACT quantizer"):
        clip_penalty(trained)


def test_activations_that_are_not_finite_are_named_for_learned_ones_too(
    trained: ResNet, digits: Digits
) -> None:
    quant.quantize_(trained, QuantizationPolicy("pact", activation=PACT))
    with pytest.raises(ValueError, match="activation of `act1` contains NaN or inf"):
        quant.calibrate(trained, [digits[0][:8] * torch.nan])


def test_a_fixed_width_is_the_steps_own() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    quant.quantize_(
        net,
        QuantizationPolicy("lsq", first_bits=8, weight=LSQ, placement="outputs", activation=LSQ),
    )
    first, second = (layer.weight_quantizer for _, layer in quantized_layers(net))
    assert (first.fixed_bits, second.fixed_bits) == (8, None)
    quant.calibrate(net, [normal(10, 6)])
    with quant.bits(net, weight=4, activation=4):
        assert [first.grid().high.item(), second.grid().high.item()] == [127.0, 7.0]
        assert net(normal(10, 6)).isfinite().all()
    assert [type(q) for _, q in named_activation_quantizers(net)] == [LSQ]
