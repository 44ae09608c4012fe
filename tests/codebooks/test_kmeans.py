"""K-means against scikit-learn and closed forms; the search against all distances."""

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.codebooks import EMA, RQ, VQ
from mezzotint.codebooks.kmeans import RowSample, k_nearest, kmeans, nearest, plus_plus
from mezzotint.seeding import Draws, key_of
from tests.codebooks.reference import normal


def draws(rows: int) -> Draws:
    return Draws(torch.arange(rows), key_of("kmeans"))


def clustered(rows: int, dim: int, clusters: int, spread: float = 0.1) -> Tensor:
    centers = draws(clusters).normal("centers", dim)
    member = draws(rows).integers("member", high=clusters)
    return centers[member] + spread * draws(rows).normal("x", dim)


def cost(x: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(x, centers).amin(1).square().sum()


def test_lloyd_is_that_of_scikit_learn() -> None:
    x, start = draws(600).normal("x", 5), draws(600).normal("x", 5)[:12]
    ours, counts = kmeans(x, 12, start=start, iterations=7)
    theirs = KMeans(12, init=start.numpy(), n_init=1, max_iter=7, tol=0.0).fit(x.numpy())
    torch.testing.assert_close(
        ours, torch.from_numpy(theirs.cluster_centers_).float(), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(
        counts.long(),
        torch.bincount(torch.from_numpy(theirs.predict(x.numpy())).long(), minlength=12),
    )


def test_spherical_centers_are_mean_directions() -> None:
    x = normalize(clustered(800, 6, 10, 0.4), dim=1)
    centers, counts = kmeans(x, 10, spherical=True, iterations=30)
    torch.testing.assert_close(centers.norm(dim=1), torch.ones(10))
    member = (x @ centers.t()).argmax(1)
    for code in range(
        10
    ):  # a fixed point: each center is the direction of the mean of what chose it
        torch.testing.assert_close(
            normalize(x[member == code].mean(0), dim=0), centers[code], rtol=0, atol=2e-3
        )
    assert torch.equal(torch.bincount(member, minlength=10).float(), counts)


def test_plus_plus_finds_far_clusters() -> None:
    """With one seed in every one of 40 far clusters; 40 random rows miss about 37 % of them."""
    x = clustered(4000, 8, 40, spread=0.01)
    seeds = plus_plus(x, 40, key=1)
    assert cost(x, seeds) < 1e-2 * cost(x, x[:40])
    assert (seeds.unsqueeze(1) == x).all(-1).any(1).all()  # seeds are rows


def test_plus_plus_draws_by_squared_distance() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]])
    second = torch.zeros(3)
    runs = 3000
    for key in range(runs):
        first, other = plus_plus(x, 2, key=key).flatten().tolist()
        if first == 0.0:
            second[int(other) if other < 3 else 2] += 1
    assert second[0] == 0  # at distance 0: never
    assert abs(second[1] / second.sum() - 0.1) < 0.03  # 1² against 3²


def test_identical_vectors_are_no_trouble() -> None:
    centers, counts = kmeans(torch.ones(20, 3), 4)
    assert torch.equal(centers, torch.ones(4, 3)) and counts.sum() == 20


def test_empty_clusters_keep_their_center_or_split_a_large_one() -> None:
    start = torch.tensor([[0.0, 0.0], [1.0, 0.0], [99.0, 99.0]])
    x = draws(500).normal("x", 2)
    centers, counts = kmeans(x, 3, start=start, iterations=1)
    assert torch.equal(centers[2], start[2]) and counts[2] == 0
    crowded = torch.cat(
        [start, start[2:] + torch.arange(1.0, 6.0).unsqueeze(1)]
    )  # 2 for all vectors, 6 for none
    centers, counts = kmeans(x, 8, start=crowded)
    assert (counts > 500 / 8 * 0.2).all()
    assert cost(x, centers) < 1.15 * cost(x, kmeans(x, 8)[0])


