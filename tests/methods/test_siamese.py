"""Passes over views, pairs of views, and the signals of a collapse."""

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.methods.siamese import collapse_signals, each_view, one_pass, pairs
from mezzotint.seeding import Draws
from mezzotint.types import Views


class Counted(nn.Module):
    """Averages over space, and remembers the batch sizes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return x.mean(dim=(2, 3))


def crops() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, size, size, generator=generator) for size in (8, 6, 8, 6, 6)]


def test_one_pass_a_size_gives_what_one_pass_a_view_gives() -> None:
    together, apart = Counted(), Counted()
    found, expected = one_pass(together, crops()), each_view(apart, crops())
    assert (together.seen, apart.seen) == ([8, 12], [4] * 5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_have_global_targets_and_any_other_view_as_prediction() -> None:
    x = tuple(torch.zeros(1) for _ in range(3))
    tagged = Views(x, ("global", "local", "global"), Draws(torch.arange(1), 0))
    assert sorted(pairs(tagged)) == [(0, 2), (1, 0), (1, 2), (2, 0)]


def test_alignment_is_the_mean_cosine_of_views() -> None:
    generator = torch.Generator().manual_seed(0)
    zs = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    cosines = [torch.cosine_similarity(zs[i], zs[j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))]
    found = collapse_signals(zs)["alignment"]
    torch.testing.assert_close(found, torch.stack(cosines).mean())


@pytest.mark.parametrize("dim", [8, 128])
def test_feature_std_is_one_on_the_sphere_and_zero_at_a_point(dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sphere = torch.randn(4000, dim, generator=generator)
    assert float(collapse_signals([sphere, sphere])["feature_std"]) == pytest.approx(1.0, abs=0.02)
    point = torch.ones(50, dim)
    assert float(collapse_signals([point, point])["feature_std"]) < 1e-6
    half = torch.zeros(50, dim)  # two opposite points
    half[:, 0] = torch.tensor([1.0, -1.0]).repeat(25)
    assert float(collapse_signals([half, half])["feature_std"]) == pytest.approx(1 / math.sqrt(dim))
