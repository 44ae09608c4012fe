"""What features say without labels: effective rank, decay of the spectrum, alignment, uniformity, collapse.

- RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): `exp(−Σ p log p)` of the singular values'
  shares `p = σ / Σσ + 1e-7`: how many directions are used.
- α-ReQ (Agrawal et al. 2022, NeurIPS): the exponent of the power law `λᵢ ∝ i^−α` that the
  covariance's eigenvalues follow; around 1 is what the paper finds best, large values mean few
  directions carry all variance. Fitted by least squares in log-log over ranks 5 to 50, each
  weighted by 1/i, so that every octave counts about the same.
- Alignment and uniformity (Wang and Isola 2020, arXiv 2005.10242, eq. 2 and 3): mean squared
  distance of positive pairs, and the logarithm of the mean Gaussian potential of all pairs, on the
  unit sphere; smaller is better for both.
- Spread: the standard deviation of each normalized feature, averaged, times √D (Chen and He 2021,
  arXiv 2011.10566, figure 2): 0 when all samples have one direction, about 1 when directions are
  isotropic.

They compare checkpoints of one run. Across methods and widths they do not rank encoders; RankMe's
authors say so too.
"""

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mezzotint.evaluation.metrics import require_finite
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.types import Features

_EPSILON = 1e-7
_MOST_PAIRED = 8_192  # samples whose pairs uniformity visits
_BLOCK = 1_024
_FIRST = 5  # ranks of the eigenvalues that the power law is fitted to, from
_LAST = 50  # and to

COMPLETE_SPREAD = 0.01
DIMENSIONAL_SHARE = 0.05


def rankme(x: Tensor) -> float:
    """Effective rank of features `[N, D]`, from 1 to `min(N, D)`; not centered, as in the paper."""
    sigma = _singular_values(x.double())
    total = sigma.sum()
    if total == 0:
        return 1.0
    shares = sigma / total + _EPSILON
    return float(torch.exp(-(shares * shares.log()).sum()))


def alpha_req(x: Tensor, *, first: int = _FIRST, last: int = _LAST) -> float:
    """Exponent of the eigenspectrum of the covariance of features `[N, D]`.

    Args:
        x: features.
        first: rank of the largest eigenvalue that is fitted, from 1.
        last: rank of the smallest; less where fewer eigenvalues are above the noise of the
            arithmetic.

    Returns:
        α, or NaN where fewer than three eigenvalues are left.
    """
    x = x.double()
    eigenvalues = _singular_values(x - x.mean(dim=0)).square() / max(1, len(x) - 1)
    above = int((eigenvalues > eigenvalues[0] * 1e-12).sum())
    last = min(last, above)
    if last - first < 2:
        return float("nan")
    ranks = torch.arange(first, last + 1, dtype=torch.float64, device=x.device)
    log_rank, log_value, weights = ranks.log(), eigenvalues[first - 1 : last].log(), 1.0 / ranks
    weights = weights / weights.sum()
    log_rank = log_rank - (weights * log_rank).sum()
    return -float((weights * log_rank * log_value).sum() / (weights * log_rank.square()).sum())


