"""BRIDLE's tokenizer phase: distillation of a frozen teacher, and the distance."""

import pytest
import torch

from mezzotint.methods.bridle_tokenizer import distance
from tests.methods.tiny_bridle import patterned, tokenizer_phase, train, views


def test_tokenizer_learns_the_features_of_a_teacher_that_stays_to_the_bit() -> None:
    method = tokenizer_phase()
    before = {key: value.clone() for key, value in method.encoder.state_dict().items()}
    with torch.no_grad():
        first = float(method(views(patterned())).logs["cosine"])
    logs = train(method, 60)
    assert logs["cosine"] > first + 0.3 and logs["cosine"] > 0.5
    assert logs["codes/usage_1"] > 0.6
    assert all(
        torch.equal(value, before[key]) for key, value in method.encoder.state_dict().items()
    )
    assert not method.encoder.training and method.tokenizer.training


def test_distance_is_one_minus_the_cosine_and_finite_at_zero() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4) + 5.0
    expected = sum(
        1.0
        - float(torch.dot(a[i, j], b[i, j]).detach() / (a[i, j].detach().norm() * b[i, j].norm()))
        for i in range(2)
        for j in range(3)
    )
    assert float(distance(a, b, center=False).detach()) == pytest.approx(expected / 6, rel=1e-5)
    torch.testing.assert_close(
        distance(a, b, center=True), distance(a, b - b.mean((0, 1)), center=False)
    )
    zero = torch.zeros(2, 3, 4, requires_grad=True)
    torch.autograd.backward(distance(zero, zero, center=True))
    assert zero.grad is not None and zero.grad.isfinite().all()
