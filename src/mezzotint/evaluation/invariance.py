"""Which invariances an encoder learned: how well a view's augmentation parameters can be predicted.

A method that contrasts views wants features that are the same for all augmentations. A parameter
that cannot be predicted from the features is invisible to the encoder; one that can, such as the
position of a crop, is not. Neither is good or bad by itself: the task decides (Xiao et al. 2021,
arXiv 2008.05659, section 3).

Protocol `invariance/1`: the views of some samples, as training makes them in its first epoch; half
of the samples to learn from, half to score. Ridge regression on the features, centered and scaled
as a whole; the penalty minimizes the leave-one-out error on the first half, which has a closed
form. Numbers are scored by R² on the second half (1 is exact, 0 as good as the mean, negative is
worse); choices by balanced accuracy of the nearest mean prediction: chance is 1 over the number of
choices, however often each was drawn.
"""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.memory import InMemory
from mezzotint.data.source import Source
from mezzotint.data.view_batch import view_batch
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation import progress
from mezzotint.evaluation.features import extract, raw_features
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation
from mezzotint.evaluation.view_parameters import Drawn, drawn_values, joined, varies
from mezzotint.seeding import sample_order
from mezzotint.types import Input

PROBE = "invariance"
_BATCH_SIZE = 128
_MIN_VIEWS = 40
"""Views of either half in which a parameter must be defined."""
_STRENGTHS = tuple(10.0 ** (power / 2.0) for power in range(-12, 5))


def invariances(
    encoder: Encoder,
    source: Source,
    views: ViewGenerator,
    *,
    untrained: Callable[[int], Encoder] | None = None,
    samples: int = 2000,
    seeds: int = 3,
) -> tuple[list[Row], Baselines]:
    """Predict the augmentation parameters of views from their features.

    Args:
        encoder: encoder, which is not changed.
        source: source of the samples.
        views: view generator whose parameters are predicted, for views of the encoder's size.
        untrained: makes the encoder with untrained weights from a seed.
        samples: largest number of samples.
        seeds: number of repeats, each with its own samples, draws and untrained encoder.

    Returns:
        Rows with the metrics `views/NAME.r2` and `views/NAME.accuracy`, and the same for the views'
        raw values and for untrained encoders.

    Raises:
        ValueError: when there are too few samples, or no view is of the encoder's size.
    """
    if samples < 4 * _MIN_VIEWS or len(source) < 4 * _MIN_VIEWS:
        raise ValueError(
            f"`samples` must be {4 * _MIN_VIEWS} or more, because half are scored, got "
            f"{min(samples, len(source))}. "
            + ("Raise it." if len(source) >= 4 * _MIN_VIEWS else "Use more data: it has no more.")
        )
    rows: list[Row] = []
    raw: list[Row] = []
    fresh: list[Row] = []
    for seed in range(seeds):
        others = [] if untrained is None else [untrained(seed)]
        with progress.part(f"views and their features, repeat {seed + 1} of {seeds}"):
            drawn, first, features = _drawn_and_features(
                [encoder, *others], source, views, encoder.input, samples, seed
            )
        how = Protocol.of(
            "invariance",
            views=str(views.config["kind"]),
            samples=samples,
            strengths="1e-6..1e2",
        )
        with progress.part(f"parameters of the views, repeat {seed + 1} of {seeds}"):
            for collected, x in zip((raw, rows, fresh), features, strict=False):
                collected += list(_rows(x, drawn, first, seed, how))
    return rows, Baselines(raw, fresh)


def with_invariances(
    evaluation: Evaluation, baselines: Baselines, measured: tuple[list[Row], Baselines]
) -> tuple[Evaluation, Baselines]:
    """Return an evaluation and its baselines with these rows instead of earlier ones."""

    def merged(old: list[Row], new: list[Row]) -> list[Row]:
        return [*(row for row in old if row.probe != PROBE), *new]

    rows, others = measured
    raw = merged(baselines.raw, others.raw)
    untrained = merged(baselines.untrained, others.untrained)
    evaluation = dataclasses.replace(evaluation, rows=merged(evaluation.rows, rows))
    return evaluation, dataclasses.replace(baselines, raw=raw, untrained=untrained)