def test_row_sample_is_without_replacement_and_uniform() -> None:
    x = torch.arange(50.0).unsqueeze(1)
    hits = torch.zeros(50)
    for key in range(400):
        rows = RowSample(50, 10, key, x.device).take(x).flatten().long()
        assert len(set(rows.tolist())) == 10
        hits[rows] += 1
    assert (hits - 80).abs().max() < 5 * (400 * 0.2 * 0.8) ** 0.5
    short = RowSample(3, 5, 0, x.device)
    assert short.drawn == 3 and torch.equal(short.take(x[:3])[3:], torch.zeros(2, 1))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_usage_after_kmeans_on_clustered_data(metric: str) -> None:
    codebook = VQ(dim=32, num_codes=128, metric=metric)  # type: ignore[arg-type]
    x = clustered(4096, 32, 128)
    codebook.initialize(x)
    usage = codebook.eval()(x).usage[0]
    assert (usage > 0).float().mean() >= 0.9
    share = usage / usage.sum()
    assert torch.exp(-torch.xlogy(share, share).sum()) / 128 >= 0.5


@pytest.mark.parametrize("shared", [False, True])
def test_plain_residual_energy_falls_with_every_level(shared: bool) -> None:
    codebook = RQ(dim=32, num_codes=64, num_levels=4, shared=shared)
    x = clustered(4096, 32, 128, 0.5)
    codebook.initialize(x)
    energies = [1.0, *codebook.eval()(x).residual.tolist()]
    assert all(
        after < 0.97 * before for before, after in zip(energies, energies[1:], strict=False)
    ), energies
    for step in range(30):
        codes = codebook.train()(clustered(4096, 32, 128, 0.5 + step * 1e-3))
    energies = [1.0, *codes.residual.tolist()]
    assert all(after < before for before, after in zip(energies, energies[1:], strict=False)), (
        energies
    )
    if not shared:
        assert ((codes.usage > 0).float().mean(1) >= 0.9).all()


def test_uniform_sphere_has_the_radius_that_leaves_least() -> None:
    x = draws(500).normal("x", 6) * 7.0
    codebook = VQ(dim=6, num_codes=32, metric="euclidean", init="uniform_sphere")
    codebook.initialize(x)
    codes = codebook.books.vectors[0]
    radius = codes.norm(dim=1)
    torch.testing.assert_close(radius, radius[0].expand(32))
    chosen = codes[(x @ codes.t()).argmax(1)]
    left = [(x - scale * chosen).square().sum() for scale in (0.99, 1.0, 1.01)]
    assert left[1] < left[0] and left[1] < left[2]
    assert (
        normalize(codes, dim=1).mean(0).norm() < 0.5
    )  # all around, where BRIDLE's start lies in one orthant


@pytest.mark.parametrize("init, end", [("uniform", 1.0), (0.25, 0.25)])
def test_a_uniform_start_lies_in_one_orthant(init: str | float, end: float) -> None:
    """BRIDLE's source draws codes from U[0, 1) times a factor: mutual cosines are E[x]² / E[x²]."""
    ema = EMA(rule="norm", renormalize=False)
    codebook = RQ(dim=256, num_codes=64, num_levels=2, residual="bridle", init=init, ema=ema)  # type: ignore[arg-type]
    codebook.initialize(draws(31).normal("x", 256))  # fewer vectors than codes
    codes = codebook.books.vectors
    assert codes.min() >= 0.0 and 0.99 * end < codes.max() < end
    assert codes.mean().item() == pytest.approx(end / 2, rel=0.01)
    cosines = normalize(codes[0], dim=1) @ normalize(codes[0], dim=1).t()
    assert cosines[~torch.eye(64, dtype=torch.bool)].mean().item() == pytest.approx(0.75, abs=0.01)
    assert not torch.equal(codes[0], codes[1])
    kept = RQ(dim=256, num_codes=64, residual="bridle", init=init)  # type: ignore[arg-type]
    kept.initialize(draws(31).normal("x", 256))
    lengths = kept.books.vectors.norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_an_upper_end_that_is_not_positive_is_refused() -> None:
    for init in (0.0, -1.0, torch.inf):
        with pytest.raises(ValueError, match="`init` must be a name, or a positive number"):
            VQ(dim=6, num_codes=32, init=init)


