"""The linear probe, solved as the convex problem that it is.

Papers train it by 60 to 100 epochs of SGD with a learning rate that must fit the scale of the
features (30 for some encoders, a hundredth of it for others), so their results depend on the
schedule too. Here the features are centered and scaled as a whole, multinomial logistic regression
is solved to its optimum (`logistic.py`), and its one free setting, the L2 penalty, is chosen on a
part of the training set.

Scaling as a whole, not per feature: a feature that hardly varies in training stays small, and so
does its effect on test samples from another distribution. The result is the same in every rotation
of the features.

Selection: a stratified fifth of the training samples is held out; penalties are tried from the
largest down, each fit starting from the last, until the held-out loss rises. The penalty with the
best held-out top-1, the reported metric, is fitted to all training samples; the loss breaks ties.
Each seed holds out another fifth. The final classifier scores the test features once.

For tags, each class has a logistic regression of its own, all with one penalty, and mean average
precision replaces top-1.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mezzotint.data.listing.sampling import held_out
from mezzotint.evaluation.logistic import EVEN, Curvature, Fit, fit
from mezzotint.evaluation.metrics import classification, labeled, learnable
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.types import Features

_STEPS_A_DECADE = 2


class Linear(Probe):
    """Fit multinomial logistic regression to frozen features.

    Args:
        validation: fraction of the training samples on which the penalty is chosen.
        max_l2: largest L2 penalty, tried first; per sample, on features of unit mean square.
        min_l2: smallest L2 penalty, tried last.
        tolerance: each fit stops when its loss is provably this close to the minimum, in nats.
        max_evaluations: passes over the features after which a fit stops anyway, with a warning;
            the row `gap` has its distance.
    """

    name: ClassVar[str] = "linear"
    kinds = ("classify", "tag")

    def __init__(
        self,
        *,
        validation: float = 0.2,
        max_l2: float = 10.0,
        min_l2: float = 1e-6,
        tolerance: float = 1e-3,
        max_evaluations: int = 1000,
    ) -> None:
        if not 0.0 < min_l2 <= max_l2:
            raise ValueError(
                "`max_l2` must be positive and `min_l2` positive and at most `max_l2`, got "
                f"max_l2={max_l2} and min_l2={min_l2}. Without a penalty separable classes have no "
                "optimum."
            )
        if not 0.0 < validation < 1.0:
            raise ValueError(
                f"`validation` must be between 0 and 1, got {validation}. 0.2 is a fifth."
            )
        if tolerance <= 0 or max_evaluations < 1:
            raise ValueError(
                "`tolerance` must be positive and `max_evaluations` must be 1 or more, got "
                f"tolerance={tolerance} and max_evaluations={max_evaluations}. Try 1e-3 and 1000."
            )
        self.validation, self.max_l2, self.min_l2 = validation, max_l2, min_l2
        self.tolerance, self.max_evaluations = tolerance, max_evaluations

    @property
    def protocol(self) -> Protocol:
        """`linear/1` and all settings."""
        return Protocol.of(
            "linear",
            scale="global",
            select="top1",
            validation=float(self.validation),
            penalty=f"{self.max_l2:g}..{self.min_l2:g}",
            steps=_STEPS_A_DECADE,
            tolerance=float(self.tolerance),
            passes=self.max_evaluations,
        )

    def run(self, train: Features, test: Features, *, seeds: int = 1) -> Iterator[Row]:
        """Yield `top1`, from eleven classes on `top5`, `mean_per_class`, `penalty` and `gap`.

        For tags `map`, the mean average precision over classes, and `auc` instead.
        """
        yield from self.scored(self.heads(train, seeds=seeds), test)

    def heads(self, train: Features, *, seeds: int = 1) -> list["Head"]:
        """Fit one classifier per seed; needs no test features."""
        x, names, y = learnable(train)
        scaling = Scaling.of(x)
        problem = _Problem(scaling(x), y, len(names))
        fits: dict[float, Fit] = {}
        made = []
        for seed in range(seeds):
            penalty, start = self._select(problem, seed)
            # Seeds differ in what they hold out; where they choose one penalty, the fit is the
            # same.
            if penalty not in fits:
                fits[penalty] = problem.fit(penalty, self.tolerance, self.max_evaluations, start)
            fitted = fits[penalty]
            if not fitted.converged:
                warnings.warn(
                    f"The linear probe stopped up to {fitted.gap:.1e} nats above its minimum; the "
                    f"tolerance is {self.tolerance:.1e}. Raise `max_evaluations` (now "
                    f"{self.max_evaluations}) or `min_l2`.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            made.append(Head(scaling, fitted, names, penalty, seed))
        return made

    def scored(self, heads: Sequence["Head"], test: Features) -> Iterator[Row]:
        """Score fitted classifiers on test features."""
        queries, answers = labeled(test, "test")
        for head in heads:
            scores = list(classification(head.logits(queries), head.names, answers))
            protocol = self.protocol.with_settings(select=scores[0][0])
            for measure, value in (*scores, ("penalty", head.penalty), ("gap", head.fit.gap)):
                yield replace(self.row(measure, value, head.seed), protocol=protocol)

    def _select(self, problem: "_Problem", seed: int) -> tuple[float, Fit | None]:
        """Choose the penalty with the best held-out top-1; return it and its fit."""
        strata = (
            problem.y
            if problem.y.ndim == 1
            else problem.y.new_zeros(len(problem.y), dtype=torch.int64)
        )
        out = torch.from_numpy(held_out(strata.cpu().numpy(), self.validation, f"linear/{seed}"))
        if not out.any():  # one sample per class: nothing to hold out, the largest penalty is safe
            return self.max_l2, None
        out = out.to(problem.x.device)
        rest = _Problem(problem.x[~out], problem.y[~out], problem.num_classes, problem.curvature)
        x, y = problem.x[out], problem.y[out]
        candidates: list[tuple[float, float, float, Fit]] = []
        last: Fit | None = None
        for penalty in penalty_grid(self.max_l2, self.min_l2):
            last = rest.fit(penalty, self.tolerance, self.max_evaluations, last)
            logits = last.logits(x)
            if y.ndim == 1:
                errors = float((logits.argmax(dim=1) != y).sum())
                loss = cross_entropy(logits, y).item()
            else:
                errors = -dict(classification(logits, torch.arange(y.shape[1]), y))["map"]
                loss = binary_cross_entropy_with_logits(logits, y.to(logits.dtype)).item()
            candidates.append((errors, loss, penalty, last))
            if loss > min(loss for _, loss, _, _ in candidates):
                break
        return min(candidates, key=lambda entry: entry[:2])[2:]


def penalty_grid(largest: float, smallest: float) -> list[float]:
    """Return penalties from the largest to the smallest, two per decade."""
    grid = [largest]
    while grid[-1] > smallest * 1.0001:
        grid.append(max(smallest, largest * 10.0 ** (-len(grid) / _STEPS_A_DECADE)))
    return grid


@dataclass(frozen=True)
class Scaling:
    """Centering and scaling of features before the probe, fitted on training features.

    Attributes:
        mean: `[D]`.
        scale: one number: the root mean square of the centered features.
        basis: `[D, N]`, orthonormal columns that span the training samples, if they are fewer than
            the features: the penalty keeps the weights in that span, so the smaller problem has the
            same solution.
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, x: Tensor) -> "Scaling":
        """Fit to features `[N, D]`."""
        mean = x.mean(dim=0)
        centered = x - mean
        scale = centered.square().mean().sqrt()
        # A collapsed encoder has constant features; they stay zero instead of NaN.
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        basis = torch.linalg.qr(centered.T).Q if x.shape[0] < x.shape[1] else None
        return cls(mean, scale, basis)

    def __call__(self, x: Tensor) -> Tensor:
        """`[M, D]` → `[M, min(N, D)]`."""
        x = (x - self.mean) / self.scale
        return x if self.basis is None else x @ self.basis


