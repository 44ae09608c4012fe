"""Soft rounding and learned steps against the hard grids that they end on."""

import pytest
import torch
from torch import Tensor

from mezzotint.quant.adaround import AdaRound, LearnedStep, range_of
from mezzotint.quant.fake import ActivationQuantizer, Layout
from mezzotint.quant.grid import Scheme, make_grid
from mezzotint.quant.observers import MinMax


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