def test_data_start_is_made_of_vectors() -> None:
    x = draws(100).normal("x", 6)
    codebook = VQ(dim=6, num_codes=32, metric="euclidean", init="data")
    codebook.initialize(x)
    rows = nearest(codebook.books.vectors[0], x)[0]
    assert torch.equal(x[rows], codebook.books.vectors[0]) and len(set(rows.tolist())) == 32


@pytest.mark.parametrize("init", ["kmeans", "data"])
def test_fewer_vectors_than_codes_are_refused(init: str) -> None:
    codebook = VQ(dim=6, num_codes=32, init=init)  # type: ignore[arg-type]
    message = (
        "at least one vector per code, got 31 vectors for 32 codes. "
        "Use a larger first batch, fewer codes, or init='uniform_sphere'."
    )
    for call in (codebook, codebook.initialize):
        with pytest.raises(ValueError, match=message):
            call(draws(31).normal("x", 6))
    assert not codebook.ready
    VQ(dim=6, num_codes=32, init="uniform_sphere")(draws(31).normal("x", 6))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_start_from_nan_is_refused(bad: float) -> None:
    x = draws(40).normal("x", 6)
    x[7, 3] = bad
    codebook = VQ(dim=6, num_codes=32)
    with pytest.raises(ValueError, match="Vectors must be finite, got NaN or inf"):
        codebook(x)
    assert not codebook.ready


def test_search_is_exact_far_from_the_origin() -> None:
    """`|x|² − 2 x · e + |e|²` in float32 has no correct digit left here."""
    x, codes = normal("far", 500, 8), normal("far book", 64, 8)
    expected = torch.cdist(x.double(), codes.double()).argmin(1)
    offset = torch.full((8,), 4096.0)
    moved_x, moved_codes = (
        x + offset,
        codes + offset,
    )  # rounded to 2⁻¹¹, so near ties may swap
    exact = torch.cdist(moved_x.double(), moved_codes.double())
    assert torch.equal(nearest(x, codes)[0], expected)
    found = nearest(moved_x, moved_codes)[0]
    torch.testing.assert_close(
        exact.gather(1, found[:, None])[:, 0], exact.amin(1), rtol=0, atol=2e-2
    )
    indices, squares = k_nearest(moved_x, moved_codes, 3)
    torch.testing.assert_close(
        squares.double(), exact.gather(1, indices).square(), rtol=1e-6, atol=1e-9
    )


def test_search_in_chunks_is_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codes = normal("x", 103, 8), normal("book", 16, 8)
    whole = nearest(x, codes), k_nearest(x, codes, 5)
    monkeypatch.setattr("mezzotint.codebooks.kmeans._BUFFER", {"cpu": 16 * 8})
    pieces = nearest(x, codes), k_nearest(x, codes, 5)
    for a, b in zip(whole, pieces, strict=True):
        assert torch.equal(a[0], b[0])
        torch.testing.assert_close(a[1], b[1])


@pytest.mark.parametrize(
    "shape", [(1, 2, 3), (700, 1000, 4), (3000, 5, 16)], ids=["one", "many codes", "many vectors"]
)
def test_it_finds_what_all_distances_find(shape: tuple[int, int, int]) -> None:
    rows, num_codes, dim = shape
    x = Draws(torch.arange(rows), 1).normal("x", dim) + 20.0
    codes = Draws(torch.arange(num_codes), 2).normal("book", dim) + 20.0
    distances = torch.cdist(x.double(), codes.double())
    assert torch.equal(nearest(x, codes)[0], distances.argmin(1))


def test_of_equal_codes_the_first_is_taken_and_the_score_is_the_cosine() -> None:
    codes = torch.eye(3)[[0, 1, 0, 2]]
    found, score = nearest(torch.eye(3) * 0.5, codes, on_sphere=True)
    assert found.tolist() == [0, 1, 3] and score.tolist() == [0.5] * 3


def test_vectors_with_nan_still_get_a_valid_code() -> None:
    x = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [1.0, 0.0]])
    found, _ = nearest(x, torch.eye(2))
    assert found.min() >= 0 and found.max() < 2 and found[2] == 0
