"""Metrics of classifiers against scikit-learn."""

import copy
import pickle

import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from mezzotint.evaluation.metrics import Accuracy, classification, learnable, ranking
from mezzotint.types import Features


@pytest.mark.parametrize("levels", [2, 5, 100_000])
def test_ranking_is_scikit_learns_with_and_without_ties(levels: int) -> None:
    g = torch.Generator().manual_seed(levels)
    for count in (2, 3, 40, 500):
        scores = torch.randint(levels, (count,), generator=g).float()
        hits = torch.rand(count, generator=g) < 0.3
        hits[0], hits[1] = True, False
        precision, area = ranking(scores, hits)
        assert precision == pytest.approx(
            average_precision_score(hits.numpy(), scores.numpy()), abs=1e-9
        )
        assert area == pytest.approx(roc_auc_score(hits.numpy(), scores.numpy()), abs=1e-9)


def test_map_is_over_the_classes_that_occur() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
    labels = torch.tensor([[True, True, False], [False, True, False], [True, False, False]])
    found = dict(classification(scores, torch.arange(3), labels))
    assert found == {
        "map": pytest.approx(((1 + 2 / 3) / 2 + (1 / 2 + 2 / 3) / 2) / 2),
        "auc": pytest.approx(0.25),
    }


def test_accuracy_is_scikit_learns_and_keeps_its_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(80, 12, generator=generator)
    names = torch.arange(12) * 3
    labels = names[torch.randint(12, (80,), generator=generator)]
    found = dict(classification(scores, names, labels))
    predicted = names[scores.argmax(dim=1)]
    assert found["top1"] == pytest.approx(accuracy_score(labels, predicted))
    assert found["mean_per_class"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    columns = labels // 3
    expected = top_k_accuracy_score(columns, scores, k=5, labels=range(12))
    assert found["top5"] == pytest.approx(expected)
    accuracy = found["top1"]
    assert isinstance(accuracy, Accuracy)
    again = pickle.loads(pickle.dumps(accuracy))
    assert again == accuracy and torch.equal(again.correct, predicted == labels)
    assert copy.deepcopy(accuracy) == accuracy


def test_a_label_that_was_not_learned_is_an_error() -> None:
    scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = dict(classification(scores, torch.tensor([0, 1]), torch.tensor([0, 7])))
    assert found == {"top1": 0.5, "mean_per_class": 0.5}


def test_features_that_cannot_be_learned_from_are_refused() -> None:
    x, y = torch.randn(4, 2), torch.tensor([3, 3, 5, 5])
    _, names, members = learnable(Features(x, y))
    assert names.tolist() == [3, 5] and members.tolist() == [0, 0, 1, 1]
    tags = torch.tensor([[True, False]] * 4)
    assert learnable(Features(x, tags))[1].tolist() == [0, 1]
    for features, message in (
        (Features(x), "The training features have no labels"),
        (Features(x, y[:3]), "got 4 training features and 3 labels"),
        (Features(x[:0], y[:0]), "got 0 training features"),
        (Features(x, torch.zeros(4, dtype=torch.int64)), "two classes or more"),
        (Features(x.log(), y), "Training features contain NaN or inf"),
    ):
        with pytest.raises(ValueError, match=message):
            learnable(features)
