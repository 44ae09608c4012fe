"""Fake quantization: golden vectors of SSQL's source, torch's operators, and a naive STE."""

from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.quant import LSQ, Binary, DoReFaWeight, Log2, fake_quantize
from mezzotint.quant.fake import ActivationQuantizer, Layout, WeightQuantizer
from mezzotint.quant.grid import Grid, make_grid, round_ste
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
    (clamped * scale).sum().backward()
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


def test_a_group_needs_a_size_and_nothing_else_has_one() -> None:
    for layout in (("group", 0, 0), ("channel", 0, 4)):
        with pytest.raises(
            ValueError,
            match="`group` must be at least 1 for granularity 'group' and 0 for the others",
        ):
            Layout(*layout)


@pytest.mark.parametrize(
    ("quantizer", "first", "last"),
    [(WeightQuantizer, 2, 8), (LSQ, 2, 8), (DoReFaWeight, 1, 8), (Log2, 1, 8), (Binary, 1, 1)],
)
def test_fixed_bits_are_those_that_a_quantizer_supports(
    quantizer: Any, first: int, last: int
) -> None:
    assert quantizer(fixed_bits=first).num_bits == first
    assert quantizer(fixed_bits=last).num_bits == last
    for bits in (first - 1, last + 1):
        with pytest.raises(ValueError, match=f"`fixed_bits` must be {first} to {last}, .* {bits}."):
            quantizer(fixed_bits=bits)
