"""Gradients past the choice of a code: closed forms and edge cases."""

import pytest
import torch
from torch.nn.functional import normalize

from mezzotint.codebooks.gradient import Gradient, carry_gradient, unit
from tests.codebooks.reference import normal


def test_rotation_trick_is_the_jacobian_of_the_rotation() -> None:
    """The reference rotation is the exponential of its generator, not a product of reflections."""
    x, q, gradient = normal("rot x", 20, 5), normal("rot q", 20, 5), normal("rot g", 20, 5)
    leaf = x.clone().requires_grad_()
    out = carry_gradient(leaf, q, "rotation")
    assert torch.equal(out, q)
    out.backward(gradient)
    for row in range(20):
        a, b = (normalize(v[row].double(), dim=0) for v in (x, q))
        across = normalize(b - (a @ b) * a, dim=0)
        angle = torch.arccos(a @ b)
        rotation = torch.linalg.matrix_exp(
            angle * (torch.outer(across, a) - torch.outer(a, across))
        )
        torch.testing.assert_close(rotation @ a, b)
        jacobian = rotation * (q[row].norm() / x[row].norm()).double()
        assert leaf.grad is not None
        torch.testing.assert_close(
            leaf.grad[row].double(), jacobian.t() @ gradient[row].double(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["straight_through", "rotation"])
def test_gradients_of_vectors_without_direction_are_finite(kind: Gradient) -> None:
    x = torch.stack(
        [torch.zeros(4), torch.full((4,), 1e-20), torch.ones(4), -torch.ones(4)]
    ).requires_grad_()
    q = torch.stack([torch.ones(4), torch.ones(4), -torch.ones(4), torch.zeros(4)])
    (carry_gradient(x, q, kind).sum() + unit(x).square().sum()).backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() < 10.0
