"""The histogram against numpy, in any order and of bounded size."""

import pytest
import torch
from torch import Tensor

from mezzotint.quant.histogram import Histogram


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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
