"""Invariances: against scikit-learn, and on encoders that keep known parameters."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from torch import Tensor

from mezzotint.augment.image.color import ColorJitter
from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import Policy
from mezzotint.augment.image.views import TwoViews
from mezzotint.augment.series import SeriesScale
from mezzotint.augment.views import Transformed
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.series.embedded import Smartwatch
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.invariance import (
    _STRENGTHS,
    Ridge,
    accuracy,
    invariances,
    r_squared,
    with_invariances,
)
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.evaluation.results import Baselines, Evaluation
from mezzotint.types import Input


class Tells(Encoder):
    """Features that keep the mean color, and nothing else."""

    def __init__(self, input: Input) -> None:
        super().__init__(input, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class Noise(Encoder):
    """Features that keep nothing."""

    def __init__(self, input: Input, seed: int = 0) -> None:
        super().__init__(input, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 3, generator=torch.Generator().manual_seed(len(x)))


def rows_of(rows: list[Row]) -> dict[str, float]:
    return {row.metric.removeprefix("views/"): row.value for row in rows}


@pytest.mark.parametrize("shape", [(120, 9), (60, 90)])
def test_ridge_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) @ np.diag(np.geomspace(1.0, 1e-2, shape[1])) + 3.0
    y = x[:, :2] @ np.array([[1.0], [-2.0]]) + rng.normal(size=(shape[0], 1))
    test = rng.normal(size=(40, shape[1])) + 3.0
    ridge = Ridge(torch.from_numpy(x))
    weights, mean, left_out = ridge.fit(torch.from_numpy(y))
    center, scale = x.mean(0), (x - x.mean(0)).std()
    other = RidgeCV(alphas=[s * len(x) for s in _STRENGTHS], store_cv_results=True).fit(
        (x - center) / scale, y[:, 0]
    )
    assert np.allclose(
        ridge.predict(torch.from_numpy(test), weights, mean)[:, 0],
        other.predict((test - center) / scale),
    )
    best = int(np.argmin(other.cv_results_.mean(axis=0)))
    assert np.allclose((left_out - torch.from_numpy(y)).square()[:, 0], other.cv_results_[:, best])


def test_scores_are_r_squared_and_balanced_accuracy() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=rng, dtype=torch.float64)
    y = x[:, :2] + torch.randn(400, 2, generator=rng, dtype=torch.float64)
    ridge = Ridge(x[:200])
    weights, mean, _ = ridge.fit(y[:200])
    expected = r2_score(y[200:].numpy(), ridge.predict(x[200:], weights, mean).numpy())
    assert r_squared(ridge, y[:200], x[200:], y[200:]) == pytest.approx(expected)
    rare = (x[:, 0] > 1.0).long()  # one in six
    assert accuracy(ridge, rare[:200], x[200:], rare[200:]) > 0.85
    other = torch.randint(0, 3, (400,), generator=rng)
    assert abs(accuracy(ridge, other[:200], x[200:], other[200:]) - 1 / 3) < 0.1
    assert accuracy(ridge, rare[:200], x[:200], rare[:200]) == pytest.approx(
        balanced_accuracy_score(rare[:200], _guesses(ridge, rare[:200], x[:200]))
    )


def _guesses(ridge: Ridge, y: Tensor, x: Tensor) -> Tensor:
    weights, mean, left_out = ridge.fit(torch.stack([1.0 - y.double(), y.double()], dim=1))
    score, means = ridge.predict(x, weights, mean)[:, 1], left_out[:, 1]
    return (score > (means[y == 1].mean() + means[y == 0].mean()) / 2).long()


def test_what_an_encoder_keeps_is_found_and_what_it_lost_is_not() -> None:
    source = EmbeddedImages(name="emoji")
    jitter = Policy(
        transforms=[ColorJitter(brightness=0.6, contrast=0.0, saturation=0.0, hue=0.0, p=1.0)]
    )
    views = TwoViews(policy=jitter, crop=RandomResizedCrop(scale=(0.2, 1.0)), flip=0.5)
    rows, compared = invariances(
        Tells(source.input), source, views, untrained=lambda s: Noise(source.input), samples=400
    )
    kept, lost = rows_of(rows), rows_of(compared.untrained)
    assert (
        kept["color_jitter.brightness.r2"] > 0.4
        and kept["color_jitter.brightness.r2"] > kept["crop.across.r2"] + 0.3
    )
    assert abs(lost["color_jitter.brightness.r2"]) < 0.1 and abs(lost["flip.accuracy"] - 0.5) < 0.08
    assert (
        "color_jitter.accuracy" not in kept and "color_jitter.hue.r2" not in kept
    )  # always, and never
    assert {row.seed for row in rows} == {0, 1, 2} and str(rows[0].protocol).endswith(
        "train=400 test=400"
    )
    assert set(kept) == set(lost) == set(rows_of(compared.raw))


def test_any_modality_and_too_few_samples() -> None:
    watch = Smartwatch()
    views = Transformed(transforms=[SeriesScale(std=0.5)])

    class Spread(Encoder):
        def forward(self, x: Tensor) -> Tensor:
            return x.std(dim=2)

    rows, _ = invariances(
        Spread(watch.input, watch.input.shape[0]), watch, views, samples=200, seeds=1
    )
    assert rows_of(rows)["series_scale.factors.r2"] > 0.1
    with pytest.raises(
        ValueError,
        match="`samples` must be 160 or more, because half are scored, got 100. Raise it.",
    ):
        invariances(Tells(watch.input), watch, views, samples=100)


def test_earlier_rows_are_replaced_and_others_stay() -> None:
    old = [
        Row(probe="knn", metric="a/top1", value=0.5, protocol=Protocol(probe="p")),
        Row(probe="invariance", metric="views/x.r2", value=0.1, protocol=Protocol(probe="p")),
    ]
    new = [Row(probe="invariance", metric="views/x.r2", value=0.9, protocol=Protocol(probe="p"))]
    evaluation, compared = with_invariances(
        Evaluation(old, "healthy"), Baselines(), (new, Baselines(raw=new))
    )
    assert (
        evaluation.rows == [old[0], *new]
        and compared.raw == new
        and evaluation.verdict == "healthy"
    )


def test_the_verb_writes_rows_into_the_evaluation(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from mezzotint.cli import app
    from mezzotint.evaluation.results import read_baselines, read_evaluation
    from mezzotint.recipe.recipe import Recipe
    from mezzotint.train.loop import pretrain

    tiny = [
        "data.name=digits",
        "encoder.width=4",
        "encoder.stem=small",
        "run.epochs=1",
        "run.log.knn_epochs=0",
    ]
    run = pretrain(Recipe.load("image/emoji_simclr", tiny), tmp_path / "run", progress="quiet")
    result = CliRunner().invoke(
        app, ["invariances", str(run), "--samples", "200", "--seeds", "1"], catch_exceptions=False
    )
    assert result.exit_code == 0 and "crop.area" in result.output
    assert {row.probe for row in read_evaluation(run)} == {"invariance"}
    assert {row.metric for row in read_baselines(run).untrained} == {
        row.metric for row in read_evaluation(run)
    }
    assert "crop.area" in (run / "report.html").read_text(encoding="utf-8")
