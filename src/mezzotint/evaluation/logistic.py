"""Multinomial logistic regression solved to its optimum.

The linear probe is a convex problem: it has one answer, and no learning rate, schedule or number of
epochs belongs to it. The objective is, over N samples with features x and classes y,

    f(W, b) = 1/N Σ −log softmax(W x + b)[y]  +  λ/2 ‖W‖²,

the intercepts unpenalized: scikit-learn's `LogisticRegression` with C = 1/(λ N). Where a sample has
any number of labels, the first term is the sum over classes of their binary cross-entropies: a
logistic regression for each class.

It is minimized by L-BFGS (Liu and Nocedal 1989) whose first inverse Hessian is not a multiple of
the identity but the inverse of `XᵀX/(N C) + λ I`, the true Hessian where all C classes are equally
likely (4 for C where a class is as likely as not). That turns correlated features, which is what
encoders give, into a well-conditioned problem, at the price of one Cholesky factor of the features'
covariance. Loss and gradient come from one blocked pass over the features, so the additional
memory does not grow with N, and the loss is summed in float64. Logits are kept class by class, `[C,
N]`: with few classes the products and the softmax are several times faster so than row by row.

f is λ-strongly convex in W, so `‖∇W‖²/2λ` bounds how far the loss can still fall. It is what the
solver stops on and what it returns as `gap`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_BLOCK = 2048  # rows whose logits stay in the cache between the two products
_COVARIANCE_ROWS = 8192  # enough for a preconditioner, however many rows there are
_SUFFICIENT = 1e-4  # Armijo's constant
_NOISE = 1e-8  # of the loss, relative: what float32 leaves uncertain in its sum

EVEN = 4
"""Number of classes for the curvature of tags: each is binary, with a variance of 1/4 at most."""

Solve = Callable[[Tensor], Tensor]
Pairs = deque[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Fit:
    """A fitted classifier.

    Attributes:
        weight: `[C, D]`.
        bias: `[C]`.
        loss: the objective reached, penalty included.
        gap: bound on its distance to the minimum, in nats.
        converged: whether the gap is within the tolerance.
        evaluations: passes over the features.
        pairs: steps and changes of the data's gradient, from which L-BFGS learned the curvature. A
            fit that starts from this one takes them over, for the penalty's part of a change is
            known: λ times the step.
    """

    weight: Tensor
    bias: Tensor
    loss: float
    gap: float
    converged: bool
    evaluations: int
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()

    def logits(self, x: Tensor) -> Tensor:
        """`[N, D]` → `[N, C]`."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


