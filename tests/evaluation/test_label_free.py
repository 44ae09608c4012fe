"""The label-free measures against naive loops and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.evaluation.label_free import (
    Rank,
    alignment,
    alpha_req,
    rankme,
    spread,
    uniformity,
    verdict,
)
from mezzotint.types import Features


def normal(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def with_singular_values(values: Tensor, count: int) -> Tensor:
    """Centered features with exactly these singular values."""
    left = normal(count, len(values)).double()
    left = torch.linalg.qr(left - left.mean(dim=0)).Q
    right = torch.linalg.qr(normal(len(values), len(values), 1).double()).Q
    features: Tensor = left * values @ right
    return features


@pytest.mark.parametrize("shape", [(200, 30), (30, 200)])
def test_rankme_is_the_papers_formula(shape: tuple[int, int]) -> None:
    x = normal(*shape) + 2.0
    sigma = torch.linalg.svdvals(x.double())
    p = (sigma / sigma.sum() + 1e-7).tolist()
    assert rankme(x) == pytest.approx(math.exp(-sum(v * math.log(v) for v in p)), rel=1e-6)


def test_rankme_of_equal_singular_values_is_their_number() -> None:
    assert rankme(with_singular_values(torch.full((12,), 3.0).double(), 100)) == pytest.approx(
        12, rel=1e-4
    )
    embedded = torch.cat(
        (with_singular_values(torch.ones(5).double(), 100), torch.zeros(100, 40)), dim=1
    )
    assert rankme(embedded) == pytest.approx(
        5, rel=2e-3
    )  # the paper's 1e-7 adds a little a dimension
    assert rankme(torch.zeros(10, 4)) == 1.0
    assert rankme(torch.ones(10, 4)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.3])
def test_alpha_of_a_power_law_is_its_exponent(alpha: float) -> None:
    ranks = torch.arange(1, 81, dtype=torch.float64)
    assert alpha_req(with_singular_values(ranks.pow(-alpha / 2), 300)) == pytest.approx(
        alpha, abs=1e-6
    )


def test_alpha_is_a_weighted_least_squares_fit_over_the_stated_ranks() -> None:
    x = normal(500, 60).double() * torch.linspace(3, 0.1, 60)
    values = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)[9:30]
    ranks = torch.arange(10, 31, dtype=torch.float64)
    design = torch.stack((-ranks.log(), torch.ones(21, dtype=torch.float64)), dim=1)
    root = ranks.rsqrt().unsqueeze(1)  # weights 1/i
    expected = (
        torch.linalg.lstsq(design * root, values.log().unsqueeze(1) * root).solution[0].item()
    )
    assert alpha_req(x, first=10, last=30) == pytest.approx(expected, rel=1e-8)


def test_alpha_needs_three_eigenvalues() -> None:
    assert math.isnan(alpha_req(normal(100, 6)))
    assert not math.isnan(alpha_req(normal(100, 7)))
    assert math.isnan(alpha_req(normal(100, 3) @ normal(3, 60)))


def test_alignment_is_a_mean_over_pairs() -> None:
    a, b = normal(50, 8), normal(50, 8, 1)
    ones = [
        (normalize(p, dim=0) - normalize(q, dim=0)).norm().item() for p, q in zip(a, b, strict=True)
    ]
    assert alignment(a, b) == pytest.approx(sum(v**2 for v in ones) / 50, rel=1e-5)
    assert alignment(a, b, alpha=1) == pytest.approx(sum(ones) / 50, rel=1e-5)
    assert alignment(a, 3 * a) == pytest.approx(0, abs=1e-12)
    assert alignment(a, -a) == pytest.approx(4)
    with pytest.raises(ValueError, match="features of one shape, got"):
        alignment(a, b[1:])


def test_uniformity_is_a_mean_over_all_pairs() -> None:
    x = normal(1500, 5)  # more than one block
    distances = torch.nn.functional.pdist(normalize(x.double(), dim=1))
    assert uniformity(x) == pytest.approx(
        distances.square().mul(-2).exp().mean().log().item(), rel=1e-9
    )
    assert uniformity(x, t=0.5) == pytest.approx(
        distances.square().mul(-0.5).exp().mean().log().item(), rel=1e-9
    )
    assert uniformity(torch.ones(20, 3)) == pytest.approx(0, abs=1e-12)
    # Two opposite points: of 6 pairs of 4 samples, 2 coincide and 4 are at distance 2.
    opposite = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(opposite) == pytest.approx(math.log((2 + 4 * math.exp(-8)) / 6))
    with pytest.raises(ValueError, match="two samples or more, got 1"):
        uniformity(x[:1])


def test_uniformity_of_a_uniform_circle_is_a_bessel_function() -> None:
    angle = torch.arange(4000) * (2 * math.pi / 4000)
    circle = torch.stack((angle.cos(), angle.sin()), dim=1)
    expected = -4 + torch.special.i0(torch.tensor(4.0, dtype=torch.float64)).log().item()
    assert uniformity(circle) == pytest.approx(expected, abs=5e-3)


def test_spread() -> None:
    x = normal(400, 64)
    stds = normalize(x, dim=1).std(dim=0, correction=0)
    assert spread(x) == pytest.approx(stds.mean().item() * 8, rel=1e-5)
    assert spread(x) == pytest.approx(1.0, abs=0.02)
    assert spread(torch.ones(10, 4) * torch.arange(1, 11).unsqueeze(1)) == pytest.approx(
        0, abs=1e-7
    )


@pytest.mark.parametrize(
    ("features", "word"),
    [
        (torch.ones(300, 64) + 1e-3 * normal(300, 64), "complete collapse"),
        (torch.zeros(300, 64), "complete collapse"),
        (normal(300, 2) @ normal(2, 64, 1), "dimensional collapse"),
        (normal(300, 64), "healthy"),
        (torch.relu(normal(300, 64) @ normal(64, 64, 1)), "healthy"),
    ],
)
def test_the_verdict(features: Tensor, word: str) -> None:
    everything = Features(features)
    value = {row.metric: row.value for row in Rank().run(everything, everything)}
    assert verdict(value["spread"], value["rank_ratio"]).startswith(word)
    assert value["rank_ratio"] == value["rankme"] / 64


def test_settings() -> None:
    assert (
        str(Rank(first_eigenvalue=3, last_eigenvalue=9, samples=99).protocol)
        == "rank/1 epsilon=1e-07 fit=3-9 t=2 samples=99"
    )
    x = normal(60, 20)
    rows = {
        row.metric: row.value
        for row in Rank(first_eigenvalue=2, last_eigenvalue=8, samples=30).run(
            Features(x), Features(x)
        )
    }
    some = x[torch.linspace(0, 59, 30).long()]
    assert rows["alpha"] == alpha_req(some, first=2, last=8) and rows["rankme"] == rankme(some)
    for bad in ({"first_eigenvalue": 0}, {"last_eigenvalue": 6}, {"samples": 1}):
        with pytest.raises(ValueError, match="must be .* got "):
            Rank(**bad)


def test_nan_features_are_a_collapse() -> None:
    assert verdict(float("nan"), float("nan")).startswith("complete collapse")


def test_the_measures_fall_as_dimensions_do() -> None:
    shares = [rankme(normal(300, rank) @ normal(rank, 64, 1)) for rank in (64, 32, 8, 2)]
    assert all(more > less for more, less in pairwise(shares))
