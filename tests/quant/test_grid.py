"""Fake quantization against torch's operators, a naive STE, and exact inverses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mezzotint.quant import fake_quantize
from mezzotint.quant.grid import Scheme, make_grid, round_ste, scale_gradient, sign_ste
from mezzotint.quant.observers import MinMax


@pytest.mark.parametrize("value", [3.7, -0.2, 0.0])
@pytest.mark.parametrize("scheme", ["ssql_asymmetric", "affine", "symmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_constant_keeps_its_value(value: float, scheme: Scheme, bits: int) -> None:
    x = torch.full((1, 5), value)
    out = make_grid(scheme, *MinMax.of(x), bits).quantize(x)
    torch.testing.assert_close(out, x, rtol=1e-5, atol=1e-7)


cases = st.tuples(
    st.integers(2, 8),
    st.booleans(),
    st.integers(0, 2**16),
    st.sampled_from([0.5, 0.25, 0.1, 1 / 3, 0.017]),
    st.sampled_from(["normal", "ties", "extremes"]),
)


def draw(seed: int, kind: str, scale: float, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if (
        kind == "ties"
    ):  # halves of the scale, exactly in between two codes where the scale is a power of two
        return torch.randint(-400, 400, shape, generator=generator) * (scale / 2)
    return torch.randn(shape, generator=generator) * (
        scale * 60 if kind == "normal" else scale * 1e4
    )


@settings(max_examples=150, deadline=None)
@given(cases)
def test_equals_torch_per_tensor_bit_for_bit(case: tuple[int, bool, int, float, str]) -> None:
    bits, signed, seed, scale, kind = case
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero = low + seed % (high - low + 1)
    x = draw(seed, kind, scale, (7, 11))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = torch.fake_quantize_per_tensor_affine(theirs, scale, zero, low, high)
    out = fake_quantize(ours, torch.tensor(scale), torch.tensor(float(zero)), low, high)
    assert torch.equal(out, expected)
    gradient = draw(seed + 1, "normal", 1.0, (7, 11))
    out.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


@settings(max_examples=100, deadline=None)
@given(cases)
def test_equals_torch_per_channel_bit_for_bit(case: tuple[int, bool, int, float, str]) -> None:
    bits, signed, seed, scale, kind = case
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    generator = torch.Generator().manual_seed(seed)
    scales = scale * (torch.rand(5, generator=generator) + 0.5)
    zeros = torch.randint(low, high + 1, (5,), generator=generator, dtype=torch.int32)
    x = draw(seed, kind, scale, (5, 3, 2, 2))
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = torch.fake_quantize_per_channel_affine(theirs, scales, zeros, 0, low, high)
    out = fake_quantize(ours, scales.view(5, 1, 1, 1), zeros.float().view(5, 1, 1, 1), low, high)
    assert torch.equal(out, expected)
    gradient = draw(seed + 1, "normal", 1.0, (5, 3, 2, 2))
    out.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


def test_what_is_not_a_number_stays_so_and_gets_no_gradient() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.3], requires_grad=True)
    out = fake_quantize(x, torch.tensor(0.1), None, -8, 7)
    assert out[0].isnan() and out[1:].tolist() == pytest.approx([0.7, -0.8, 0.3])
    out.nansum().backward()
    assert x.grad is not None and x.grad.tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("divide", [False, True])
@pytest.mark.parametrize("zero", [0.0, 3.0])
def test_gradients_of_scale_and_zero_point_are_those_of_a_naive_ste(
    divide: bool, zero: float
) -> None:
    generator = torch.Generator().manual_seed(5)
    x0 = torch.randn(4, 50, generator=generator, dtype=torch.float64)
    s0 = torch.rand(4, 1, generator=generator, dtype=torch.float64) * 0.2 + 0.05
    z0 = torch.full((4, 1), zero, dtype=torch.float64)
    out_gradient = torch.randn(4, 50, generator=generator, dtype=torch.float64)

    def gradients(naive: bool) -> list[Tensor]:
        x, s, z = (t.clone().requires_grad_() for t in (x0, s0, z0))
        if naive:
            codes = round_ste(x / s) + z
            inside = (codes >= -4) & (codes <= 3)
            out = (torch.where(inside, codes, codes.detach().clamp(-4, 3)) - z) * s
        else:
            out = fake_quantize(x, s, z, -4, 3, divide=divide)
        out.backward(out_gradient)
        return [t.grad for t in (x, s, z) if t.grad is not None]

    for ours, theirs in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_extremes_of_the_outward_grid_do_not_hang_on_the_last_bit(bits: int) -> None:
    largest = torch.rand(1000, generator=torch.Generator().manual_seed(bits)).add_(0.01)
    x = torch.stack([-largest, largest, 0.3 * largest], dim=1)
    codes = make_grid("ssql_outward", *MinMax.of(x), bits).codes(x)
    half = 2 ** (bits - 1)
    assert codes[:, 0].unique().tolist() == [-half] and codes[:, 1].unique().tolist() == [half - 1]
    published = make_grid("ssql_symmetric", *MinMax.of(x), bits)
    torch.testing.assert_close(
        published.scale, make_grid("ssql_outward", *MinMax.of(x), bits).scale
    )


@pytest.mark.parametrize(
    "scheme", ["ssql_symmetric", "ssql_outward", "ssql_asymmetric", "symmetric", "affine"]
)
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_and_values_are_inverses(scheme: Scheme, bits: int) -> None:
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(bits))
    grid = make_grid(scheme, *MinMax.of(x), bits)
    codes = grid.codes(x)
    assert codes.dtype == torch.int16 and codes.min() >= grid.low and codes.max() <= grid.high
    assert torch.equal(grid.values(codes), grid.quantize(x))


def test_the_four_grids_are_those_of_the_table() -> None:
    low, high = torch.tensor([[-1.0]]), torch.tensor([[3.0]])
    expected = {
        "ssql_symmetric": (3.0 / 7.5, None, -8, 7),
        "ssql_asymmetric": (4.0 / 15, 4, 0, 15),
        "symmetric": (3.0 / 7, None, -7, 7),
        "affine": (4.0 / 15, 4, 0, 15),
    }
    for scheme, (scale, zero, first, last) in expected.items():
        grid = make_grid(scheme, low, high, 4)  # type: ignore[arg-type]
        assert grid.scale.item() == pytest.approx(scale)
        assert (None if grid.zero_point is None else grid.zero_point.item()) == zero
        assert (grid.low.item(), grid.high.item()) == (first, last)
    positive = torch.tensor([[2.0]]), torch.tensor([[3.0]])
    assert make_grid("affine", *positive, 4).scale.item() == pytest.approx(0.2), "0 is included"
    assert make_grid("ssql_asymmetric", *positive, 4).scale.item() == pytest.approx(1 / 15)


def test_values_moved_up_or_down_stay_there() -> None:
    grid = make_grid("symmetric", torch.tensor([[-7.0]]), torch.tensor([[7.0]]), 4)
    x = torch.tensor([[-2.7, -0.2, 0.2, 2.7]])
    for up, expected in ((0.0, [-3.0, -1.0, 0.0, 2.0]), (1.0, [-2.0, 0.0, 1.0, 3.0])):
        assert grid.quantize(grid.toward(x, torch.full_like(x, up))).tolist() == [expected]


def test_sign_and_scaled_gradients() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0], requires_grad=True)
    out = sign_ste(x)
    assert out.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    (gradient,) = torch.autograd.grad(scale_gradient(round_ste(x), torch.tensor(0.25)).sum(), x)
    assert gradient.tolist() == [0.25] * 5
