"""Fake quantization: golden vectors of SSQL's source, torch's operators, and a naive STE."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mezzotint.quant import fake_quantize
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.quant.grid import Grid, Scheme, make_grid, round_ste
from mezzotint.quant.observers import MinMax

# SSQL's source, run with torch 2.13 (whose clamp lets the gradient through at its bounds) and 2.14
# (whose does not).
WEIGHT = [[1.0, -0.5, 0.3, -1.2], [0.1, 0.2, -0.05, 0.0]]
GOLDEN_WEIGHTS = {
    2: ([0.8, 0.133333], [[0.8, -0.8, 0, -1.6], [0.133333, 0.133333, 0, 0]]),
    3: (
        [0.342857, 0.0571429],
        [[1.028571, -0.342857, 0.342857, -1.371429], [0.114286, 0.171429, -0.057143, 0]],
    ),
    4: ([0.16, 0.0266667], [[0.96, -0.48, 0.32, -1.28], [0.106667, 0.186667, -0.053333, 0]]),
    8: (
        [0.00941176, 0.00156863],
        [[0.997647, -0.498824, 0.301176, -1.204706], [0.100392, 0.199216, -0.050196, 0]],
    ),
}
GOLDEN_GRADIENT = [[1.0, 1.0, 1.0, 2.0], [1.0, 1.083333, 1.0, 1.0]]
STRICT_GRADIENT = [[0.0, 1.0, 1.0, 1.166667], [0.0, 1.583333, 1.0, 1.0]]
GOLDEN_ACTIVATIONS = {
    2: [0, 0, 0.833333, 2.5],
    4: [0, 0.333333, 1.0, 2.5],
    8: [0, 0.401961, 1.0, 2.5],
}


def quantizer_of_weights(bits: int) -> WeightQuantizer:
    quantizer = WeightQuantizer()
    quantizer.mode = "quantize"
    quantizer.set_bits(bits)
    return quantizer


@pytest.mark.parametrize("bits", GOLDEN_WEIGHTS)
def test_golden_weights(bits: int) -> None:
    scales, expected = GOLDEN_WEIGHTS[bits]
    weight = torch.tensor(WEIGHT)
    quantizer = quantizer_of_weights(bits)
    torch.testing.assert_close(
        quantizer.grid_of(weight).scale.flatten(), torch.tensor(scales), rtol=1e-5, atol=1e-7
    )
    torch.testing.assert_close(quantizer(weight), torch.tensor(expected), rtol=1e-5, atol=2e-6)


def test_golden_gradient_includes_the_scale_and_the_bounds() -> None:
    weight = torch.tensor(WEIGHT, requires_grad=True)
    quantizer_of_weights(2)(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor(GOLDEN_GRADIENT), rtol=1e-5, atol=1e-6)


def test_a_mask_without_its_bounds_would_give_another_gradient() -> None:
    """The same formula with torch 2.14's gradient of clamp, which our own mask avoids."""
    weight = torch.tensor(WEIGHT, requires_grad=True)
    scale = torch.maximum(*(v.abs() for v in MinMax.of(weight))) / 1.5
    codes = round_ste(weight / scale)
    strict = (codes > -2.0) & (codes < 1.0)
    clamped = torch.where(strict, codes, codes.detach().clamp(-2.0, 1.0))
    (clamped * scale).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(weight.grad, torch.tensor(STRICT_GRADIENT), rtol=1e-5, atol=1e-6)
    assert weight.grad is not None and not torch.allclose(
        weight.grad, torch.tensor(GOLDEN_GRADIENT), atol=0.5
    )


@pytest.mark.parametrize("bits", GOLDEN_ACTIVATIONS)
def test_golden_activations(bits: int) -> None:
    out, grid = activations([0.0, 0.4, 1.0, 2.5], bits)
    torch.testing.assert_close(
        out[0], torch.tensor(GOLDEN_ACTIVATIONS[bits], dtype=torch.float32), rtol=1e-5, atol=2e-6
    )
    assert grid.scale.item() == pytest.approx(2.5 / (2**bits - 1), rel=1e-6)


def test_golden_signed_activations() -> None:
    out, grid = activations([-0.7, 0.4, 1.0, 2.5], 4)
    torch.testing.assert_close(
        out[0], torch.tensor([-0.64, 0.426667, 1.066667, 2.56]), rtol=1e-5, atol=2e-6
    )
    assert grid.scale.item() == pytest.approx(0.213333, rel=1e-5) and grid.zero_point is not None
    assert grid.zero_point.item() == 3.0


