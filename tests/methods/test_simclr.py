"""NT-Xent against a loop, closed forms and lightly."""

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.simclr import SimCLR, nt_xent
from mezzotint.types import Input


class Bare(Encoder):
    def __init__(self) -> None:
        super().__init__(Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3), dim=7)


def waves(*shape: int, phase: float) -> Tensor:
    """Numbers that any library can be given without a generator: 1.3 sin(1.7 k + phase)."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k * 1.7 + phase).mul(1.3).float().reshape(shape)


def naive(z_VBD: Tensor, temperature: float) -> float:
    """The loss by definition, one anchor at a time."""
    views, batch, _ = z_VBD.shape
    rows = [(v, b) for v in range(views) for b in range(batch)]

    def similarity(i: tuple[int, int], j: tuple[int, int]) -> float:
        a, b = z_VBD[i].double(), z_VBD[j].double()
        return float(a @ b / (a.norm() * b.norm())) / temperature

    losses = []
    for i in rows:
        others = sum(math.exp(similarity(i, j)) for j in rows if j != i)
        positives = [j for j in rows if j != i and j[1] == i[1]]
        losses += [-math.log(math.exp(similarity(i, j)) / others) for j in positives]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_definition(views: int, temperature: float) -> None:
    z = torch.randn(views, 6, 5, generator=torch.Generator().manual_seed(views))
    loss, _ = nt_xent(z, temperature)
    assert float(loss) == pytest.approx(naive(z, temperature), rel=1e-5)


def test_equals_lightly() -> None:
    """NTXentLoss of lightly 1.6.0 on two batches of `waves`: loss and norm of the gradient."""
    golden = {
        0.1: (12.566826820373535, 2.263554573059082),
        0.5: (3.614396572113037, 0.3907548487186432),
    }
    for temperature, (value, gradient_norm) in golden.items():
        a, b = waves(5, 4, phase=0.1).requires_grad_(), waves(5, 4, phase=2.0)
        loss, _ = nt_xent(torch.stack([a, b]), temperature)
        (gradient,) = torch.autograd.grad(loss, a)
        assert loss.item() == pytest.approx(value, rel=1e-5)
        assert float(gradient.norm()) == pytest.approx(gradient_norm, rel=1e-4)


def test_identical_projections_cannot_be_told_apart() -> None:
    loss, _ = nt_xent(torch.ones(2, 8, 4), 0.2)
    assert float(loss) == pytest.approx(math.log(15), rel=1e-5)  # one of 2 · 8 − 1 candidates


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_orthogonal_samples_with_equal_views(temperature: float) -> None:
    z = torch.eye(6).expand(2, 6, 6)
    loss, accuracy = nt_xent(z, temperature)
    # One candidate at cosine 1 and 2 · 6 − 2 at cosine 0.
    assert float(loss) == pytest.approx(math.log1p(10 * math.exp(-1 / temperature)), rel=1e-3)
    assert float(accuracy) == 1.0


def test_does_not_depend_on_the_length_of_projections() -> None:
    z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(z * 7.0, 0.2)[0], nt_xent(z, 0.2)[0])


def test_accuracy_counts_anchors_whose_nearest_is_a_positive() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]])
    b = torch.tensor(
        [[1.0, 0.1], [0.9, 0.2], [-1.0, -0.1]]
    )  # the second sample's other view lies near the first
    _, accuracy = nt_xent(torch.stack([a, b]), 0.2)
    assert float(accuracy) == pytest.approx(5 / 6)  # only that view misses its own sample


def test_finite_in_half_precision_at_a_low_temperature() -> None:
    z = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(0))
    loss, _ = nt_xent(z.half(), 0.01)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(z.half().float(), 0.01)[0])


def test_head_is_the_papers() -> None:
    """Linear, BatchNorm, ReLU, Linear, BatchNorm; no linear bias, as in the authors' code."""
    method = SimCLR(Bare(), hidden_dim=11, dim=5)
    kinds = [type(m) for m in method.projector]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert sum(p.numel() for p in method.projector.parameters()) == 7 * 11 + 2 * 11 + 11 * 5
    bare_end = SimCLR(Bare(), hidden_dim=11, dim=5, layers=3, last_norm=False)
    assert (
        sum(p.numel() for p in bare_end.projector.parameters())
        == 7 * 11 + 11 * 11 + 4 * 11 + 11 * 5 + 5
    )


def test_bad_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0\."):
        SimCLR(Bare(), temperature=0.0)


def test_head_of_ssqls_baseline_has_no_batch_norm() -> None:
    """Linear, ReLU, Linear, both with bias (its `builder`), and as many weights."""
    head = SimCLR(Bare(), hidden_dim=5, dim=3, hidden_norm=False, last_norm=False).projector
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert sum(p.numel() for p in head.parameters()) == 7 * 5 + 5 + 5 * 3 + 3
