"""Which invariances an encoder learned: how well what was drawn for a view can be told from the view's features.

A method that contrasts views asks for features that are the same whatever was drawn. A parameter
that cannot be predicted from them has been made invisible; one that can, such as the place of a
crop, is still there. Neither is good or bad by itself: which one a task needs is the question (Xiao
et al. 2021, arXiv 2008.05659, section 3).

Protocol `invariance/1`: the views of some samples, as training makes them in its first epoch; half
of the samples to learn from, the other half to be scored. Ridge regression on the features, centered
and scaled as a whole, with the strength that has the least leave-one-out error on the first half,
which has a closed form. Of numbers R² on the second half (1 is exact, 0 as good as their mean, less
than 0 is worse); of choices the balanced accuracy, the mean over the choices, of the nearest mean
of the predictions: chance is 1 over their number, however often each was drawn.
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
from mezzotint.evaluation.features import extract, raw_features
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation
from mezzotint.evaluation.view_parameters import Drawn, drawn_values, joined, varies
from mezzotint.seeding import sample_order
from mezzotint.types import Input

PROBE = "invariance"
_AT_A_TIME = 128
_LEAST = 40
"""Views of either half that a parameter has to be there for."""
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
    """Predict what was drawn for views from their features.

    Args:
        encoder: is not changed.
        source: of the samples.
        views: whose parameters are in question; those of the size that the encoder takes.
        untrained: makes the encoder with fresh weights from a seed.
        samples: how many, at most.
        seeds: repeats, each with samples, draws and an untrained encoder of its own.

    Returns:
        Rows with the metrics `views/NAME.r2` and `views/NAME.accuracy`; and the same of the views'
        pixels (or other values), and of untrained encoders.

    Raises:
        ValueError: when there are too few samples, or no view is of the encoder's size.
    """
    if samples < 4 * _LEAST or len(source) < 4 * _LEAST:
        raise ValueError(
            f"got samples={samples} of {len(source)}; allowed is {4 * _LEAST} or more: half of them are held out"
        )
    rows: list[Row] = []
    raw: list[Row] = []
    fresh: list[Row] = []
    for seed in range(seeds):
        others = [] if untrained is None else [untrained(seed)]
        drawn, first, features = _seen(
            [encoder, *others], source, views, encoder.input, samples, seed
        )
        how = Protocol.of(
            "invariance",
            views=str(views.config["kind"]),
            samples=samples,
            strengths="1e-6..1e2",
        )
        for found, x in zip((raw, rows, fresh), features, strict=False):
            found += list(_rows(x, drawn, first, seed, how))
    return rows, Baselines(raw, fresh)


def with_invariances(
    evaluation: Evaluation, beside: Baselines, found: tuple[list[Row], Baselines]
) -> tuple[Evaluation, Baselines]:
    """An evaluation and its baselines, with the rows of this measure in place of earlier ones."""

    def merged(old: list[Row], new: list[Row]) -> list[Row]:
        return [*(row for row in old if row.probe != PROBE), *new]

    rows, others = found
    both = Baselines(merged(beside.raw, others.raw), merged(beside.untrained, others.untrained))
    return dataclasses.replace(evaluation, rows=merged(evaluation.rows, rows)), both


def _seen(
    encoders: list[Encoder],
    source: Source,
    views: ViewGenerator,
    input: Input,
    samples: int,
    seed: int,
) -> tuple[dict[str, Drawn], Tensor, list[Tensor]]:
    """What was drawn; which views are of the half to learn from; and features: raw, then of each encoder."""
    order = sample_order(len(source), seed, 0)[:samples]
    parts: list[dict[str, Drawn]] = []
    first: list[Tensor] = []
    features: list[list[Tensor]] = [[] for _ in range(1 + len(encoders))]
    for start in range(0, len(order), _AT_A_TIME):
        ids = order[start : start + _AT_A_TIME]
        batch, boxes = view_batch(source, views, ids, input=input, seed=seed)
        if not len(batch.ids):
            continue
        rendered = views.render(batch, ViewContext(input, seed, 0), normalized=False)
        drawn = views.draw(batch.ids, ViewContext(input, seed, 0))
        half = torch.isin(batch.ids, order[: len(order) // 2])
        for place, x in enumerate(rendered):
            if tuple(x.shape[1:]) != input.shape or not any(drawn[place].values()):
                continue
            held = _Views(x, input)
            parts.append(drawn_values(drawn[place], None if boxes is None else boxes[:, place]))
            first.append(half)
            features[0].append(raw_features(held).x)
            for column, encoder in zip(features[1:], encoders, strict=True):
                column.append(extract(encoder, held))
    if not parts:
        raise ValueError(
            f"got views of which none is of the shape {input.shape} with parameters; allowed is one or more: "
            "masks are drawn by the method, and cannot be asked for"
        )
    return joined(parts), torch.cat(first), [torch.cat(column) for column in features]


class _Views(InMemory):
    """Views as samples."""

    def __init__(self, x: Tensor, input: Input) -> None:
        self.images, self.input, self.ids = x, input, "view"


def _rows(
    x: Tensor, drawn: dict[str, Drawn], first: Tensor, seed: int, how: Protocol
) -> Iterator[Row]:
    solved: dict[bytes, Ridge] = {}
    for name, parameter in drawn.items():
        if not (varies(parameter, first, _LEAST) and varies(parameter, ~first, _LEAST)):
            continue
        train, test = parameter.there & first, parameter.there & ~first
        key = train.numpy().tobytes()
        ridge = solved[key] = solved.get(key) or Ridge(x[train])
        score, measure = (accuracy, "accuracy") if parameter.is_choice else (r_squared, "r2")
        value = score(ridge, parameter.values[train], x[test], parameter.values[test])
        protocol = dataclasses.replace(how, train=int(train.sum()), test=int(test.sum()))
        yield Row(
            probe=PROBE, metric=f"views/{name}.{measure}", value=value, protocol=protocol, seed=seed
        )


class Ridge:
    """Ridge regression for any targets of the same samples; the features are decomposed once.

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
        """Targets float64 `[N, K]` → weights `[D, K]`, their mean `[K]`, leave-one-out predictions `[N, K]`.

        The strength is the one with the least leave-one-out error, relative to each target's
        variance.
        """
        mean = y.mean(dim=0)
        turned = self.u.T @ (y - mean)
        spread = (y - mean).square().mean(dim=0).clamp(min=1e-30)
        best: tuple[float, Tensor, Tensor] | None = None
        for strength in _STRENGTHS:
            kept = self.s.square() / (self.s.square() + strength * len(y))
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
    """Singular vectors and values `[N, R]`, `[R]`, `[D, R]`, from the smaller Gram matrix, which is faster.

    Directions of less than a millionth of the largest value are left out; ridge regression hardly
    uses them.
    """
    wide = x.shape[1] > x.shape[0]
    squares, vectors = torch.linalg.eigh(x @ x.T if wide else x.T @ x)
    kept = squares > 1e-12 * squares[-1].clamp(min=1e-300)
    s, vectors = squares[kept].sqrt(), vectors[:, kept]
    return (vectors, s, x.T @ vectors / s) if wide else (x @ vectors / s, s, vectors)


