"""Rows of tensors: layouts, dtypes, ranges, masks, gradients."""

from typing import Any

import pytest
import torch

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.seeding import Draws
from tests.augment.randomized_quantization.reference import (
    FLOATS,
    INTEGERS,
    randomized_quantize,
    sample,
    with_codes,
)


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "expanded", "sliced"])
def test_layouts_give_the_same_numbers_and_are_kept(layout: str) -> None:
    x = torch.randn(4, 3, 6, 8)
    other = {
        "channels_last": lambda: x.to(memory_format=torch.channels_last),
        "permuted": lambda: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
        "expanded": lambda: x[:1].expand(4, -1, -1, -1),
        "sliced": lambda: torch.randn(4, 3, 6, 16)[..., ::2].copy_(x),
    }[layout]()
    y = randomized_quantize(other, seed=2)
    assert torch.equal(y, randomized_quantize(other.contiguous(), seed=2))
    assert y.stride() == torch.empty_like(other).stride()


@pytest.mark.parametrize("channel_dim", [1, 2, 3, -1, -2])
def test_the_channel_may_be_any_dimension_but_the_batch(channel_dim: int) -> None:
    x = torch.randn(2, 3, 4, 5)
    y = randomized_quantize(x, channel_dim=channel_dim, seed=4)
    moved = randomized_quantize(x.movedim(channel_dim, 1).contiguous(), seed=4)
    assert torch.equal(y, moved.movedim(1, channel_dim))
    assert y.is_contiguous()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4), (2, 3, 0)])
def test_empty_batches(shape: tuple[int, ...]) -> None:
    y, codes = with_codes(torch.empty(shape))
    assert y.shape == codes.shape == shape


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_stays_at_nan_and_infinities_go_to_the_outer_bins(dtype: torch.dtype) -> None:
    x = sample(dtype, 3, 2, 40, scale=1.0)
    dirty = x.clone()
    dirty[0, 0, 5], dirty[1, 1, 6], dirty[2, 0, 7] = torch.nan, torch.inf, -torch.inf
    y = randomized_quantize(dirty, seed=5)
    assert torch.equal(y.isnan(), dirty.isnan())
    assert y[1, 1, 6] == y[1, 1].max() <= x[1, 1].max()
    assert y[2, 0, 7] == y[2, 0].min() >= dirty[2, 0][dirty[2, 0].isfinite()].min()
    clean = torch.tensor([[False, True], [True, False], [False, True]])
    assert torch.equal(y[clean], randomized_quantize(x, seed=5)[clean])
    hopeless = torch.tensor([[[torch.nan, torch.inf, -torch.inf]]], dtype=dtype)
    assert torch.equal(randomized_quantize(hopeless).nan_to_num(), hopeless.nan_to_num())


def test_a_mask_keeps_padding_out_of_the_range_and_as_it_is() -> None:
    x = torch.randn(4, 6, 10)  # [B, N, D]
    lengths = torch.tensor([6, 4, 2, 0])
    mask = (torch.arange(6) < lengths[:, None]).unsqueeze(2)
    padded = torch.where(mask, x, 1e6)
    settled: dict[str, Any] = {"channel_dim": 2, "spacing": "uniform", "reproduction": "middle"}
    y = randomized_quantize(padded, 3, mask=mask, **settled)
    for out, row, length in zip(y, padded, lengths.tolist(), strict=True):
        assert torch.equal(out[length:], row[length:])
        assert torch.equal(
            out[None, :length], randomized_quantize(row[None, :length], 3, **settled)
        )
    assert (y != padded).any()


@pytest.mark.parametrize("p", [1.0, 0.5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("gradient", ["none", "ste"])
def test_gradient(p: float, masked: bool, gradient: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6, 10, requires_grad=True)
    mask = torch.rand(8, 6, 1) < 0.7 if masked else None
    if mask is not None:
        mask[:, :2] = (
            True  # a row with one valid value is constant: unchanged, and without gradient
        )
    y = randomized_quantize(x, 4, channel_dim=2, p=p, mask=mask, gradient=gradient, seed=8)
    weight = torch.randn_like(x)
    if gradient == "none" and p == 1 and mask is None:
        assert not y.requires_grad
        return
    torch.autograd.backward((y * weight).sum())
    unchanged = (y == x).all(dim=2, keepdim=True) & (y == x)
    expected = weight if gradient == "ste" else weight * unchanged
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=0)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_vmap_is_a_loop(randomness: str) -> None:
    x = torch.randn(5, 4, 3, 7)
    x[1, 2, 0, 3] = torch.nan
    transform = RandomizedQuantization(bins=4, p=0.5, channel_dim=1)
    params = transform.draw((4, 3, 7), Draws(torch.arange(4), 11))
    mapped = torch.vmap(lambda sample: transform.apply(sample, params))(x)
    looped = torch.stack([transform.apply(sample, params) for sample in x])
    torch.testing.assert_close(mapped, looped, rtol=0, atol=0, equal_nan=True)
    y = torch.vmap(lambda sample: randomized_quantize(sample, 4, p=0.5), randomness=randomness)(x)
    assert all(
        len(row.unique()) <= 4 or torch.equal(row, kept)
        for row, kept in zip(y[0, 0], x[0, 0], strict=True)
    )


def test_many_bins_have_wide_codes() -> None:
    x = torch.rand(2, 1, 5000)
    y, codes = with_codes(x, 300)
    assert codes.dtype == torch.int32 and 256 < codes.max() < 300
    assert torch.equal(y, randomized_quantize(x, 300, seed=0))


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("value", [0.0, 0.1, 7.0, 1e4, 1e8])
def test_a_constant_row_is_left_exactly(dtype: torch.dtype, value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64).clamp(max=100 if dtype == torch.int8 else 255)
    x = x.to(dtype).expand(2, 3, 4, 5).contiguous()
    assert torch.equal(randomized_quantize(x), x)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1e8), (torch.float16, 1e4), (torch.bfloat16, 1e3)]
)
def test_large_numbers_are_quantized_like_small_ones(dtype: torch.dtype, scale: float) -> None:
    x = (torch.randn(4, 3, 50) * scale).to(dtype)
    y = randomized_quantize(x, 4)
    assert all(2 <= len(row.unique()) <= 4 for row in y.flatten(0, 1))


def test_a_row_does_not_depend_on_order_or_on_other_rows() -> None:
    x = torch.randn(3, 4, 60)
    order = torch.randperm(60)
    y = randomized_quantize(x, seed=1)
    assert torch.equal(randomized_quantize(x[:, :, order], seed=1), y[:, :, order])
    changed = x.clone()
    changed[1, 2] *= 9
    same = torch.ones(3, 4, dtype=torch.bool)
    same[1, 2] = False
    assert torch.equal(randomized_quantize(changed, seed=1)[same], y[same])
