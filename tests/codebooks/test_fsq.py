"""FSQ: golden codes and the paper's grid."""

import pytest
import torch

from mezzotint.codebooks import FSQ
from tests.codebooks.reference import X, normal


def test_golden_codes_of_fsq() -> None:
    """vector-quantize-pytorch 1.32.0, `FSQ(levels=[8, 5, 5, 5])`."""
    expected = (
        "824 192 807 803 207 640 79 384 831 23 632 128 680 599 384 823 392 7 842 0 167 361 "
        "995 601 168 37 800 39 992 543 922 163 199 167 911 984 47 967 961 63 161 806 27 192 "
        "837 657 960 175 7 191 344 872 237 33 159 200 401 432 767 7 992 880 399 159"
    )
    codes = FSQ(levels=(8, 5, 5, 5))(3.0 * X[:, :4])
    assert codes.indices[:, 0].tolist() == [int(code) for code in expected.split()]


@pytest.mark.parametrize("levels", [(3,), (4, 5), (8, 5, 5, 5)])
def test_codes_count_the_grid_with_the_first_channel_fastest(levels: tuple[int, ...]) -> None:
    codebook = FSQ(levels=levels)
    grid = codebook.decode(torch.arange(codebook.num_codes).unsqueeze(1))
    assert len({tuple(point) for point in grid.tolist()}) == codebook.num_codes
    for channel, size in enumerate(levels):
        values = torch.tensor(sorted(set(grid[:, channel].tolist())))
        expected = torch.arange(size, dtype=torch.float32) - size // 2
        torch.testing.assert_close(values, expected / (size // 2))
    assert grid[1, 0] != grid[0, 0] and torch.equal(grid[1, 1:], grid[0, 1:])


def test_rounding_is_to_the_nearest_point_of_the_bounded_vector() -> None:
    codebook = FSQ(levels=(5, 5))  # odd sizes: the bound is 2 · 1.001 · tanh(x)
    z = torch.linspace(-3.0, 3.0, 61).unsqueeze(1).expand(-1, 2)
    bounded = z.tanh() * 2.0 * 1.001
    torch.testing.assert_close(codebook(z).quantized, bounded.round() / 2.0)
    indices, distances = codebook.nearest(z, 3)
    assert torch.equal(indices[..., 0], codebook(z).indices)
    torch.testing.assert_close(distances[:, 0, 0], (bounded - bounded.round()).square().sum(1))


def test_fsq_learns_nothing_and_uses_every_code() -> None:
    codebook = FSQ(levels=(3, 4))
    codes = codebook(3.0 * normal("wide", 2000, 2))
    assert float(codes.loss) == 0.0 and (codes.usage > 0).all() and not codebook.state_dict()
