"""SimSiam's loss and heads."""

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.resnet import resnet50
from mezzotint.methods.simsiam import SimSiam, negative_cosine
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views

INPUT = Input((3, 32, 32), (0.5,) * 3, (0.5,) * 3)


class Flat(Encoder):
    """The image's values themselves, through a linear."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__(Input((1, 2, 3), (0.5,), (0.5,)), dim)
        self.linear = nn.Linear(6, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1))
        return out


def waves(*shape: int, phase: float) -> Tensor:
    """Numbers that any library can be given without a generator: 1.3 sin(1.7 k + phase)."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k * 1.7 + phase).mul(1.3).float().reshape(shape)


def test_equals_lightly() -> None:
    """NegativeCosineSimilarity of lightly 1.6.0 on two batches of `waves`."""
    value = negative_cosine(waves(5, 4, phase=0.1), waves(5, 4, phase=2.0))
    assert float(value) == pytest.approx(0.2991984784603119, rel=1e-5)


def test_bounds_and_stopped_gradient() -> None:
    p = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    z = p.detach().clone().requires_grad_()
    loss = negative_cosine(p, z)
    assert loss.item() == pytest.approx(-1.0)
    assert negative_cosine(p, -z).item() == pytest.approx(1.0)
    to_prediction, to_target = torch.autograd.grad(loss, (p, z), allow_unused=True)
    assert to_prediction is not None and to_target is None


def test_two_views_give_the_papers_symmetric_loss() -> None:
    """Equation 2: half of D(p1, z2) and half of D(p2, z1), each view passed on its own."""
    torch.manual_seed(0)
    method = SimSiam(Flat(), dim=8, hidden_dim=4)
    x1, x2 = torch.randn(5, 1, 2, 3), torch.randn(5, 1, 2, 3)
    z1, z2 = (method.projector(method.encoder(x)) for x in (x1, x2))
    p1, p2 = method.predictor(z1), method.predictor(z2)

    def distance(p: Tensor, z: Tensor) -> Tensor:
        cosine: Tensor = (p / p.norm(dim=1, keepdim=True) * (z / z.norm(dim=1, keepdim=True))).sum(
            dim=1
        )
        return -cosine.mean()

    views = Views((x1, x2), ("global", "global"), Draws(torch.arange(5), 0))
    torch.testing.assert_close(method(views).loss, distance(p1, z2) / 2 + distance(p2, z1) / 2)


def test_heads_are_the_papers_for_resnet50() -> None:
    """Projector: three 2048-wide linears without bias; predictor: bottleneck of 512 (section 3)."""
    method = SimSiam(resnet50(INPUT))
    assert [type(m).__name__ for m in method.projector] == [
        *("Linear", "BatchNorm1d", "ReLU") * 2,
        "Linear",
        "BatchNorm1d",
    ]
    wide, norm = 2048 * 2048, 2 * 2048
    assert (
        sum(p.numel() for p in method.projector.parameters()) == 3 * wide + 2 * norm
    )  # the last norm learns nothing
    assert sum(p.numel() for p in method.predictor.parameters()) == 2 * 2048 * 512 + 2 * 512 + 2048


@pytest.mark.parametrize(("encoder_dim", "dim", "hidden"), [(6, 8, 8), (12, 8, 12)])
def test_projector_is_as_wide_as_the_wider_of_encoder_and_output(
    encoder_dim: int, dim: int, hidden: int
) -> None:
    projector = SimSiam(Flat(encoder_dim), dim=dim, hidden_dim=4).projector
    widths = [(m.in_features, m.out_features) for m in projector if isinstance(m, nn.Linear)]
    assert widths == [(encoder_dim, hidden), (hidden, hidden), (hidden, dim)]