class Curvature:
    """The covariance of the features, from which the preconditioner of any penalty is made.

    Args:
        x: `[N, D]`, centered.
        num_classes: C.
    """

    def __init__(self, x: Tensor, num_classes: int) -> None:
        rows = x[:: -(-len(x) // _COVARIANCE_ROWS)]
        self.num_classes = num_classes
        self.hessian = rows.T @ rows
        self.hessian /= len(rows) * num_classes
        self._inverses: dict[float, Tensor] = {}

    def inverse(self, penalty: float) -> Solve:
        """`G → P⁻¹ G` for gradients `[C, D + 1]`, the intercepts' in the last column."""
        if penalty not in self._inverses:  # kept: each seed's path tries the same penalties
            shifted = self.hessian.clone()
            shifted.diagonal().add_(penalty)
            factor, failed = torch.linalg.cholesky_ex(shifted)
            if int(failed):  # features of low rank and a small penalty: rounding made it indefinite
                rounding = 4.0 * torch.finfo(shifted.dtype).eps
                shifted.diagonal().add_(rounding * shifted.diagonal().sum())
                factor = torch.linalg.cholesky(shifted)
            self._inverses[penalty] = torch.cholesky_inverse(factor)
        inverse = self._inverses[penalty]

        def apply(gradient: Tensor) -> Tensor:
            return torch.cat(
                (gradient[:, :-1] @ inverse, gradient[:, -1:] * self.num_classes), dim=1
            )

        return apply


def objective(x: Tensor, y: Tensor, parameters: Tensor, penalty: float) -> tuple[float, Tensor]:
    """The objective and its gradient, in one pass.

    Args:
        x: `[N, D]`.
        y: int64 `[N]`, or bool `[N, C]`.
        parameters: `[C, D + 1]`: W, and b in the last column.
        penalty: λ.

    Returns:
        The loss, and the gradient `[C, D + 1]`.
    """
    weight, bias = parameters[:, :-1].contiguous(), parameters[:, -1:]
    by_weight = torch.zeros_like(weight)
    by_bias = torch.zeros_like(bias)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows, classes in zip(torch.split(x, _BLOCK), torch.split(y, _BLOCK), strict=True):
        logits = torch.addmm(bias, weight, rows.T)
        if y.ndim == 2:
            wanted = classes.T.to(rows.dtype)
            total += binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(
                dtype=torch.float64
            )
            residual = logits.sigmoid_().sub_(wanted)
        else:
            own = classes.unsqueeze(0)
            log_probs = torch.log_softmax(logits, dim=0)
            total -= log_probs.gather(0, own).sum(dtype=torch.float64)
            residual = log_probs.exp_().scatter_add_(0, own, rows.new_full(own.shape, -1.0))
        by_weight.addmm_(residual, rows)
        by_bias += residual.sum(1, keepdim=True)
    by_weight.div_(len(x)).add_(weight, alpha=penalty)
    squares = weight.square().sum(dtype=torch.float64)
    return (total / len(x) + 0.5 * penalty * squares).item(), torch.cat(
        (by_weight, by_bias / len(x)), dim=1
    )


def fit(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    penalty: float,
    *,
    curvature: Curvature | None = None,
    start: Fit | None = None,
    tolerance: float = 1e-3,
    max_evaluations: int = 1000,
    memory: int = 20,
) -> Fit:
    """Minimize f.

    Args:
        x: `[N, D]`, centered; its dtype is the dtype of the arithmetic.
        y: int64 `[N]`, of `0 … num_classes − 1`, or bool `[N, num_classes]`.
        num_classes: C.
        penalty: λ, positive.
        curvature: of these or of similar features, to share between fits.
        start: a fit to start from; by default zero weights, and biases that give the frequencies of
            the classes.
        tolerance: stop when `gap` is not above it, in nats.
        max_evaluations: largest number of passes.
        memory: pairs that L-BFGS keeps.

    Raises:
        ValueError: for a penalty that is not positive.
    """
    if penalty <= 0:
        raise ValueError(
            f"`penalty` must be positive, got {penalty}. Without one separable classes have no "
            "optimum."
        )
    solve = (curvature or Curvature(x, num_classes if y.ndim == 1 else EVEN)).inverse(penalty)
    # Half a sample more for each class, so that one without samples has a finite intercept.
    if y.ndim == 1:
        frequencies = (torch.bincount(y, minlength=num_classes).to(x.dtype) + 0.5) / (
            len(y) + 0.5 * num_classes
        )
        bias = frequencies.log()
    else:
        frequencies = (y.sum(dim=0).to(x.dtype) + 0.5) / (len(y) + 1.0)
        bias, frequencies = frequencies.logit(), frequencies * (1.0 - frequencies)
    if start is None:
        at = torch.cat((x.new_zeros(num_classes, x.shape[1]), bias.unsqueeze(1)), dim=1)
    else:
        at = torch.cat((start.weight, start.bias.unsqueeze(1)), dim=1)
    pairs: Pairs = deque(maxlen=memory)
    for step, change in () if start is None else start.pairs:
        _remember(pairs, step, _penalized(change, step, penalty))
    point = _Point(at, *objective(x, y, at, penalty))
    evaluations = 1
    while (
        gap := _gap(point.gradient, penalty, frequencies)
    ) > tolerance and evaluations < max_evaluations:
        direction = _direction(point.gradient, pairs, solve)
        new, used = _search(x, y, penalty, point, direction, max_evaluations - evaluations)
        evaluations += used
        if new is None:
            break
        _remember(pairs, new.at - point.at, new.gradient - point.gradient)
        point = new
    weight, bias = point.at[:, :-1].contiguous(), point.at[:, -1].clone()
    learned = tuple((step, _penalized(change, step, -penalty)) for step, change, _ in pairs)
    return Fit(weight, bias, point.loss, gap, gap <= tolerance, evaluations, learned)


def _remember(pairs: Pairs, step: Tensor, change: Tensor) -> None:
    # Rounding can make the curvature of a tiny step negative; its direction might then climb.
    if (bend := (step * change).sum()) > 0:
        pairs.append((step, change, bend))


def _penalized(change: Tensor, step: Tensor, penalty: float) -> Tensor:
    """A change of the gradient with the penalty's part added."""
    change = change.clone()
    change[:, :-1].add_(step[:, :-1], alpha=penalty)
    return change


class _Point(NamedTuple):
    at: Tensor
    loss: float
    gradient: Tensor


def _search(
    x: Tensor, y: Tensor, penalty: float, point: _Point, direction: Tensor, most: int
) -> tuple[_Point | None, int]:
    """Backtrack along a direction until the loss falls enough.

    Returns:
        The new point, if there is one, and the number of evaluations.
    """
    slope = (point.gradient * direction).sum().item()
    length = 1.0
    for used in range(1, most + 1):
        at = point.at + length * direction
        new = _Point(at, *objective(x, y, at, penalty))
        rise = new.loss - point.loss
        if rise <= _SUFFICIENT * length * slope + _NOISE * abs(point.loss):
            return new, used
        # The minimum of the parabola through what is known, kept from shrinking too fast or too
        # slowly.
        length *= min(0.5, max(0.1, -0.5 * length * slope / (rise - length * slope)))
    return None, most


def _gap(gradient: Tensor, penalty: float, frequencies: Tensor) -> float:
    """Return the bound of the module's docstring.

    The intercepts are not penalized; their curvature is the frequency of their class.
    """
    weights = gradient[:, :-1].square().sum() / (2.0 * penalty)
    return (weights + (gradient[:, -1].square() / (2.0 * frequencies)).sum()).item()


def _direction(gradient: Tensor, pairs: Pairs, solve: Solve) -> Tensor:
    """Run the two loops of L-BFGS; the preconditioner is scaled to the last pair's curvature."""
    q = gradient.clone()
    factors: list[Tensor] = []
    for step, change, bend in reversed(pairs):
        factors.append(torch.dot(step.view(-1), q.view(-1)) / bend)
        q.addcmul_(change, factors[-1], value=-1.0)
    q = solve(q)
    if pairs:
        _, change, bend = pairs[-1]
        q.mul_(bend / (change * solve(change)).sum())
    for (step, change, bend), factor in zip(pairs, reversed(factors), strict=True):
        q.addcmul_(step, factor - torch.dot(change.view(-1), q.view(-1)) / bend)
    return q.neg_()
