from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from mezzotint.data.image.arrays import Arrays
from mezzotint.data.source import Task
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.features import Extraction, extract_readable
from mezzotint.report import neighbors
from mezzotint.report.neighbors import (
    NearestNeighbors,
    class_scores,
    confusions,
    find_neighbors,
    queries_to_show,
)
from mezzotint.types import Input

Images = Callable[..., dict[str, Any]]


class Mean(Encoder):
    """Two noisy numbers an image, so that neighbors are often wrong."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, 2)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * 0.3 * x.mean(dim=(2, 3))[:, :2] + x[:, :2, 0, 0]


class Broken(Mean):
    """Features that are not finite."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0.0


@pytest.fixture
def source(tmp_path: Path, colored_images: Images) -> Arrays:
    np.savez(tmp_path / "x.npz", **colored_images(200))
    return Arrays(path=str(tmp_path / "x.npz"), holdout=0.3)


@pytest.fixture
def nearest(source: Arrays) -> NearestNeighbors:
    found = find_neighbors(Mean(source.input), source)
    assert found is not None
    return found


def unit_features(source: Arrays, indices: np.ndarray) -> np.ndarray:
    x = (
        source.images[indices].double() / 255 - torch.tensor(source.input.mean).view(-1, 1, 1)
    ) / torch.tensor(source.input.std).view(-1, 1, 1)
    z = (0.3 * x.mean(dim=(2, 3))[:, :2] + x[:, :2, 0, 0]).numpy()
    unit: np.ndarray = z / np.linalg.norm(z, axis=1, keepdims=True)
    return unit


def test_neighbors_and_votes_equal_scikit_learn(source: Arrays, nearest: NearestNeighbors) -> None:
    _, [task] = source.evaluation()
    train, test = unit_features(source, task.train), unit_features(source, task.test)
    reference = KNeighborsClassifier(
        10, metric="euclidean", algorithm="brute", weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)
    ).fit(train, task.labels[task.train])
    assert np.array_equal(nearest.test, task.test)
    # Cosines: two indices whose cosines agree to float precision may change order.
    best = np.sort(test @ train.T, axis=1)[:, ::-1][:, :10]
    assert np.allclose(nearest.similarity.numpy(), best, atol=1e-5)
    assert set(nearest.neighbors.ravel()) <= set(task.train)
    agree = nearest.predictions == reference.predict(test)
    assert agree.mean() > 0.98


def test_confusions_and_class_scores_equal_the_confusion_matrix(nearest: NearestNeighbors) -> None:
    matrix = confusion_matrix(nearest.labels, nearest.predictions)
    assert (matrix.sum() - np.trace(matrix)) > 5, "the test needs mistakes"
    scores = class_scores(nearest)
    for score in scores:
        assert (score.correct, score.count) == (
            matrix[score.label, score.label],
            matrix[score.label].sum(),
        )
    assert [s.accuracy for s in scores] == sorted(s.accuracy for s in scores)
    found = confusions(nearest)
    assert found[0].count == (matrix - np.diag(np.diag(matrix))).max()
    for pair in found:
        assert pair.count == matrix[pair.truth, pair.predicted] == len(pair.rows)
        assert pair.of == matrix[pair.truth].sum()
        assert (nearest.labels[pair.rows] == pair.truth).all() and (
            nearest.predictions[pair.rows] == pair.predicted
        ).all()


def test_a_near_neighbor_outvotes_two_that_are_further(source: Arrays) -> None:
    task = Task(
        "t", "classify", np.array([7, 7, 10**9, 10**9]), np.arange(1, 4), np.array([0]), ("a", "b")
    )
    near, far = torch.tensor([[0.9, 0.7, 0.7]]), torch.tensor([[0.9, 0.89, 0.89]])
    both = [
        NearestNeighbors(source, task, task.test, torch.zeros(1, 2), np.array([[1, 2, 3]]), cosine)
        for cosine in (near, far)
    ]
    # exp((0.9 − 0.7) / 0.07) = 17.4 votes against 2; exp((0.9 − 0.89) / 0.07) = 1.15 against 2.
    assert [int(each.predictions[0]) for each in both] == [7, 10**9]


def test_a_sample_is_not_its_own_neighbor_even_when_all_others_point_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mezzotint.evaluation.knn._BLOCK_ELEMENTS", 3)  # one query at a time
    angles = torch.tensor([0.0, 2.0, 4.0])
    star = torch.stack([angles.cos(), angles.sin()], dim=1)
    similarity, indices = neighbors._nearest(star, star, 2, own=torch.arange(3))
    assert [sorted(row) for row in indices.tolist()] == [[1, 2], [0, 2], [0, 1]]
    assert torch.allclose(
        similarity[0], torch.tensor([2.0, 4.0]).cos().sort(descending=True).values, atol=1e-6
    )


