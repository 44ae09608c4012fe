"""SIGReg against its definition, a closed form and lightly."""

import math

import pytest
import torch
from torch import Tensor, nn

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.lejepa import LeJEPA, _CharacteristicFunction, directions, prediction, sigreg
from mezzotint.seeding import Draws
from mezzotint.types import Input, Views


class Flat(Encoder):
    def __init__(self) -> None:
        super().__init__(Input((1, 2, 3), (0.5,), (0.5,)), dim=6)
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1)[:, :6])
        return out


def waves(*shape: int, phase: float) -> Tensor:
    """Numbers that any library can be given without a generator: 1.3 sin(1.7 k + phase)."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k * 1.7 + phase).mul(1.3).float().reshape(shape)


def unit(x: Tensor) -> Tensor:
    return nn.functional.normalize(x, dim=-1)


def naive(z: Tensor, slices: Tensor, knots: int, t_max: float) -> float:
    """By definition: loops over views, directions and frequencies in [−t_max, t_max]."""
    ts = torch.linspace(-t_max, t_max, 2 * knots - 1, dtype=torch.float64)
    values = []
    for view in z.double():
        for direction in slices.double():
            x = view @ direction
            integrand = []
            for t in ts:
                empirical = torch.exp(1j * t * x).mean()
                gaussian = torch.exp(-t * t / 2)
                integrand.append(float((empirical - gaussian).abs() ** 2 * gaussian))
            values.append(
                len(x) * float(torch.trapezoid(torch.tensor(integrand, dtype=torch.float64), ts))
            )
    return sum(values) / len(values)


@pytest.mark.parametrize(("knots", "t_max"), [(17, 3.0), (5, 1.0), (33, 5.0)])
def test_equals_the_definition(knots: int, t_max: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3, 9, 4, generator=generator) * 1.5 + 0.3
    slices = unit(torch.randn(6, 4, generator=generator))
    assert float(sigreg(z, slices, knots=knots, t_max=t_max)) == pytest.approx(
        naive(z, slices, knots, t_max), rel=1e-4
    )


def test_equals_the_closed_form_of_the_whole_line() -> None:
    """With weight exp(−t²/2) the integral is a sum of Gaussians (Baringhaus and Henze 1988)."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, generator=generator, dtype=torch.float64) * 0.8 + 0.5
    n = len(x)
    pairs = torch.exp(-(x[:, None] - x[None]).square() / 2).sum() / n**2 * math.sqrt(2 * math.pi)
    cross = 2 * torch.exp(-x.square() / 4).mean() * math.sqrt(math.pi)
    expected = n * (pairs - cross + math.sqrt(2 * math.pi / 3))
    found = sigreg(x.view(1, n, 1), torch.ones(1, 1, dtype=torch.float64), knots=257, t_max=12.0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_equals_lightly() -> None:
    """SIGReg and LeJEPALoss (λ = 0.05) of lightly 1.6.0; views 0 and 1 are global.

    Directions are the rows of `waves(8, 4, phase=1.0)` at length 1. Loss and norm of the gradient.
    """
    slices = unit(waves(8, 4, phase=1.0))
    z = waves(3, 6, 4, phase=0.4).requires_grad_()
    regularizer = sigreg(z, slices)
    (gradient,) = torch.autograd.grad(regularizer, z)
    assert regularizer.item() == pytest.approx(3.8181378841400146, rel=1e-5)
    assert float(gradient.norm()) == pytest.approx(1.0993901491165161, rel=1e-4)
    loss = 0.95 * prediction(z, [0, 1]) + 0.05 * sigreg(z, slices)
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(0.9949089288711548, rel=1e-5)
    assert float(gradient.norm()) == pytest.approx(0.25570204854011536, rel=1e-4)


def test_gradient_of_the_characteristic_function() -> None:
    theta = torch.randn(
        2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _CharacteristicFunction.apply(x, 6), theta)
    cos, sin = _CharacteristicFunction.apply(theta, 6)
    k = torch.arange(1, 7)
    torch.testing.assert_close(cos, (theta.unsqueeze(3) * k).cos().mean(dim=1))
    torch.testing.assert_close(sin, (theta.unsqueeze(3) * k).sin().mean(dim=1))


def test_normal_samples_give_the_expected_value_and_others_more() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2000, 8, generator=generator)
    slices = unit(torch.randn(512, 8, generator=generator))
    null = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))
    found = float(sigreg(z, slices, knots=33, t_max=6.0))
    assert found == pytest.approx(null, rel=0.25)
    for worse in (z * 0.5, z * 2.0, z + 0.5, torch.zeros_like(z), z.sign()):
        assert float(sigreg(worse, slices, knots=33, t_max=6.0)) > 3 * found


def test_each_view_is_tested_on_its_own() -> None:
    """Pooling the views would hide that they are shifted against each other."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 50, 3, generator=generator) + torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    slices = unit(torch.randn(16, 3, generator=generator))
    apart = (sigreg(z[:1], slices) + sigreg(z[1:], slices)) / 2
    torch.testing.assert_close(sigreg(z, slices), apart)


def test_prediction_is_of_the_mean_of_global_views() -> None:
    z = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]], [[1.0, 3.0]]])  # two global views, one local
    # The mean of the global ones is (1, 0); squared distances are 1, 1 and 9, over 3 views of 2
    # dimensions.
    assert float(prediction(z, [0, 1])) == pytest.approx(11 / 6)
    assert float(prediction(z[:2] * 0 + 4.0, [0, 1])) == 0.0


def test_directions_are_uniform_unit_vectors_keyed_by_the_step() -> None:
    ids = torch.arange(5)
    found = directions(Draws(ids, 11), 4000, 3)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4000))
    assert found.mean(dim=0).abs().max() < 0.05
    torch.testing.assert_close(found.T @ found / 4000, torch.eye(3) / 3, atol=0.03, rtol=0.0)
    assert torch.equal(
        found, directions(Draws(ids + 5, 11), 4000, 3)
    )  # the same for other samples: other ranks
    assert not torch.equal(found, directions(Draws(ids, 12), 4000, 3))


def test_weights_are_one_minus_lambda_and_lambda() -> None:
    torch.manual_seed(0)
    method = LeJEPA(Flat(), hidden_dim=8, dim=4, sigreg_weight=0.3, slices=16)
    x = tuple(torch.randn(5, 1, 2, 3) for _ in range(2)) + (torch.randn(5, 1, 3, 3),)
    step = method(Views(x, ("global", "global", "local"), Draws(torch.arange(5), 0)))
    torch.testing.assert_close(
        step.loss.detach(), 0.7 * step.logs["prediction"] + 0.3 * step.logs["sigreg"]
    )


@pytest.mark.parametrize(
    "bad", [{"sigreg_weight": 1.5}, {"slices": 0}, {"knots": 2}, {"t_max": 0.0}]
)
def test_values_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        LeJEPA(Flat(), **bad)  # type: ignore[arg-type]