def activations(values: list[float], bits: int) -> tuple[Tensor, Grid]:
    x = torch.tensor([values])
    quantizer = ActivationQuantizer()
    quantizer.mode = "observe"
    assert quantizer(x) is x
    quantizer.mode = "quantize"
    quantizer.set_bits(bits)
    return quantizer(x), quantizer.grid()


def test_a_channel_of_zeros_leaves_the_others_quantized() -> None:
    """SSQL's source returns such a weight whole and unquantized."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.3]], requires_grad=True)
    out = quantizer_of_weights(2)(weight)
    assert torch.equal(out[0], torch.zeros(2))
    torch.testing.assert_close(out[1], torch.tensor([2 / 3, 0.0]))
    out.sum().backward()
    assert weight.grad is not None and weight.grad.isfinite().all()


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
    out.backward(gradient)  # type: ignore[no-untyped-call]
    expected.backward(gradient)  # type: ignore[no-untyped-call]
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
    out.backward(gradient)  # type: ignore[no-untyped-call]
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    assert ours.grad is not None and theirs.grad is not None and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("bits", range(2, 9))
def test_symmetric_grid_of_a_live_weight_equals_torch(bits: int) -> None:
    weight = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(bits))
    grid = make_grid("symmetric", *MinMax.of(weight.flatten(1)), bits)
    out = fake_quantize(weight, grid.scale.view(-1, 1, 1, 1), None, grid.low, grid.high)
    zeros = torch.zeros(16, dtype=torch.int32)
    half = 2 ** (bits - 1)
    expected = torch.fake_quantize_per_channel_affine(
        weight, grid.scale.flatten(), zeros, 0, 1 - half, half - 1
    )
    assert torch.equal(out, expected)
    assert torch.equal(
        out.flatten(1),
        grid.values(Grid(grid.scale, None, grid.low, grid.high, False).codes(weight.flatten(1))),
    )


def test_what_is_not_a_number_stays_so_and_gets_no_gradient() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 0.3], requires_grad=True)
    out = fake_quantize(x, torch.tensor(0.1), None, -8, 7)
    assert out[0].isnan() and out[1:].tolist() == pytest.approx([0.7, -0.8, 0.3])
    out.nansum().backward()  # type: ignore[no-untyped-call]
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
        out.backward(out_gradient)  # type: ignore[no-untyped-call]
        return [t.grad for t in (x, s, z) if t.grad is not None]

    for ours, theirs in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_groups_have_ranges_of_their_own() -> None:
    weight = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    layout = Layout("group", group=4)
    out = WeightQuantizer(layout, "symmetric")
    out.mode = "quantize"
    out.set_bits(3)
    parts = []
    for start in (0, 4, 8):
        part = weight[:, start : start + 4]
        scale = part.abs().amax(1, keepdim=True) / 3
        parts.append((part / scale).round().clamp(-3, 3) * scale)
    torch.testing.assert_close(out(weight), torch.cat(parts, 1), rtol=0, atol=0)
    assert torch.equal(layout.unrows(layout.rows(weight), weight.shape), weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    assert quantizer_of_weights(4)(torch.tensor(WEIGHT, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_channels_last_does_not_matter(granularity: str) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    layout = Layout("tensor") if granularity == "tensor" else Layout("channel", axis=1)
    last = x.to(memory_format=torch.channels_last)
    grid = make_grid("affine", *MinMax.of(layout.rows(x)), 4)
    assert torch.equal(layout.quantize(last, grid), layout.quantize(x, grid))
    assert torch.equal(
        torch.stack(MinMax.of(layout.rows(last))), torch.stack(MinMax.of(layout.rows(x)))
    )


@pytest.mark.parametrize("scheme", ["ssql_symmetric", "ssql_asymmetric", "symmetric", "affine"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_and_values_are_inverses(scheme: Scheme, bits: int) -> None:
    x = torch.randn(3, 200, generator=torch.Generator().manual_seed(bits))
    grid = make_grid(scheme, *MinMax.of(x), bits)
    codes = grid.codes(x)
    assert codes.dtype == torch.int16 and codes.min() >= grid.low and codes.max() <= grid.high
    assert torch.equal(grid.values(codes), grid.quantize(x))


def test_a_group_needs_a_size_and_nothing_else_has_one() -> None:
    for layout in (("group", 0, 0), ("channel", 0, 4)):
        with pytest.raises(
            ValueError,
            match="`group` must be at least 1 for granularity 'group' and 0 for the others",
        ):
            Layout(*layout)
