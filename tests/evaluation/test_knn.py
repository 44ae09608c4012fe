"""kNN against scikit-learn and by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

import mezzotint.evaluation.knn as neighbors
from mezzotint.evaluation.features import Whitening
from mezzotint.evaluation.knn import KNN, KNNGrid, Metric
from mezzotint.types import Features


def blobs(count: int, classes: int, seed: int) -> Features:
    centers = torch.randn(classes, 16, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    return Features(centers[y] + 1.3 * torch.randn(count, 16, generator=g) + 0.7, y)


def figures(probe: KNN, train: Features, test: Features) -> dict[str, float]:
    return {row.metric: row.value for row in probe.run(train, test)}


@pytest.mark.parametrize("k", [1, 7, 25])
@pytest.mark.parametrize("center", [False, True])
def test_cosine_is_scikit_learns_with_the_same_weights(k: int, center: bool) -> None:
    train, test = blobs(500, 12, 1), blobs(200, 12, 2)
    assert train.y is not None and test.y is not None
    mean = train.x.mean(dim=0) if center else torch.zeros(16)

    def votes(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / 0.1)

    theirs = KNeighborsClassifier(k, weights=votes, metric="cosine", algorithm="brute")
    theirs.fit((train.x - mean).numpy(), train.y.numpy())
    shares = torch.from_numpy(theirs.predict_proba((test.x - mean).numpy()))
    right = shares.argmax(dim=1) == test.y
    five = shares.topk(5, dim=1)
    among = ((five.indices == test.y.unsqueeze(1)) & (five.values > 0)).any(dim=1)
    found = figures(KNN(k=k, temperature=0.1, center=center), train, test)
    assert found["top1"] == pytest.approx(right.double().mean().item(), abs=1e-9)
    assert found["top5"] == pytest.approx(among.double().mean().item(), abs=1e-9)
    each = [right[test.y == c].double().mean().item() for c in test.y.unique()]
    assert found["mean_per_class"] == pytest.approx(sum(each) / len(each), abs=1e-9)


def test_euclidean_finds_scikit_learns_neighbors() -> None:
    train, test = blobs(500, 12, 1), blobs(200, 12, 2)
    assert train.y is not None and test.y is not None
    theirs = KNeighborsClassifier(1).fit(train.x.numpy(), train.y.numpy())
    expected = theirs.score(test.x.numpy(), test.y.numpy())
    assert figures(KNN(k=1, metric="euclidean"), train, test)["top1"] == pytest.approx(expected)


def test_on_unit_features_both_metrics_vote_alike() -> None:
    train, test = (
        Features(torch.nn.functional.normalize(f.x, dim=1), f.y)
        for f in (blobs(300, 5, 1), blobs(80, 5, 2))
    )
    assert figures(KNN(metric="euclidean"), train, test) == figures(KNN(), train, test)


def test_the_weights_decide() -> None:
    train = Features(
        torch.tensor([[1.0, 0.0], [0.9, math.sqrt(0.19)], [0.9, -math.sqrt(0.19)]]),
        torch.tensor([0, 1, 1]),
    )
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    # exp(1/T) against 2 exp(0.9/T): they are equal at T = 0.1 / log 2.
    assert figures(KNN(k=3, temperature=0.1 / math.log(2) * 0.99), train, test)["top1"] == 1.0
    assert figures(KNN(k=3, temperature=0.1 / math.log(2) * 1.01), train, test)["top1"] == 0.0


@pytest.mark.parametrize("elements", [1, 1000, 1 << 24])
def test_neither_blocks_nor_ties_change_the_figure(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK_ELEMENTS", elements)
    same = torch.ones(40, 4)
    labels = torch.cat((torch.full((10,), 3), torch.full((30,), 1)))
    found = figures(
        KNN(k=10), Features(same, labels), Features(torch.ones(5, 4), torch.tensor([3, 3, 3, 3, 1]))
    )
    assert found["top1"] == 0.8  # of equal samples the first ten vote, all of label 3


def test_equal_votes_go_to_the_smaller_label() -> None:
    train = Features(torch.tensor([[1.0, 0.5], [1.0, -0.5]]), torch.tensor([7, 4]))
    test = Features(torch.tensor([[1.0, 0.0]]), torch.tensor([4]))
    assert figures(KNN(k=2), train, test)["top1"] == 1.0


def test_top5_counts_no_class_without_a_vote() -> None:
    train = Features(torch.eye(12), torch.arange(12))
    test = Features(torch.eye(12), torch.arange(12).roll(1))
    assert figures(KNN(k=1), train, test) == {"top1": 0.0, "top5": 0.0, "mean_per_class": 0.0}


def test_unseen_labels_are_wrong_and_gaps_in_labels_are_nothing() -> None:
    train = Features(torch.eye(2), torch.tensor([5, 1000]))
    test = Features(torch.eye(2), torch.tensor([5, 6]))
    assert figures(KNN(k=1), train, test)["top1"] == 0.5


def test_more_neighbors_than_samples() -> None:
    train, test = blobs(6, 2, 1), blobs(5, 2, 2)
    assert figures(KNN(k=200), train, test) == figures(KNN(k=6), train, test)


def test_the_protocol_names_every_setting() -> None:
    probe = KNN(k=20, temperature=0.1, metric="euclidean", center=True)
    assert str(probe.protocol) == "knn/1 k=20 metric=euclidean temperature=0.1 center=True"
    assert probe.config == {
        "kind": "knn",
        "k": 20,
        "temperature": 0.1,
        "metric": "euclidean",
        "center": True,
    }
    white = KNN(whiten=0.5)
    assert (
        str(white.protocol) == "knn/1 k=10 metric=cosine temperature=0.07 center=False whiten=0.5"
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_whitened_neighbors_are_those_of_features_whitened_by_the_training_samples(
    metric: Metric,
) -> None:
    train, test = blobs(300, 12, 1), blobs(100, 12, 2)
    loud = torch.ones(16)
    loud[:3] = 30.0  # three directions of noise hide the classes from a cosine
    train, test = (Features(f.x * loud, f.y) for f in (train, test))
    whitening = Whitening.fit(train.x, 0.1)
    white = [Features(whitening(f.x), f.y) for f in (train, test)]
    found = figures(KNN(whiten=0.1, metric=metric), train, test)
    assert found == figures(KNN(metric=metric), *white)
    assert found["top1"] > figures(KNN(metric=metric), train, test)["top1"] + 0.1
    grid = KNNGrid(k=[10], temperature=[0.07], metric=[metric], whiten=0.1)
    assert {row.metric: row.value for row in grid.run(train, test)} == found


@pytest.mark.parametrize(
    "bad",
    [{"k": 0}, {"temperature": 0.0}, {"metric": "dot"}, {"whiten": 0.0}, {"whiten": math.nan}],
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be .* got "):
        KNN(**bad)  # type: ignore[arg-type]


def test_features_without_labels() -> None:
    x: Tensor = torch.eye(2)
    with pytest.raises(ValueError, match="no labels"):
        list(KNN().run(Features(x), Features(x, torch.arange(2))))
