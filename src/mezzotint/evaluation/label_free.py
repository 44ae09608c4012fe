"""Label-free measures of features: rank, decay of the spectrum, alignment, uniformity, collapse.

- RankMe (Garrido et al. 2023, arXiv 2210.02885, eq. 1): `exp(−Σ p log p)` of the normalized
  singular values `p = σ / Σσ + 1e-7`: the effective number of directions.
- α-ReQ (Agrawal et al. 2022, NeurIPS): the exponent of the power law `λᵢ ∝ i^−α` of the
  covariance's eigenvalues; the paper finds values around 1 best, and large ones mean that few
  directions have all the variance. Fitted by least squares in log-log over eigenvalues 5 to 50,
  each weighted by 1/i, so that every octave counts about the same.
- Alignment and uniformity (Wang and Isola 2020, arXiv 2005.10242, eq. 2 and 3): mean squared
  distance of positive pairs, and the logarithm of the mean Gaussian potential of all pairs, on the
  unit sphere; smaller is better for both.
- Spread: the mean standard deviation of the normalized features, times √D (Chen and He 2021, arXiv
  2011.10566, figure 2): 0 when all samples have one direction, about 1 when directions are
  isotropic.

They compare checkpoints of one run. They do not rank encoders across methods and feature
dimensions; RankMe's authors say so too.
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
_MAX_PAIRED = 8_192  # samples whose pairs uniformity averages over
_BLOCK = 1_024
_FIRST = 5  # first eigenvalue of the fit of the power law
_LAST = 50

COMPLETE_SPREAD = 0.01
DIMENSIONAL_RATIO = 0.05


def rankme(x: Tensor) -> float:
    """Return the effective rank of features `[N, D]`; uncentered, as in the paper."""
    sigma = _singular_values(x.double())
    total = sigma.sum()
    if total == 0:
        return 1.0
    p = sigma / total + _EPSILON
    return float(torch.exp(-(p * p.log()).sum()))


def alpha_req(x: Tensor, *, first: int = _FIRST, last: int = _LAST) -> float:
    """Return the exponent of the eigenspectrum of the covariance of features `[N, D]`.

    Args:
        x: features.
        first: index of the largest eigenvalue of the fit, from 1.
        last: index of the smallest; lower where fewer eigenvalues exceed the rounding noise.

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
    """Return the mean distance of positive pairs, to the power `alpha`.

    Args:
        a: features `[N, D]` of one view of each sample.
        b: features `[N, D]` of another view of the same samples, row for row.
        alpha: the power.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"Alignment needs two sets of features of one shape, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}. Pair the rows."
        )
    distances = (normalize(a.double(), dim=1) - normalize(b.double(), dim=1)).norm(dim=1)
    return float(distances.pow(alpha).mean())


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """Return log mean `exp(−t ‖a − b‖²)` over all pairs of features `[N, D]` on the unit sphere.

    Of more than 8,192 samples, that many are taken at equal steps.
    """
    x = normalize(at_most(x, _MAX_PAIRED).double(), dim=1)
    if len(x) < 2:
        raise ValueError(f"Uniformity needs two samples or more, got {len(x)}. Add samples.")
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in torch.split(x, _BLOCK):
        total += ((part @ x.T - 1.0) * (2.0 * t)).exp().sum()
    pairs = len(x) * (len(x) - 1)
    return float(((total - len(x)) / pairs).clamp_min(torch.finfo(torch.float64).tiny).log())


def spread(x: Tensor) -> float:
    """Return √D × the mean standard deviation of normalized features: 0 collapsed, 1 isotropic."""
    x = normalize(x.double(), dim=1)
    return float(x.std(dim=0, correction=0).mean() * x.shape[1] ** 0.5)


def verdict(spread: float, rank_ratio: float) -> str:
    """Return in words whether the features have collapsed.

    Args:
        spread: result of `spread`; below 0.01, features differ by less than a hundredth of what
            isotropic features do.
        rank_ratio: RankMe over `min(N, D)`; below 0.05, fewer than a twentieth of the possible
            directions are used.

    Returns:
        A sentence that begins with `complete collapse`, `dimensional collapse` or `healthy`.
    """
    if not spread >= COMPLETE_SPREAD:
        return (
            f"complete collapse: all samples have almost the same features (spread {spread:.4f}, "
            f"below {COMPLETE_SPREAD})"
        )
    if not rank_ratio >= DIMENSIONAL_RATIO:
        return (
            f"dimensional collapse: the features vary in only {rank_ratio:.1%} of their directions "
            f"(below {DIMENSIONAL_RATIO:.0%})"
        )
    return (
        f"healthy: the features use {rank_ratio:.0%} of their directions, with a spread of "
        f"{spread:.2f}"
    )


class Rank(Probe):
    """Measure rank, spectrum, uniformity and spread of the features, without labels.

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
                "`last_eigenvalue` must be at least 3 and `first_eigenvalue` at least 1 and at "
                f"most `last_eigenvalue` − 2, got last_eigenvalue={last_eigenvalue} and "
                f"first_eigenvalue={first_eigenvalue}. A line needs three points."
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
        """Yield `rankme`, `rank_ratio` (over `min(N, D)`), `alpha`, `uniformity`, `spread`."""
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
    """Return at most `count` rows, at equal steps."""
    if len(x) <= count:
        return x
    return x[torch.linspace(0, len(x) - 1, count, device=x.device).long()]


def _singular_values(x: Tensor) -> Tensor:
    """Return singular values in descending order, from the smaller Gram matrix; needs float64."""
    gram = x.T @ x if x.shape[1] <= x.shape[0] else x @ x.T
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues.clamp_min(0.0).sqrt().flip(0)
