"""The solver against scikit-learn, against autograd, and against its own bound."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from mezzotint.evaluation.logistic import Curvature, fit, objective


def problem(
    count: int = 600, dim: int = 24, classes: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Correlated, rectified, unbalanced: what encoders give."""
    g = torch.Generator().manual_seed(seed)
    y = (torch.rand(count, generator=g).square() * classes).long()
    hidden = torch.randn(classes, 12, generator=g)[y] + 1.5 * torch.randn(count, 12, generator=g)
    x = torch.relu(hidden @ torch.randn(12, dim, generator=g)) + 0.1 * torch.randn(
        count, dim, generator=g
    )
    x = x - x.mean(dim=0)
    return x / x.square().mean().sqrt(), y


@pytest.mark.parametrize("penalty", [1.0, 1e-1, 1e-2, 1e-3, 1e-4])
def test_the_optimum_is_scikit_learns(penalty: float) -> None:
    x, y = problem()
    found = fit(x, y, 5, penalty, tolerance=1e-6, max_evaluations=5000)
    theirs = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=10_000).fit(
        x.double().numpy(), y.numpy()
    )
    weight, bias = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    expected, _ = objective(x.double(), y, torch.cat((weight, bias.unsqueeze(1)), dim=1), penalty)
    assert found.converged
    assert abs(found.loss - expected) < 1e-5
    ours = found.logits(x).argmax(dim=1)
    assert (ours == torch.from_numpy(theirs.predict(x.double().numpy()))).float().mean() > 0.995


def test_two_classes_are_the_difference_of_two_rows() -> None:
    x, y = problem(classes=2)
    found = fit(x, y, 2, 0.02, tolerance=1e-8)
    # With W₀ = −W₁ the penalty λ/2 (‖W₀‖² + ‖W₁‖²) is λ/4 ‖W₁ − W₀‖²: half as strong on the
    # difference.
    theirs = LogisticRegression(C=1 / (0.01 * len(x)), tol=1e-10, max_iter=10_000).fit(
        x.double().numpy(), y.numpy()
    )
    difference = found.weight[1] - found.weight[0]
    torch.testing.assert_close(
        difference, torch.from_numpy(theirs.coef_[0]).float(), atol=2e-3, rtol=0
    )


def test_loss_and_gradient_are_autograds() -> None:
    x, y = problem(count=5000)  # more than one block
    parameters = torch.randn(5, 25, generator=torch.Generator().manual_seed(1)).requires_grad_()
    weight, bias = parameters[:, :-1], parameters[:, -1]
    expected = (
        torch.nn.functional.cross_entropy(x @ weight.T + bias, y)
        + 0.5 * 0.3 * weight.square().sum()
    )
    expected.backward()
    loss, gradient = objective(x, y, parameters.detach(), 0.3)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, parameters.grad, atol=1e-6, rtol=1e-5)


def test_the_gap_bounds_the_distance_to_the_minimum() -> None:
    x, y = problem()
    best = fit(x.double(), y, 5, 1e-3, tolerance=1e-12, max_evaluations=5000).loss
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        found = fit(x, y, 5, 1e-3, tolerance=tolerance)
        assert found.converged and 0 <= found.loss - best + 1e-7 <= found.gap <= tolerance


def test_the_start_does_not_change_the_answer() -> None:
    x, y = problem()
    cold = fit(x, y, 5, 1e-2, tolerance=1e-7)
    near = fit(x, y, 5, 3e-2)
    warm = fit(x, y, 5, 1e-2, tolerance=1e-7, start=near)
    torch.testing.assert_close(warm.weight, cold.weight, atol=2e-3, rtol=0)
    assert warm.evaluations < cold.evaluations


def test_the_preconditioner_pays() -> None:
    x, y = problem(dim=200)
    ours = fit(x, y, 5, 1e-2, tolerance=1e-4)
    plain = Curvature(x, 5)
    plain.hessian = torch.eye(200) / 5  # the scaled identity, L-BFGS as it is elsewhere
    assert 1.5 * ours.evaluations < fit(x, y, 5, 1e-2, curvature=plain, tolerance=1e-4).evaluations


def test_a_fit_that_is_cut_short_says_so() -> None:
    x, y = problem()
    found = fit(x, y, 5, 1e-5, tolerance=1e-9, max_evaluations=7)
    assert not found.converged and found.gap > 1e-9 and found.evaluations == 7


def test_features_without_information_give_the_class_shares() -> None:
    y = torch.tensor([0, 0, 0, 1, 2, 2])
    found = fit(torch.zeros(6, 3), y, 3, 0.1, tolerance=1e-10)
    torch.testing.assert_close(
        found.logits(torch.zeros(1, 3)).softmax(dim=1)[0], torch.tensor([3, 1, 2]) / 6
    )


def test_no_penalty_is_refused() -> None:
    with pytest.raises(ValueError, match="`penalty` must be positive"):
        fit(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), 2, 0.0)