def r_squared(ridge: Ridge, y: Tensor, x: Tensor, truth: Tensor) -> float:
    """R² on features that were held out; of several numbers, of their summed squares, each over its variance.

    Args:
        ridge: of the features to learn from.
        y: their targets, float64 `[N, K]`.
        x: features that were held out.
        truth: their targets.
    """
    varied = truth.std(dim=0) > 1e-9
    weights, mean, _ = ridge.fit(y[:, varied])
    wrong = (ridge.predict(x, weights, mean) - truth[:, varied]).square().mean(dim=0)
    return 1.0 - float((wrong / truth[:, varied].var(dim=0, correction=0)).mean())


def accuracy(ridge: Ridge, y: Tensor, x: Tensor, truth: Tensor) -> float:
    """Balanced accuracy on features that were held out: the mean over the choices, by the nearest mean prediction.

    Args:
        ridge: of the features to learn from.
        y: their choices, int64 `[N]`.
        x: features that were held out.
        truth: their choices.
    """
    names, places = torch.unique(y, return_inverse=True)
    weights, mean, left_out = ridge.fit(one_hot(places).double())
    centers = torch.stack([left_out[places == place].mean(dim=0) for place in range(len(names))])
    guesses = names[torch.cdist(ridge.predict(x, weights, mean), centers).argmin(dim=1)]
    known = [name for name in names.tolist() if bool((truth == name).any())]
    return sum(float((guesses[truth == name] == name).double().mean()) for name in known) / len(
        known
    )
