"""The three ways to look levels up agree bit for bit with a definition written as a loop."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mezzotint.augment.randomized_quantization import levels as level_lookup
from mezzotint.augment.randomized_quantization.levels import (
    Levels,
    _fused_steps,
    _search,
    _step,
    look_up,
)
from mezzotint.augment.randomized_quantization.rows import quantize_rows

FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def drawn(rows: int, bins: int, seed: int = 0) -> Levels:
    generator = torch.Generator().manual_seed(seed)
    edges = torch.rand(rows, bins - 1, generator=generator)
    return Levels(bins, edges, torch.rand(rows, bins, generator=generator))


def placed(rows: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    dtype = torch.float64 if rows.dtype in (torch.float64, torch.int64) else torch.float32
    return levels.scaled(low.to(dtype), high.to(dtype), not rows.dtype.is_floating_point)


@pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("bins", [2, 3, 8, 97])
def test_every_way_is_the_definition(dtype: torch.dtype, bins: int) -> None:
    generator = torch.Generator().manual_seed(bins)
    rows = (torch.rand(5, 400, generator=generator) * 255).to(dtype)
    thresholds, values = placed(rows, drawn(5, bins))
    pairs = zip(thresholds.tolist(), rows.tolist(), strict=True)
    codes = torch.tensor(
        [[sum(t <= x for t in row_thresholds) for x in row] for row_thresholds, row in pairs]
    )
    expected = values.gather(1, codes).to(dtype)
    stepped, counted = torch.empty_like(rows), torch.empty_like(rows, dtype=torch.uint8)
    _step(rows, thresholds, values, stepped, counted)
    for y, found in (
        look_up(rows, thresholds, values, False),
        look_up(rows, thresholds, values, True),
        _search(rows, thresholds, values),
        _fused_steps(rows, thresholds, values),
        (stepped, counted),
    ):
        assert torch.equal(y, expected)
        assert found is None or torch.equal(found.long(), codes)


@given(st.integers(2, 20), st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_snaps_equal_search_for_every_range_of_bytes(
    bins: int, one: int, other: int, seed: int
) -> None:
    low, high = min(one, other), max(one, other)
    rows = torch.arange(low, high + 1, dtype=torch.uint8).expand(3, -1).contiguous()
    levels = drawn(3, bins, seed)
    counts = torch.randint(2, bins + 1, (3,), generator=torch.Generator().manual_seed(seed))
    for chosen in (
        levels,
        Levels(bins, None, None, counts),
        Levels(bins, levels.edges, levels.values, counts),
    ):
        thresholds, values = placed(rows, chosen)
        snapped, _ = look_up(rows, thresholds, values, False)
        searched, codes = _search(rows, thresholds, values)
        assert torch.equal(snapped, searched)
        for row in range(3):  # a value stands for its own bin, so quantizing twice changes nothing
            for code in set(codes[row].tolist()):
                bin_ = rows[row][codes[row] == code]
                assert bin_.min() <= snapped[row][codes[row] == code][0] <= bin_.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_value_on_an_edge_belongs_to_the_bin_on_its_right(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0, 50, 100, 149, 150, 200]], dtype=dtype)
    levels = Levels(
        4, edges=torch.tensor([[0.75, 0.25, 0.5]]), values=torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    )
    expected = torch.tensor([[0, 50, 100, 100, 150, 150]], dtype=dtype)
    thresholds, values = placed(rows, levels)
    assert torch.equal(look_up(rows, thresholds, values, False)[0], expected)
    assert torch.equal(_search(rows, thresholds, values)[0], expected)


def test_neighboring_floats_around_an_edge_are_told_apart() -> None:
    levels = drawn(1, 8)
    thresholds, values = levels.scaled(torch.zeros(1, 1), torch.ones(1, 1), False)
    below = torch.nextafter(thresholds, torch.tensor(-math.inf))
    rows = torch.cat([torch.tensor([[0.0, 1.0]]), thresholds, below], dim=1)
    y, _ = quantize_rows(rows, levels)
    assert torch.equal(y[:, 2:9], values[:, 1:])
    assert torch.equal(y[:, 9:], values[:, :-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("bins", [8, 300])
def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bins: int) -> None:
    rows = (torch.rand(37, 50) * 255).to(dtype)
    thresholds, values = placed(rows, drawn(37, bins))
    whole = [look_up(rows, thresholds, values, codes) for codes in (False, True)]
    monkeypatch.setattr(level_lookup, "_STEP_CHUNK", 150)
    monkeypatch.setattr(level_lookup, "_SNAP_CHUNK", 250)
    for codes in (False, True):
        y, found = look_up(rows, thresholds, values, codes)
        assert torch.equal(y, whole[codes][0])
        assert (found is None) != codes
        assert found is None or torch.equal(found, whole[1][1] if whole[1][1] is not None else y)


def test_ranges_that_overflow_stay_exact() -> None:
    rows = torch.tensor([[-3e38, 0.0, 3e38]])
    y, _ = quantize_rows(rows, drawn(1, 3))
    assert y.isfinite().all()
    assert rows.min() <= y.min() and y.max() <= rows.max()


@pytest.mark.parametrize("bins", [3, 8, 49])
def test_even_edges_are_even(bins: int) -> None:
    """Also with 49 bins, where adding up a float step yields an edge too many."""
    thresholds, values = Levels(bins).scaled(
        torch.zeros(2, 1), torch.full((2, 1), float(bins)), False
    )
    torch.testing.assert_close(thresholds, torch.arange(1.0, bins).expand(2, -1))
    torch.testing.assert_close(values, torch.arange(bins).expand(2, -1) + 0.5)


def settings_of_rows(device: str) -> dict[str, Any]:
    edges, values = torch.rand(6, 7, device=device), torch.rand(6, 8, device=device)
    return {
        "levels": Levels(8, edges, values, torch.randint(2, 9, (6,), device=device)),
        "applied": torch.rand(6, device=device) < 0.5,
        "mask": torch.rand(6, 40, device=device) < 0.5,
        "return_codes": True,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_off_the_cpu_nothing_waits_for_data(dtype: torch.dtype) -> None:
    """A meta tensor has no data, so that whatever asks for some fails."""
    rows = torch.empty(6, 40, dtype=dtype, device="meta")
    y, codes = quantize_rows(rows, **settings_of_rows("meta"))
    assert codes is not None and y.shape == codes.shape == rows.shape


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_gpu_gives_the_same_without_waiting(dtype: torch.dtype) -> None:
    rows = (torch.rand(6, 40) * 255).to(dtype)
    here = settings_of_rows("cpu")
    levels = here["levels"]
    there = here | {
        "levels": Levels(8, levels.edges.cuda(), levels.values.cuda(), levels.counts.cuda()),
        "applied": here["applied"].cuda(),
        "mask": here["mask"].cuda(),
    }
    moved = rows.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        y, _ = quantize_rows(moved, **there)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(y.cpu(), quantize_rows(rows, **here)[0])
