"""Tags: any number of labels per sample, fitted as one logistic regression per class."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from mezzotint.data.source import Task
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.logistic import fit, objective
from mezzotint.evaluation.suite import measure
from mezzotint.types import Features


def data(count: int, seed: int, classes: int = 5, dim: int = 16) -> tuple[Tensor, Tensor]:
    directions = torch.randn(dim, classes, generator=torch.Generator().manual_seed(9))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=g)
    y = x @ directions + 2.0 * torch.randn(count, classes, generator=g) > torch.linspace(
        -2.0, 6.0, classes
    )
    return x, y


def test_the_optimum_is_a_logistic_regression_for_each_class() -> None:
    x, y = data(800, 1)
    found = fit(x, y, 5, 0.02, tolerance=1e-7, max_evaluations=5000)
    assert found.converged
    for c in range(5):
        theirs = LogisticRegression(C=1 / (0.02 * len(x)), tol=1e-10, max_iter=5000).fit(
            x.numpy(), y[:, c].numpy()
        )
        torch.testing.assert_close(
            found.weight[c], torch.from_numpy(theirs.coef_[0]).float(), atol=2e-3, rtol=0
        )
        assert found.bias[c].item() == pytest.approx(float(theirs.intercept_[0]), abs=2e-3)


def test_loss_and_gradient_are_autograds() -> None:
    x, y = data(3000, 2)
    parameters = torch.randn(5, 17, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight, bias = parameters[:, :-1], parameters[:, -1]
    own = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight.T + bias, y.float()) * 5
    expected = own + 0.5 * 0.3 * weight.square().sum()
    expected.backward()
    loss, gradient = objective(x, y, parameters.detach(), 0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, parameters.grad, atol=1e-6, rtol=1e-5)


def test_the_linear_probe_answers_a_tagging_task() -> None:
    x, y = data(900, 3)
    x = 5.0 + 3.0 * x
    task = Task("label/test", "tag", y.numpy(), np.arange(600), np.arange(600, 900), list("abcde"))
    rows = list(measure(Extraction(x, torch.arange(900)), [task], [Linear()], 2))
    found = {(row.metric, row.seed): row for row in rows}
    best = found["label/test/map", 0]
    heads = Linear().heads(Features(x[:600], y[:600]))
    scores = heads[0].logits(x[600:]).numpy()
    assert best.value == pytest.approx(
        average_precision_score(y[600:].numpy(), scores, average="macro"), abs=1e-6
    )
    assert found["label/test/auc", 0].value == pytest.approx(
        roc_auc_score(y[600:].numpy(), scores), abs=1e-6
    )
    assert "select=map" in str(best.protocol) and "test=300" in str(best.protocol)
    chance = y[600:].float().mean().item()
    assert best.value > chance + 0.2