def test_without_labels_the_neighbors_are_other_samples(
    tmp_path: Path, colored_images: Images
) -> None:
    images = colored_images(50)["x"]
    np.save(tmp_path / "x.npy", images)
    source = Arrays(path=str(tmp_path / "x.npy"))
    found = find_neighbors(Mean(source.input), source)
    assert found is not None and found.task is None
    assert len(found.test) == 50
    assert not (found.neighbors == found.test[:, None]).any(), "a sample is not its own neighbor"
    unit = unit_features(source, np.arange(50))
    cosine = unit @ unit.T - 10 * np.eye(50)
    assert np.allclose(found.similarity[:, 0], cosine.max(axis=1), atol=1e-5)
    assert (found.labels == -1).all() and (found.predictions == -1).all()


def test_baselines_answer_some_queries_among_the_same_training_samples(source: Arrays) -> None:
    """The raw input, and an encoder, for three test samples alone."""
    _, [task] = source.evaluation()
    asked = task.test[[7, 0, 30]]
    raw = find_neighbors(None, source, queries=asked)
    assert raw is not None and raw.test.tolist() == asked.tolist()
    x = source.input.prepare(source.images).flatten(1).double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit[asked] @ unit[task.train].T
    best = np.sort(cosine, axis=1)[:, ::-1][:, :10]
    assert np.allclose(raw.similarity.numpy(), best, atol=1e-5)
    for row, near in enumerate(raw.neighbors):
        assert np.allclose((unit[asked[row]] @ unit[near].T), best[row], atol=1e-5)
    every, some = (find_neighbors(Mean(source.input), source, 0, q) for q in (None, asked))
    assert every is not None and some is not None
    assert np.allclose(some.similarity, every.similarity[[7, 0, 30]])


def test_unlabeled_queries_are_not_their_own_neighbors(
    tmp_path: Path, colored_images: Images
) -> None:
    np.save(tmp_path / "x.npy", colored_images(50)["x"])
    source = Arrays(path=str(tmp_path / "x.npy"))
    found = find_neighbors(None, source, queries=np.array([40, 3]))
    assert found is not None and found.test.tolist() == [40, 3]
    assert not (found.neighbors == found.test[:, None]).any()


def test_large_data_is_subsampled(source: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_MOST_TRAIN", 30)
    monkeypatch.setattr(neighbors, "_MOST_TEST", 20)
    monkeypatch.setattr(neighbors, "_MOST_MAPPED", 7)
    _, [task] = source.evaluation()
    found = find_neighbors(Mean(source.input), source)
    assert found is not None
    assert len(found.test) == 20 and set(found.test) < set(task.test)
    assert len(np.unique(found.neighbors)) <= 30
    rows = neighbors.mapped_rows(found, 0)
    assert len(rows) == 7 and rows == sorted(set(rows))


def test_features_that_are_not_finite_are_not_shown(source: Arrays) -> None:
    assert find_neighbors(Broken(source.input), source) is None


def test_queries_are_of_different_classes_and_chosen_by_the_seed_alone(
    nearest: NearestNeighbors,
) -> None:
    rows = queries_to_show(nearest, 6, 3)
    assert len(set(rows)) == 6 and {int(nearest.labels[row]) for row in rows[:3]} == {0, 1, 2}
    assert rows == queries_to_show(nearest, 6, 3) != queries_to_show(nearest, 6, 4)
    assert nearest.class_name(0) in ("red", "green", "blue") and nearest.class_name(-1) == ""


def test_known_features_are_used_and_only_their_samples(source: Arrays) -> None:
    encoder = Mean(source.input)
    everything, [task] = source.evaluation()
    every = find_neighbors(encoder, source)
    assert every is not None
    known = extract_readable(encoder, everything)
    shuffled = torch.randperm(len(known.x), generator=torch.Generator().manual_seed(0))
    known = Extraction(known.x[shuffled], known.indices[shuffled])
    # A broken encoder would be noticed: it is never asked.
    same = find_neighbors(Broken(source.input), source, known=known)
    assert same is not None and np.array_equal(same.neighbors, every.neighbors)
    assert torch.equal(same.features, every.features)
    part = known.of(torch.from_numpy(np.concatenate([task.train[::2], task.test[:5]])))
    fewer = find_neighbors(Broken(source.input), source, known=part)
    assert fewer is not None and fewer.test.tolist() == np.sort(task.test[:5]).tolist()
    assert set(fewer.neighbors.ravel()) <= set(task.train[::2])
    # A query without known features is extracted, with all training samples.
    other = find_neighbors(encoder, source, 0, task.test[4:7], known=part)
    assert other is not None and np.array_equal(other.neighbors, every.neighbors[4:7])
