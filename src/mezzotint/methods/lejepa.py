"""LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544): predict views, with Gaussian projections.

There is no momentum copy, no stop-gradient and no negatives: SIGReg, a test of normality, prevents
a collapse. Random directions slice the projections into one-dimensional samples; each is compared
with the standard normal through its characteristic function (Epps and Pulley 1983), integrated over
frequencies. All views, global and local, predict the mean of the global ones, and all of them are
tested, each view on its own; the two terms have the weights 1 − λ and λ.

Differs from the authors' code: directions are keyed by the step, so that ranks agree and a resumed
run has the same; the characteristic function is summed by recurrence over equally spaced
frequencies with its own gradient, which needs one cosine per value instead of one per frequency,
and stores nothing that grows with their number. As in their code and unlike the paper's text,
frequencies reach 3 instead of 5.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.method import Branch, BranchName, Method
from mezzotint.methods.siamese import collapse_signals, one_pass, target_views
from mezzotint.recipe.component import require_sizes
from mezzotint.seeding import Draws
from mezzotint.types import Step, Views


class _CharacteristicFunction(torch.autograd.Function):
    """Means over samples of cos(k · θ) and sin(k · θ), k = 1 … K: `[V, B, S]` → two `[V, S, K]`."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, num: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(theta)
        cos, sin = theta.cos(), theta.sin()
        c, s = cos, sin
        reals, imaginaries = [c.mean(1)], [s.mean(1)]
        for _ in range(num - 1):  # addition theorems: from k · θ to (k + 1) · θ
            c, s = (c * cos).addcmul_(s, sin, value=-1.0), (s * cos).addcmul_(c, sin)
            reals.append(c.mean(1))
            imaginaries.append(s.mean(1))
        return torch.stack(reals, dim=2), torch.stack(imaginaries, dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_real: Tensor, grad_imaginary: Tensor) -> tuple[Tensor, None]:
        (theta,) = ctx.saved_tensors
        num = grad_real.shape[2]
        k = torch.arange(1, num + 1, device=theta.device, dtype=theta.dtype) / theta.shape[1]
        # The gradient is the series Σ_k a_k cos(k θ) + b_k sin(k θ), summed from its end (Clenshaw
        # 1955).
        a = (grad_imaginary * k).unsqueeze(1).unbind(3)
        b = (-grad_real * k).unsqueeze(1).unbind(3)
        cos, sin = theta.cos(), theta.sin()
        twice = 2.0 * cos
        even, even_before = torch.zeros_like(theta), torch.zeros_like(theta)
        odd, odd_before = torch.zeros_like(theta), torch.zeros_like(theta)
        for index in reversed(range(num)):
            even, even_before = (a[index] - even_before).addcmul_(twice, even), even
            odd, odd_before = (b[index] - odd_before).addcmul_(twice, odd), odd
        return even * cos - even_before + odd * sin, None


def sigreg(z_VBD: Tensor, directions_SD: Tensor, *, knots: int = 17, t_max: float = 3.0) -> Tensor:
    """Measure how far each view's projections are from a standard normal distribution.

    For each view and direction, N ∫ |φ_N(t) − exp(−t²/2)|² exp(−t²/2) dt, with φ_N the empirical
    characteristic function of the N samples of the global batch, by the trapezoidal rule on
    [−t_max, t_max]; the integrand is even, so half the range is enough. The mean over views and
    directions is returned. For normal samples it is about √(2π) (1 − 1/√3) ≈ 1.06 when the whole
    line is integrated, whatever N.

    Args:
        z_VBD: projections of V views, `[V, B, D]`.
        directions_SD: unit vectors, `[S, D]`, the same on all ranks.
        knots: number of frequencies in [0, t_max].
        t_max: the highest frequency.
    """
    step = t_max / (knots - 1)
    t = torch.arange(1, knots, device=z_VBD.device, dtype=z_VBD.dtype) * step
    gaussian = torch.exp(-t.square() / 2.0)
    # Trapezoid over both halves: 2 · step inside, step at the end; nothing at t = 0, where both
    # functions are 1.
    weights = gaussian * (2.0 * step)
    weights = torch.cat([weights[:-1], weights[-1:] / 2.0])
    theta = (z_VBD @ directions_SD.T) * step
    real, imaginary = _CharacteristicFunction.apply(theta, knots - 1)
    real, imaginary = dist.mean(torch.stack([real, imaginary]))
    distance: Tensor = ((real - gaussian).square() + imaginary.square()) @ weights
    return distance.mean() * (z_VBD.shape[1] * dist.world_size())


