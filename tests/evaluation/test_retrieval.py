"""Retrieval against a loop, scikit-learn's average precision, and by hand."""

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

import mezzotint.evaluation.knn as neighbors
from mezzotint.evaluation.features import Whitening
from mezzotint.evaluation.retrieval import Retrieval, ranked
from mezzotint.types import Features


def figures(probe: Retrieval, gallery: Features, queries: Features) -> dict[str, float]:
    return {row.metric: row.value for row in probe.run(gallery, queries)}


def pair(shift: float = 0.0) -> tuple[Features, Features]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=g) + 1.0
    noisy = x + 0.8 * torch.randn(60, 8, generator=g) + shift
    shuffled = torch.randperm(60, generator=g)
    return Features(x, torch.arange(60)), Features(noisy[shuffled], shuffled)


@pytest.mark.parametrize("elements", [1, 1 << 24])
def test_a_loop_over_queries(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_ELEMENTS", elements)
    gallery, queries = pair()
    assert gallery.y is not None and queries.y is not None
    ranks = []
    for x, y in zip(queries.x, queries.y.tolist(), strict=True):
        near = normalize(gallery.x, dim=1) @ normalize(x, dim=0)
        ranks.append(1 + int((near > near[y]).sum()))
    found = figures(Retrieval(), gallery, queries)
    assert found["top1"] == pytest.approx(sum(r == 1 for r in ranks) / 60)
    assert found["top5"] == pytest.approx(sum(r <= 5 for r in ranks) / 60)
    assert found["map"] == pytest.approx(sum(1 / r for r in ranks) / 60)
    assert found["median_rank"] == torch.tensor(ranks).double().quantile(0.5).item()
    assert 0.2 < found["top1"] < 0.9  # the case is neither trivial nor hopeless


def test_average_precision_with_several_relevant_samples_is_scikit_learns() -> None:
    g = torch.Generator().manual_seed(3)
    near = torch.randn(20, 50, generator=g)
    relevant = torch.rand(20, 50, generator=g) < 0.2
    _, precision = ranked(near, relevant)
    for row in range(20):
        expected = average_precision_score(relevant[row].numpy(), near[row].numpy())
        assert precision[row].item() == pytest.approx(expected)


def test_a_collapsed_encoder_finds_nothing() -> None:
    same = Features(torch.ones(30, 4), torch.arange(30))
    found = figures(Retrieval(), same, same)
    assert found["top1"] == 0.0 and found["median_rank"] == 30.0


def test_centering_each_side_takes_out_a_constant_difference() -> None:
    gallery, queries = pair(shift=5.0)
    plain, unshifted = (
        figures(Retrieval(), gallery, queries),
        figures(Retrieval(center="each"), *pair()),
    )
    centered = figures(Retrieval(center="each"), gallery, queries)
    assert (
        centered["top1"] == pytest.approx(unshifted["top1"])
        and centered["top1"] > 2 * plain["top1"]
    )


def test_centering_on_the_gallery_moves_both_sides() -> None:
    gallery, queries = pair()
    mean = gallery.x.mean(dim=0)
    moved = figures(
        Retrieval(), Features(gallery.x - mean, gallery.y), Features(queries.x - mean, queries.y)
    )
    assert figures(Retrieval(center="gallery"), gallery, queries) == moved


def test_whitening_by_the_gallery() -> None:
    gallery, queries = pair()
    whitening = Whitening.fit(gallery.x, 0.3)
    white = [Features(whitening(f.x), f.y) for f in (gallery, queries)]
    assert figures(Retrieval(whiten=0.3), gallery, queries) == figures(Retrieval(), *white)
    assert str(Retrieval(whiten=0.3).protocol).endswith("ties=last whiten=0.3")


def test_queries_without_a_counterpart_are_left_out() -> None:
    gallery = Features(torch.eye(3), torch.tensor([0, 1, 2]))
    queries = Features(torch.eye(3), torch.tensor([0, 1, 9]))
    assert figures(Retrieval(), gallery, queries)["top1"] == 1.0
    with pytest.raises(ValueError, match="None of the 3 queries"):
        figures(Retrieval(), gallery, Features(torch.eye(3), torch.tensor([7, 8, 9])))


def test_settings() -> None:
    assert (
        str(Retrieval(center="each").protocol) == "retrieval/1 metric=cosine center=each ties=last"
    )
    for bad in ({"metric": "dot"}, {"center": "queries"}, {"whiten": -1.0}):
        with pytest.raises(ValueError, match="must be .* got "):
            Retrieval(**bad)