@dataclass(frozen=True)
class Head:
    """A fitted classifier.

    Attributes:
        scaling: fitted on the training features.
        fit: weights and biases on scaled features.
        names: int64 `[C]`, the label of each class.
        penalty: chosen penalty.
        seed: seed of the held-out samples.
    """

    scaling: Scaling
    fit: Fit
    names: Tensor
    penalty: float
    seed: int

    def logits(self, x: Tensor) -> Tensor:
        """Features `[N, D]` as the encoder gives them → `[N, C]`."""
        return self.fit.logits(self.scaling(x))


class _Problem:
    """Scaled training samples, and the curvature that fits of several penalties share."""

    def __init__(
        self, x: Tensor, y: Tensor, num_classes: int, curvature: Curvature | None = None
    ) -> None:
        self.x, self.y, self.num_classes = x, y, num_classes
        even = num_classes if y.ndim == 1 else EVEN
        self.curvature = Curvature(x, even) if curvature is None else curvature

    def fit(self, penalty: float, tolerance: float, max_evaluations: int, start: Fit | None) -> Fit:
        return fit(
            self.x,
            self.y,
            self.num_classes,
            penalty,
            curvature=self.curvature,
            start=start,
            tolerance=tolerance,
            max_evaluations=max_evaluations,
        )