def prediction(z_VBD: Tensor, targets: list[int]) -> Tensor:
    """Compute the mean squared distance of all projections to the mean of the global views.

    Args:
        z_VBD: projections of V views, `[V, B, D]`.
        targets: indices of the global views among the V.
    """
    center_BD = torch.stack([z_VBD[index] for index in targets]).mean(dim=0)
    return (z_VBD - center_BD).square().mean()


# Keys are hashed in Python, which a compiled graph would specialize on.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def directions(draws: Draws, num: int, dim: int) -> Tensor:
    """Draw unit vectors uniformly from the sphere, `[num, dim]`, the same on all ranks."""
    ids = torch.arange(num, device=draws.ids.device)
    units: Tensor = normalize(Draws(ids, draws.key).normal("lejepa.directions", dim), dim=1)
    return units


class LeJEPA(Method):
    """Predict the mean of the global views from all views, with Gaussian projections.

    Args:
        encoder: network to train.
        hidden_dim: width of the projector's hidden layers.
        dim: width of the projections.
        layers: linear layers of the projector.
        sigreg_weight: λ in (1 − λ) · prediction + λ · SIGReg.
        slices: random directions per step.
        knots: number of frequencies at which characteristic functions are compared.
        t_max: highest frequency.
    """

    no_accumulation: ClassVar[str] = "its test of normality is a statistic of the whole batch"
    has_rows: ClassVar[bool] = True
    max_views: ClassVar[int | None] = None

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden_dim: int = 2048,
        dim: int = 64,
        layers: int = 3,
        sigreg_weight: float = 0.05,
        slices: int = 1024,
        knots: int = 17,
        t_max: float = 3.0,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim, dim=dim, layers=layers)
        if not 0.0 <= sigreg_weight <= 1.0:
            raise ValueError(
                f"`method.sigreg_weight` must be in [0, 1], got {sigreg_weight}. The paper uses "
                "0.05."
            )
        if slices < 1 or knots < 3 or t_max <= 0.0:
            raise ValueError(
                "`method.slices` must be at least 1, `knots` at least 3 and `t_max` positive, got "
                f"{slices}, {knots} and {t_max}. The authors use 1024, 17 and 3.0."
            )
        self.dim, self.sigreg_weight = dim, sigreg_weight
        self.slices, self.knots, self.t_max = slices, knots, t_max
        self.projector = mlp([encoder.dim, *[hidden_dim] * (layers - 1), dim])

    def branches(self) -> Mapping[BranchName, Branch]:
        return {"online": Branch(self.encoder, self.projector)}

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        # Drawn in this function: a compiled one below it would be compiled again for each key.
        directions_SD = directions(views.draws, self.slices, self.dim)
        return self._compare(self.rows(views), directions_SD, views)

    def rows(self, views: Views) -> list[Tensor]:
        """Compute the projections of each view."""
        features = one_pass(self.encoder, views.x)
        return list(self.projector(torch.cat(features)).chunk(len(features)))

    def compare_rows(self, rows: list[Tensor], views: Views) -> Step:
        directions_SD = directions(views.draws, self.slices, self.dim)
        return self._compare(rows, directions_SD, views)

    def _compare(self, rows: list[Tensor], directions_SD: Tensor, views: Views) -> Step:
        z_VBD = torch.stack(rows)
        with torch.autocast(z_VBD.device.type, enabled=False):
            z_VBD = z_VBD.float()
            regularizer = sigreg(z_VBD, directions_SD, knots=self.knots, t_max=self.t_max)
            predicted = prediction(z_VBD, target_views(views))
            loss = (1.0 - self.sigreg_weight) * predicted + self.sigreg_weight * regularizer
        logs = {"prediction": predicted.detach(), "sigreg": regularizer.detach()}
        return Step(loss, {**logs, **collapse_signals(z_VBD.unbind())})
