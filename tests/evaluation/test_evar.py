"""BYOL-A's and EVAR's probe: against scikit-learn's scaler and a naive loop; stopping, folds."""

import re

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mezzotint.data.source import Task
from mezzotint.evaluation.evar import EVAR, _Standard, byol_a_linear
from mezzotint.evaluation.features import Extraction
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.probe import Row
from mezzotint.evaluation.suite import measure, over_folds
from mezzotint.recipe.schema import construct, resolve
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features


def blobs(count: int, seed: int = 0, scale: float = 1.0) -> Features:
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=torch.Generator().manual_seed(99))
    y = torch.randint(3, (count,), generator=g)
    return Features(scale * (centers[y] + 0.8 * torch.randn(count, 8, generator=g)) + 3.0, y)


def value(rows: list[Row], metric: str) -> float:
    return next(row.value for row in rows if row.metric == metric)


def test_standardizes_as_scikit_learn_does() -> None:
    x = blobs(40).x.clone()
    x[:, 2], x[:, 5] = (
        0.1,
        1000.0 * x[:, 5],
    )  # one that is constant but for rounding, one that is large
    expected = StandardScaler().fit(x.double().numpy()).transform(x.double().numpy())
    torch.testing.assert_close(
        _Standard(x)(x), torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        _Standard(x[:20])(x).mean(dim=0)[0], _Standard(x[:20])(x)[:, 0].mean()
    )


def naive(probe: EVAR, x: Tensor, y: Tensor, validation: Tensor, seed: int) -> tuple[Tensor, int]:
    """The weights of the best epoch, with Adam by hand."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_of("evar", seed) & 0x7FFFFFFF)
        layer = torch.nn.Linear(8, 3)
    w = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    ones = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    m, v, step, best, most, kept = torch.zeros_like(w), torch.zeros_like(w), 0, 0, -1.0, w
    own = (~validation).nonzero()[:, 0]
    for epoch in range(1, probe.epochs + 1):
        for rows in torch.split(
            sample_order(len(own), seed, epoch), min(probe.batch_size, len(own))
        ):
            a, b = ones[own[rows]], y[own[rows]]
            gradient = ((a @ w.T).softmax(dim=1) - torch.eye(3)[b]).T @ a / len(
                a
            ) + probe.weight_decay * w
            step += 1
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            w = w - probe.lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        accuracy = float(((ones[validation] @ w.T).argmax(dim=1) == y[validation]).float().mean())
        if accuracy > most:
            most, best, kept = accuracy, epoch, w
        elif epoch - best >= probe.patience:
            break
    return kept, best


def test_trains_as_a_naive_loop_and_keeps_the_best_epoch() -> None:
    data, probe = blobs(70), EVAR(lr=3e-3, batch_size=16, epochs=40, patience=4, weight_decay=1e-3)
    assert data.y is not None
    validation = probe._validation(data, data.y, 1)
    assert validation is not None and 5 <= validation.sum() <= 9
    x = _Standard(data.x[~validation])(data.x)
    head, best = probe._fit(x, data.y, 3, validation, 1)
    expected, epoch = naive(probe, x, data.y, validation, 1)
    assert best == epoch < 40
    torch.testing.assert_close(
        torch.cat([head.weight, head.bias[:, None]], dim=1), expected, atol=1e-4, rtol=1e-3
    )


def test_stops_on_the_validation_part_that_the_data_says() -> None:
    train, test = blobs(120), blobs(200, seed=1)
    assert train.y is not None
    chosen = torch.arange(120) < 30
    said = Features(train.x, train.y, chosen)
    assert torch.equal(EVAR()._validation(said, train.y, 0), chosen)  # type: ignore[arg-type]
    wrong = Features(train.x, torch.where(chosen, (train.y + 1) % 3, train.y), chosen)
    fair, spoilt = (list(EVAR(lr=5e-2, batch_size=16).run(part, test)) for part in (said, wrong))
    assert value(fair, "top1") > 0.8
    assert value(spoilt, "top1") < value(fair, "top1")  # stopped where it suits the wrong labels
    rows = said[torch.tensor([0, 50])]
    assert rows.validation is not None and rows.validation.tolist() == [True, False]


def test_repeats_scale_and_one_sample_a_class() -> None:
    train, test = blobs(150), blobs(300, seed=1)
    rows = list(EVAR(lr=1e-2).run(train, test, seeds=3))
    tops = [row.value for row in rows if row.metric == "top1"]
    assert [row.seed for row in rows if row.metric == "top1"] == [0, 1, 2] and min(tops) > 0.75
    larger = list(EVAR(lr=1e-2).run(blobs(150, scale=100.0), blobs(300, seed=1, scale=100.0)))
    assert (
        abs(value(larger, "top1") - tops[0]) < 0.02
    )  # the scale of features does not matter, as it does to SGD
    one = Features(torch.eye(3, 8), torch.arange(3))
    assert value(list(EVAR(lr=1e-2, epochs=150).run(one, one)), "top1") == 1.0


def test_settings_are_those_published_and_can_be_named() -> None:
    assert "lr=0.001 batch=200 epochs=200 patience=10 wd=0 " in str(byol_a_linear().protocol)
    assert "lr=0.0003 batch=200 epochs=200 patience=20 wd=1e-08" in str(EVAR().protocol)
    for kind, title in (("evar", "evar/1"), ("byol_a_linear", "byol_a_linear/1")):
        probe = construct(resolve({"kind": kind}, "Probe", "probe"), "Probe", {})
        assert str(probe.protocol).startswith(title)
    with pytest.raises(ValueError, match="`lr` must be positive, .* got lr=0.0"):
        EVAR(lr=0.0)
    with pytest.raises(ValueError, match="contain NaN or inf"):
        list(EVAR().run(Features(torch.full((4, 2), torch.nan), torch.arange(4)), blobs(4)))


def test_folds_are_averaged_and_a_fixed_validation_part_reaches_the_probe() -> None:
    data = blobs(90)
    assert data.y is not None
    labels, fold = data.y.numpy(), np.arange(90) % 3
    tasks = [
        Task(
            f"label/fold-{f}",
            "classify",
            labels,
            (fold != f).nonzero()[0],
            (fold == f).nonzero()[0],
            "abc",
        )
        for f in range(3)
    ]
    rows = list(
        measure(Extraction(data.x, torch.arange(90), ()), tasks, [EVAR(lr=1e-2), Linear()], 2)
    )
    means = {(r.probe, r.metric, r.seed): r for r in over_folds(rows)}
    for probe in ("evar", "linear"):
        for seed in range(2):
            own = [
                r.value
                for r in rows
                if r.probe == probe and r.seed == seed and re.fullmatch(".*fold-./top1", r.metric)
            ]
            found = means[probe, "label/folds/top1", seed]
            assert len(own) == 3 and found.value == pytest.approx(sum(own) / 3)
            assert str(found.protocol).endswith("folds=3 test=90")
    assert not list(over_folds([row for row in rows if "fold" not in row.metric]))
    seen: list[Features] = []

    class Spy(EVAR):
        def run(self, train: Features, test: Features, *, seeds: int = 1) -> list[Row]:  # type: ignore[override]
            seen.append(train)
            return []

    split = Task(
        "t", "classify", labels, np.arange(60), np.arange(60, 90), "abc", np.arange(50, 60)
    )
    list(
        measure(Extraction(data.x[5:], torch.arange(5, 90), ()), [split], [Spy()], 1)
    )  # the first five unreadable
    assert (
        seen[0].validation is not None and seen[0].validation.tolist() == [False] * 45 + [True] * 10
    )
