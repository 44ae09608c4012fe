"""Reconstruction against brute force and against rounding to nearest."""

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mezzotint import quant
from mezzotint.encoders.resnet import ResNet
from mezzotint.quant.clipping_observers import MSE
from mezzotint.quant.convert import QuantizationPolicy, parameter_of, quantized_layers
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.quant.grid import Scheme, make_grid
from mezzotint.quant.hooks import Unit
from mezzotint.quant.observers import MinMax
from mezzotint.quant.reconstruct import AdaRound, LearnedStep, range_of, reconstruct_

Digits = tuple[Tensor, Tensor]
Error = Callable[[Tensor, Tensor], float]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("bits", "seed", "finds_it"),
    [(2, 0, True), (2, 1, True), (3, 3, True), (3, 0, False), (3, 2, False)],
)
def test_against_all_roundings(bits: int, seed: int, finds_it: bool) -> None:
    """Two rows of five weights with 2^5 roundings each: it finds the best or comes closer."""
    net = nn.Sequential(nn.Linear(5, 2, bias=False))
    weight = normal(2, 5, seed=seed + 10)
    with torch.no_grad():
        net[0].weight.copy_(weight)  # type: ignore[operator]
    x = normal(64, 5, seed=seed) @ normal(5, 5, seed=seed + 50)
    quant.quantize_(net, QuantizationPolicy("weights", placement="none"))
    grid = make_grid("ssql_symmetric", *MinMax.of(weight), bits)
    below = torch.floor(weight / grid.scale)

    def error(rounded: Tensor) -> Tensor:
        return (x @ (rounded - weight).T).square().mean(0)

    ups = itertools.product([0.0, 1.0], repeat=5)
    every = [
        error((below + torch.tensor(up)).clamp(grid.low, grid.high) * grid.scale) for up in ups
    ]
    best, nearest = (
        torch.stack(every).amin(0).mean().item(),
        error(grid.quantize(weight)).mean().item(),
    )
    (unit,) = reconstruct_(
        net, [x], weight=bits, granularity="layer", steps=600, batch_size=64, lr=2e-2
    )
    with quant.bits(net, weight=bits, activation=32), torch.no_grad():
        learned = (net(x) - x @ weight.T).square().mean().item()
    assert (
        unit.improved
        and unit.before == pytest.approx(nearest, rel=1e-4)
        and unit.after == pytest.approx(learned, rel=1e-4)
    )
    assert best * 0.9999 <= learned < nearest
    assert learned == pytest.approx(best, rel=1e-4) or not finds_it


@pytest.mark.parametrize(
    ("weight", "activation", "granularity"),
    [(3, 32, "layer"), (3, 32, "block"), (4, 32, "block"), (3, 4, "block")],
)
def test_beats_rounding_to_the_nearest(
    trained: ResNet,
    digits: Digits,
    feature_error: Error,
    weight: int,
    activation: int,
    granularity: Unit,
) -> None:
    x, unseen = digits[0][:256], digits[0][512:]
    exact = trained(unseen).detach()
    parameters = {name: p.detach().clone() for name, p in trained.named_parameters()}
    quant.quantize_(trained, QuantizationPolicy("free", network_input=False))
    quant.calibrate(trained, [x])
    trained.train()

    def error(w: int, a: int) -> float:
        trained.eval()
        with quant.bits(trained, weight=w, activation=a), torch.no_grad():
            found = feature_error(trained(unseen), exact)
        trained.train()
        return found

    others = [(8, 8), (2, 32), (32, 8)]
    nearest, elsewhere = error(weight, activation), [error(*pair) for pair in others]
    state = torch.get_rng_state()
    widths = {"weight": weight, "activation": activation}
    done = reconstruct_(
        trained, list(torch.split(x, 64)), granularity=granularity, steps=150, lr=5e-2, **widths
    )
    assert torch.equal(torch.get_rng_state(), state) and trained.training
    assert (
        all(unit.after <= unit.before for unit in done) and sum(unit.improved for unit in done) >= 3
    )
    assert error(weight, activation) < 0.6 * nearest
    assert [error(*pair) for pair in others] == elsewhere
    assert all(
        torch.equal(p, parameters[n]) and p.grad is None for n, p in trained.named_parameters()
    )
    masks = {key: value for key, value in trained.state_dict().items() if "rounding" in key}
    assert masks and all(mask.dtype == torch.bool for mask in masks.values())
    assert all(key.endswith(f"rounding_{weight}") for key in masks)