def alignment(a: Tensor, b: Tensor, *, alpha: float = 2.0) -> float:
    """Mean distance of positive pairs, to the power `alpha`.

    Args:
        a: features `[N, D]` of one view of each sample.
        b: features `[N, D]` of another view of the same samples, row for row.
        alpha: the power.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"got features of {tuple(a.shape)} and {tuple(b.shape)}; allowed is one shape: pair the rows"
        )
    distances = (normalize(a.double(), dim=1) - normalize(b.double(), dim=1)).norm(dim=1)
    return float(distances.pow(alpha).mean())


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """Logarithm of the mean over pairs of `exp(−t ‖a − b‖²)`, of features `[N, D]` on the unit sphere.

    Of more than 8,192 samples, so many at equal steps.
    """
    x = normalize(at_most(x, _MOST_PAIRED).double(), dim=1)
    if len(x) < 2:
        raise ValueError(f"got {len(x)} samples; allowed is 2 or more: uniformity is about pairs")
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in torch.split(x, _BLOCK):
        total += ((part @ x.T - 1.0) * (2.0 * t)).exp().sum()
    pairs = len(x) * (len(x) - 1)
    return float(((total - len(x)) / pairs).clamp_min(torch.finfo(torch.float64).tiny).log())


def spread(x: Tensor) -> float:
    """√D times the mean standard deviation of the L2-normalized features `[N, D]`: 0 collapsed, 1 isotropic."""
    x = normalize(x.double(), dim=1)
    return float(x.std(dim=0, correction=0).mean() * x.shape[1] ** 0.5)


def verdict(spread: float, rank_ratio: float) -> str:
    """Say in words whether the features have collapsed.

    Args:
        spread: as `spread` gives it; below 0.01, features differ by less than a hundredth of what
            isotropic ones do.
        rank_ratio: RankMe over `min(N, D)`; below 0.05, a twentieth of the directions that could be
            used are.

    Returns:
        A sentence that begins with `complete collapse`, `dimensional collapse` or `healthy`.
    """
    if not spread >= COMPLETE_SPREAD:
        return (
            f"complete collapse: all samples have almost the same feature (spread {spread:.4f}, below "
            f"{COMPLETE_SPREAD}); nothing can be told apart"
        )
    if not rank_ratio >= DIMENSIONAL_SHARE:
        return (
            f"dimensional collapse: the features vary in only {rank_ratio:.1%} of their directions (below "
            f"{DIMENSIONAL_SHARE:.0%}); most of the width is unused"
        )
    return f"healthy: the features use {rank_ratio:.0%} of their directions, with a spread of {spread:.2f}"


class Rank(Probe):
    """The label-free measures of all features that were extracted.

    Args:
        first_eigenvalue: index of the largest eigenvalue that α is fitted to, from 1.
        last_eigenvalue: index of the smallest.
        samples: largest number of samples, taken at equal steps; RankMe's paper uses 25,600.
    """

    name: ClassVar[str] = "rank"
    kinds = ()

    def __init__(
        self,
        *,
        first_eigenvalue: int = _FIRST,
        last_eigenvalue: int = _LAST,
        samples: int = 25_600,
    ) -> None:
        if not 1 <= first_eigenvalue <= last_eigenvalue - 2:
            raise ValueError(
                "`first_eigenvalue` must be at least 1 and at most `last_eigenvalue` − 2, got "
                f"first_eigenvalue={first_eigenvalue} and last_eigenvalue={last_eigenvalue}. A line "
                "needs three points."
            )
        if samples < 2:
            raise ValueError(
                f"`samples` must be 2 or more, got {samples}. RankMe's paper uses 25600."
            )
        self.first_eigenvalue, self.last_eigenvalue = first_eigenvalue, last_eigenvalue
        self.samples = samples

    @property
    def protocol(self) -> Protocol:
        """`rank/1` and all settings."""
        fit = f"{self.first_eigenvalue}-{self.last_eigenvalue}"
        return Protocol.of("rank", epsilon=_EPSILON, fit=fit, t=2, samples=self.samples)

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `rankme`, `rank_ratio` (of `min(N, D)`), `alpha`, `uniformity` and `spread` of `train`."""
        if len(train.x) < 2:
            raise ValueError(f"`rank` needs two samples or more, got {len(train.x)}. Add data.")
        require_finite(train.x, "extracted")
        x = at_most(train.x, self.samples)
        effective = rankme(x)
        yield self.row("rankme", effective)
        yield self.row("rank_ratio", effective / min(x.shape))
        yield self.row(
            "alpha", alpha_req(x, first=self.first_eigenvalue, last=self.last_eigenvalue)
        )
        yield self.row("uniformity", uniformity(x))
        yield self.row("spread", spread(x))


def at_most(x: Tensor, count: int) -> Tensor:
    """Rows at equal steps, so many at most."""
    if len(x) <= count:
        return x
    return x[torch.linspace(0, len(x) - 1, count, device=x.device).long()]


def _singular_values(x: Tensor) -> Tensor:
    """In descending order; through the smaller Gram matrix, which is much faster, so float64 is needed."""
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0.0).sqrt().flip(0)
