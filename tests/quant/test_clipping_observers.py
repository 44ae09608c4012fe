"""Clipping observers against closed forms and brute force."""

import pytest
import torch
from torch import Tensor

from mezzotint.quant.clipping_observers import MSE, Entropy, Histogram, Percentile
from mezzotint.quant.grid import Scheme, make_grid
from mezzotint.quant.observers import MinMax, Observer


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranges(
    observer: Observer, *parts: Tensor, scheme: Scheme = "affine", bits: int = 4
) -> tuple[Tensor, Tensor]:
    for rows in parts:
        observer.update(rows)
    low, high = observer.range(scheme, bits)
    return low, high


@pytest.mark.parametrize("alpha", [1e-3, 0.02])
def test_percentile_leaves_out_the_largest_magnitudes(alpha: float) -> None:
    rows = normal(3, 50_000) * torch.tensor([[1.0], [10.0], [0.1]])
    low, high = ranges(Percentile(alpha=alpha), rows)
    exact = rows.abs().quantile(1 - alpha, dim=1, keepdim=True)
    width = rows.abs().amax(1, keepdim=True) / 500
    assert ((high - exact).abs() <= width).all() and torch.equal(low, -high)
    outside = (rows.abs() > high).double().mean(1)
    assert (outside <= alpha).all() and (outside > 0.5 * alpha).all()


def test_percentile_of_both_tails() -> None:
    rows = torch.cat([normal(1, 50_000).abs() * 10, -normal(1, 50_000, seed=1).abs()], 1)
    low, high = ranges(Percentile(alpha=0.02, tails="both"), rows)
    assert high.item() == pytest.approx(rows.quantile(0.99).item(), rel=0.02)
    assert low.item() == pytest.approx(rows.quantile(0.01).item(), rel=0.02)


@pytest.mark.parametrize("norm", [2.0, 2.4])
@pytest.mark.parametrize("scheme", ["ssql_symmetric", "symmetric", "affine", "ssql_asymmetric"])
@pytest.mark.parametrize("bits", [2, 4])
def test_mse_is_as_good_as_brute_force(norm: float, scheme: Scheme, bits: int) -> None:
    rows = torch.cat([normal(1, 5_000), torch.tensor([[30.0]])], 1)
    if scheme not in ("ssql_symmetric", "symmetric"):
        rows = torch.nn.functional.silu(rows)

    def error(low: Tensor, high: Tensor) -> float:
        return float(
            (make_grid(scheme, low, high, bits).quantize(rows) - rows).abs().pow(norm).sum()
        )

    low, high = MinMax.of(rows)
    shrunk = [
        (low * a, high * b) for a in torch.linspace(0.3, 1, 8) for b in torch.linspace(0.01, 1, 150)
    ]
    best = min(error(*pair) for pair in shrunk)
    found = error(*ranges(MSE(norm=norm), rows, scheme=scheme, bits=bits))
    assert found <= best * 1.02 and found < error(low, high)


def test_entropy_uses_the_whole_grid_for_signed_values() -> None:
    """The source counts |x|, so the lower half of its histogram is empty."""
    rows = normal(1, 200_000)
    for bits in (4, 6):
        low, high = ranges(Entropy(), rows, scheme="symmetric", bits=bits)
        assert torch.equal(low, -high)
        codes = make_grid("symmetric", low, high, bits).codes(rows).unique()
        assert len(codes) == 2**bits - 1
    wide = [ranges(Entropy(), rows, scheme="symmetric", bits=bits)[1].item() for bits in (2, 4, 8)]
    assert wide[0] < wide[1] < wide[2] <= rows.abs().max().item()


def test_entropy_clips_an_outlier_and_no_more_than_that() -> None:
    rows = torch.cat(
        [
            torch.rand(1, 100_000, generator=torch.Generator().manual_seed(0)),
            torch.tensor([[16.0]]),
        ],
        1,
    )
    _, high = ranges(Entropy(), rows, scheme="affine", bits=4)
    assert 0.95 <= high.item() <= 1.3


def test_histogram_is_that_of_numpy_and_does_not_depend_on_the_order() -> None:
    rows = normal(2, 10_000) * torch.tensor([[3.0], [400.0]])
    rows[:, :2000] = 0.0
    one, other = Histogram(), Histogram()
    one.update(rows)
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(1))
    for part in rows[:, order].split(700, 1):
        other.update(part * 1)
    assert torch.equal(one.counts, other.counts) and torch.equal(one.zeros, other.zeros)
    assert one.zeros.flatten().tolist() == [2000, 2000] and one.counts.sum(1).tolist() == [
        8000,
        8000,
    ]
    values, counts = one.points()
    for row in range(2):
        edges = torch.cat(
            [values[row, :-1] - one.width[row] / 2, values[row, -2:-1] + one.width[row] / 2]
        )
        nonzero = rows[row][rows[row] != 0.0]
        assert torch.equal(torch.histogram(nonzero, edges).hist.long(), counts[row, :-1])
    merged, fewer = one.points(512)
    assert merged.shape == (2, 513) and torch.equal(fewer.sum(1), counts.sum(1))
    assert (rows.abs().amax(1, keepdim=True) / one.width >= one.bins / 4).all()


@pytest.mark.parametrize("rows", [1, 100, 2048])
def test_histogram_is_bounded(rows: int) -> None:
    histogram = Histogram()
    for scale in (1e-20, 1.0, 1e20):
        histogram.update(normal(rows, 8) * scale)
    assert histogram.counts.numel() * 8 <= max(rows * 16_384, 2**22)
    assert histogram.counts.sum() == rows * 8 * 3


def test_neighbors_merge_when_fewer_points_are_asked_for() -> None:
    histogram = Histogram()
    histogram.update(torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)))
    values, counts = histogram.points()
    merged, fewer = histogram.points(64)
    assert merged.shape == fewer.shape == (2, 65)
    width = values.shape[1] // 64
    assert torch.equal(fewer[:, :-1], counts[:, :-1].reshape(2, 64, width).sum(2))
    torch.testing.assert_close(merged[:, :-1], values[:, :-1].reshape(2, 64, width).mean(2))


def test_zeros_have_a_point_of_their_own_and_reset_forgets_all() -> None:
    histogram = Histogram()
    histogram.update(torch.tensor([[0.0, 0.0, 1.5, float("nan")]]))
    values, counts = histogram.points()
    assert values[0, -1] == 0.0 and counts[0, -1] == 3, "NaN counts as a zero"
    assert counts[0, :-1].sum() == 1
    histogram.reset()
    assert histogram.points()[1].sum() == 0