def test_is_deterministic_saved_and_forgotten(trained: ResNet, digits: Digits) -> None:
    x = digits[0][:64]
    quant.quantize_(trained, "ssql")
    quant.calibrate(trained, [x])
    other = copy.deepcopy(trained)

    def out(network: ResNet) -> Tensor:
        with quant.bits(network, weight=3, activation=4), torch.no_grad():
            return network(x)  # type: ignore[no-any-return]

    nearest = out(trained)
    for network in (trained, other):
        reconstruct_(network, [x], weight=3, activation=4, steps=40, lr=0.1)
    learned = out(trained)
    assert torch.equal(learned, out(other)) and not torch.equal(learned, nearest)
    fresh = copy.deepcopy(trained)
    for module in fresh.modules():
        if isinstance(module, (WeightQuantizer, ActivationQuantizer)):
            module.untune("rounding")
            module.untune("range")
    assert torch.equal(out(fresh), nearest)
    fresh.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert torch.equal(out(fresh), learned)
    reconstruct_(
        trained, [x], weight=3, activation=4, steps=40, lr=0.1
    )  # begins at the nearest again
    assert torch.equal(out(trained), learned)
    quant.calibrate(trained, [x])
    assert not [key for key in trained.state_dict() if "range_" in key]


def test_codes_are_those_that_were_learned(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(
        trained, QuantizationPolicy("strong", weight=lambda: WeightQuantizer(observer=MSE()))
    )
    reconstruct_(trained, [digits[0][:64]], weight=3, steps=40, lr=0.1)
    with quant.bits(trained, weight=3, activation=32):
        for name, layer in quantized_layers(trained):
            quantizer, parameter = layer.weight_quantizer, parameter_of(layer)
            values = quantizer.grid_of(parameter).values(quantizer.codes(parameter))
            assert torch.equal(quantizer.layout.unrows(values, parameter.shape), layer.weight), name
        assert any(
            layer.weight_quantizer.tuned("rounding") is not None
            for _, layer in quantized_layers(trained)
        )


def test_groups_can_be_reconstructed() -> None:
    net = nn.Sequential(nn.Linear(10, 4))
    quant.quantize_(
        net,
        QuantizationPolicy(
            "groups", placement="none", weight=lambda: WeightQuantizer(Layout("group", group=4))
        ),
    )
    x = normal(64, 10) @ normal(10, 10, seed=1)
    (unit,) = reconstruct_(net, [x], weight=2, steps=150, lr=5e-2)
    assert unit.improved and unit.after < unit.before


def test_bad_arguments(trained: ResNet, digits: Digits) -> None:
    quant.quantize_(trained)
    data = [digits[0][:8]]
    for batches, weight, steps, message in (
        ([], 4, 9, "`batches` is empty"),
        (data, 32, 9, "`weight` must be 2 to 8 bits, got 32"),
        (data, 4, 0, "`steps` must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct_(trained, batches, weight=weight, steps=steps)
    with pytest.raises(ValueError, match="Call `calibrate` first"):
        reconstruct_(trained, [digits[0][:8]], activation=4)


def test_soft_rounding_starts_at_the_weight_and_ends_on_the_grid() -> None:
    weight = normal(4, 3, 3, 3)
    layout = Layout("channel")
    grid = make_grid("ssql_symmetric", *MinMax.of(layout.rows(weight)), 4)
    soft = AdaRound(weight, grid, layout)
    inside = (weight / grid.scale.view(-1, 1, 1, 1) <= 7.0) & (
        weight / grid.scale.view(-1, 1, 1, 1) > -8.0
    )
    step = grid.scale.view(-1, 1, 1, 1).expand_as(weight)
    assert (((soft(weight) - weight).abs() <= 0.0101 * step) | ~inside).all()
    soft(weight).sum().backward()
    assert soft.v.grad is not None and soft.v.grad.abs().sum() > 0
    with torch.no_grad():
        soft.v.copy_(torch.where(soft.rounded_up(), 9.0, -9.0))
    hard = layout.quantize(weight, grid, soft.rounded_up())
    torch.testing.assert_close(soft(weight), hard)
    nearest = layout.quantize(weight, grid)
    part = weight / step - (weight / step).floor()
    untied = inside & ((part - 0.5).abs() > 1e-3)
    torch.testing.assert_close(hard[untied], nearest[untied])
    assert soft.penalty(20.0).item() == pytest.approx(0.0)


@pytest.mark.parametrize("scheme", ["ssql_symmetric", "symmetric", "ssql_asymmetric", "affine"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_learned_step_becomes_a_range(scheme: Scheme, bits: int) -> None:
    x = normal(1, 200) + 0.5
    quantizer = ActivationQuantizer(scheme=scheme)
    quantizer.mode = "observe"
    quantizer(x)
    quantizer.mode = "quantize"
    quantizer.set_bits(bits)
    learner = LearnedStep(quantizer, drop=0.5)
    with torch.no_grad():
        learner.change.fill_(-0.3)
    grid = learner.grid()
    low, high = range_of(scheme, grid)
    again = make_grid(scheme, low, high, bits)
    torch.testing.assert_close(again.scale, grid.scale, rtol=1e-5, atol=0)
    assert (again.zero_point is None) == (grid.zero_point is None)
    assert grid.zero_point is None or torch.equal(again.zero_point, grid.zero_point)  # type: ignore[arg-type]
    assert torch.equal(learner(x), learner(x))
    learner.generator = torch.Generator().manual_seed(0)
    dropped = (learner(x) == x).float().mean().item()
    assert 0.4 < dropped < 0.6