def _drawn_and_features(
    encoders: list[Encoder],
    source: Source,
    views: ViewGenerator,
    input: Input,
    samples: int,
    seed: int,
) -> tuple[dict[str, Drawn], Tensor, list[Tensor]]:
    """Return drawn parameters, training half of the views, and features: raw, each encoder's."""
    order = sample_order(len(source), seed, 0, stop=samples)
    parts: list[dict[str, Drawn]] = []
    first: list[Tensor] = []
    features: list[list[Tensor]] = [[] for _ in range(1 + len(encoders))]
    for start in range(0, len(order), _BATCH_SIZE):
        ids = order[start : start + _BATCH_SIZE]
        batch, boxes = view_batch(source, views, ids, input=input, seed=seed)
        if not len(batch.ids):
            continue
        rendered = views.render(batch, ViewContext(input, seed, 0), normalized=False)
        drawn = views.draw(batch.ids, ViewContext(input, seed, 0))
        # By sample and not by view: views of one sample must not be on both sides.
        half = torch.isin(batch.ids, order[: len(order) // 2])
        for view, x in enumerate(rendered):
            if tuple(x.shape[1:]) != input.shape or not any(drawn[view].values()):
                continue
            in_memory = _Views(x, input)
            parts.append(drawn_values(drawn[view], None if boxes is None else boxes[:, view]))
            first.append(half)
            features[0].append(raw_features(in_memory).x)
            for column, encoder in zip(features[1:], encoders, strict=True):
                column.append(extract(encoder, in_memory))
    if not parts:
        raise ValueError(
            f"No view has the shape {input.shape} and augmentation parameters. Choose views with "
            "augmentations; masks are drawn by the method and cannot be predicted here."
        )
    return joined(parts), torch.cat(first), [torch.cat(column) for column in features]


class _Views(InMemory):
    """Rendered views as a source in memory."""

    def __init__(self, x: Tensor, input: Input) -> None:
        self.images, self.input, self.ids = x, input, "view"


def _rows(
    x: Tensor, drawn: dict[str, Drawn], first: Tensor, seed: int, how: Protocol
) -> Iterator[Row]:
    solved: dict[bytes, Ridge] = {}
    for name, parameter in drawn.items():
        if not (varies(parameter, first, _MIN_VIEWS) and varies(parameter, ~first, _MIN_VIEWS)):
            continue
        train, test = parameter.defined & first, parameter.defined & ~first
        # Most parameters are defined for the same views, so one decomposition serves them all.
        key = train.numpy().tobytes()
        ridge = solved[key] = solved.get(key) or Ridge(x[train])
        score, measure = (accuracy, "accuracy") if parameter.is_choice else (r_squared, "r2")
        value = score(ridge, parameter.values[train], x[test], parameter.values[test])
        protocol = dataclasses.replace(how, train=int(train.sum()), test=int(test.sum()))
        yield Row(
            probe=PROBE, metric=f"views/{name}.{measure}", value=value, protocol=protocol, seed=seed
        )


class Ridge:
    """Fit ridge regression to any targets of the same samples; the features are decomposed once.

    Args:
        x: features `[N, D]`.
    """

    def __init__(self, x: Tensor) -> None:
        x = x.double()
        self.mean = x.mean(dim=0)
        centered = x - self.mean
        self.scale = centered.square().mean().sqrt().clamp(min=1e-12)
        self.u, self.s, self.v = _decomposed(centered / self.scale)

    def fit(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fit targets float64 `[N, K]`.

        Returns:
            Weights `[D, K]`, mean `[K]`, and leave-one-out predictions `[N, K]`, whose error
            relative to each target's variance the penalty minimizes.
        """
        mean = y.mean(dim=0)
        turned = self.u.T @ (y - mean)
        spread = (y - mean).square().mean(dim=0).clamp(min=1e-30)
        best: tuple[float, Tensor, Tensor] | None = None
        for strength in _STRENGTHS:
            kept = self.s.square() / (self.s.square() + strength * len(y))
            # The exact leave-one-out residual of ridge regression is the residual over 1 −
            # leverage.
            leverage = (self.u.square() @ kept + 1.0 / len(y)).clamp(max=1.0 - 1e-9)
            residual = (y - mean - self.u @ (kept.unsqueeze(1) * turned)) / (
                1.0 - leverage
            ).unsqueeze(1)
            error = float((residual.square().mean(dim=0) / spread).mean())
            if best is None or error < best[0]:
                shrunk = kept / self.s.clamp(min=1e-12)
                best = error, self.v @ (shrunk.unsqueeze(1) * turned), y - residual
        assert best is not None
        return best[1], mean, best[2]

    def predict(self, x: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
        """Predictions `[M, K]` for features `[M, D]`."""
        return (x.double() - self.mean) / self.scale @ weights + mean


def _decomposed(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return singular vectors and values `[N, R]`, `[R]`, `[D, R]`, from the smaller Gram matrix.

    Singular values below a millionth of the largest are left out, as they hardly matter.
    """
    wide = x.shape[1] > x.shape[0]
    squares, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > 1e-12 * squares[-1].clamp(min=1e-300)
    s, vectors = squares[kept].sqrt(), vectors[:, kept]
    return (vectors, s, x.T @ vectors / s) if wide else (x @ vectors / s, s, vectors)


def r_squared(ridge: Ridge, y: Tensor, x: Tensor, truth: Tensor) -> float:
    """Return R² on held-out features; of several numbers, the mean over them.

    Args:
        ridge: ridge regression on the training features.
        y: their targets, float64 `[N, K]`.
        x: held-out features.
        truth: targets of the held-out features.
    """
    varied = truth.std(dim=0) > 1e-9
    weights, mean, _ = ridge.fit(y[:, varied])
    errors = (ridge.predict(x, weights, mean) - truth[:, varied]).square().mean(dim=0)
    return 1.0 - float((errors / truth[:, varied].var(dim=0, correction=0)).mean())


def accuracy(ridge: Ridge, y: Tensor, x: Tensor, truth: Tensor) -> float:
    """Return balanced accuracy on held-out features, by the nearest mean prediction.

    Args:
        ridge: ridge regression on the training features.
        y: their choices, int64 `[N]`.
        x: held-out features.
        truth: choices of the held-out features.
    """
    names, members = torch.unique(y, return_inverse=True)
    weights, mean, left_out = ridge.fit(one_hot(members).double())
    # Of left-out predictions: fitted ones lie nearer to their targets than those of new samples.
    centers = torch.stack([left_out[members == c].mean(dim=0) for c in range(len(names))])
    predicted = names[torch.cdist(ridge.predict(x, weights, mean), centers).argmin(dim=1)]
    known = [name for name in names.tolist() if bool((truth == name).any())]
    recalls = [float((predicted[truth == name] == name).double().mean()) for name in known]
    return sum(recalls) / len(known)
