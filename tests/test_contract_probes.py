"""The contract of every registered probe, on synthetic features; new probes are included."""

import dataclasses
import json
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.evaluation.metrics import Accuracy
from mezzotint.evaluation.probe import Probe, Row
from mezzotint.evaluation.protocol import Protocol
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.types import Features

NAMES = sorted(index().members("Probe"))
FAST: dict[str, dict[str, Any]] = {
    "attentive": {"epochs": 5},
    "evar": {"lr": 0.05},
    "byol_a_linear": {"lr": 0.05},
}
"""Keys that fit a probe to 48 synthetic samples; a probe needs none."""

FRACTIONS = ("top1", "top5", "mean_per_class", "map", "auc", "rank_ratio")


def probe_of(name: str) -> Probe:
    probe = construct(resolve({"kind": name, **FAST.get(name, {})}, "Probe", "probe"), "Probe", {})
    assert isinstance(probe, Probe)
    return probe


PROBES = {name: probe_of(name) for name in NAMES}
KINDS = [(name, kind) for name, probe in PROBES.items() for kind in probe.kinds or ("none",)]
CLASSIFY = [name for name, kind in KINDS if kind == "classify"]


def features(
    name: str, kind: str, count: int = 48, classes: int = 3, *, seed: int = 0, noise: float = 0.6
) -> Features:
    """Noisy features whose classes lie on the axes; without noise they are perfectly separable."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    if kind == "retrieve":
        y = torch.arange(count)
    x = torch.nn.functional.one_hot(y, max(16, int(y.max()) + 1)).float()
    x = x + noise * torch.randn(x.shape, generator=generator)
    labels: Tensor | None = y
    if kind == "tag":
        labels = torch.stack([y == 0, y != 1], dim=1)
    if PROBES[name].tokens:
        x = torch.stack([x, x + 0.1], dim=1)
    return Features(x, None if kind == "none" else labels)


def run(name: str, kind: str, *, seeds: int = 1, **keywords: Any) -> list[Row]:
    train = features(name, kind, **keywords)
    test = features(name, kind, **(keywords | {"seed": 1}))
    return list(PROBES[name].run(train, test, seeds=seeds))


def test_the_index_has_probes_and_nothing_else() -> None:
    assert {"knn", "linear", "attentive", "retrieval", "rank"} <= set(NAMES)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_rows_are_complete(name: str, kind: str) -> None:
    probe, rows = PROBES[name], run(name, kind, seeds=2)
    assert rows and {row.seed for row in rows} <= {0, 1}
    assert len({(row.metric, row.seed, row.protocol) for row in rows}) == len(rows)
    for row in rows:
        assert row.probe == probe.name and row.metric and "/" not in row.metric
        assert isinstance(row.value, float) and math.isfinite(row.value)
        assert row.metric not in FRACTIONS or 0.0 <= row.value <= 1.0
        assert row.bits.is_float and row.compute == "float32"
        assert row.protocol.version >= 1 and row.protocol.test is None
        assert Protocol.from_json(json.loads(json.dumps(row.protocol.as_json()))) == row.protocol
        again = Row.from_json(json.loads(json.dumps(row.as_json())))
        assert again == dataclasses.replace(row, value=float(row.value))
        assert str(row.protocol).startswith(f"{row.protocol.probe}/{row.protocol.version}")
    if kind == "classify":
        assert isinstance(next(row.value for row in rows if row.metric == "top1"), Accuracy)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_same_seeds_give_the_same_rows_and_more_seeds_change_none(name: str, kind: str) -> None:
    twice = run(name, kind, seeds=2)
    assert twice == run(name, kind, seeds=2)
    assert [row for row in twice if row.seed == 0] == run(name, kind, seeds=1)


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize("classes", [2, 12])
def test_two_and_many_classes(name: str, classes: int) -> None:
    rows = run(name, "classify", count=60, classes=classes)
    assert any(row.metric == "top5" for row in rows) == (classes > 10)


@pytest.mark.parametrize("name", CLASSIFY)
def test_perfect_features_are_classified_perfectly(name: str) -> None:
    rows = run(name, "classify", noise=0.0)
    best = [row.value for row in rows if row.metric == "top1"]
    assert max(best) == 1.0 and (name == "knn_grid" or min(best) == 1.0)


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in KINDS if k == "retrieve"])
def test_perfect_features_are_retrieved_perfectly(name: str, kind: str) -> None:
    value = {row.metric: row.value for row in run(name, kind, noise=0.0)}
    assert value["top1"] == value["map"] == value["median_rank"] == 1.0


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, k in KINDS if k in ("classify", "tag")])
def test_one_test_sample_is_enough(name: str, kind: str) -> None:
    train, test = features(name, kind), features(name, kind, seed=1)[:1]
    assert all(math.isfinite(row.value) for row in PROBES[name].run(train, test))


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_a_probe_is_pickled_with_its_settings(name: str, kind: str) -> None:
    copied = pickle.loads(pickle.dumps(PROBES[name]))
    assert copied.protocol == PROBES[name].protocol
    train, test = features(name, kind), features(name, kind, seed=1)
    assert list(copied.run(train, test)) == list(PROBES[name].run(train, test))


def refused(name: str, train: Features, test: Features) -> str:
    """The one sentence or two of the refusal."""
    with pytest.raises(ValueError) as error:
        list(PROBES[name].run(train, test))
    message = str(error.value)
    assert "\n" not in message and message.endswith((".", "?")) and "allowed" not in message
    return message


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(name: str, kind: str, value: float) -> None:
    train = features(name, kind)
    train.x.view(len(train.x), -1)[3, 2] = value
    assert "contain NaN or inf" in refused(name, train, features(name, kind, seed=1))
    if kind != "none":
        test = features(name, kind, seed=1)
        test.x.view(len(test.x), -1)[3, 2] = value
        assert "contain NaN or inf" in refused(name, features(name, kind), test)


@pytest.mark.parametrize("name", CLASSIFY)
def test_a_single_class_is_refused(name: str) -> None:
    train = features(name, "classify")
    one = Features(train.x, torch.zeros(len(train.x), dtype=torch.int64))
    assert "two classes or more" in refused(name, one, features(name, "classify", seed=1))


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_without_samples_or_labels_it_is_refused(name: str, kind: str) -> None:
    train, test = features(name, kind), features(name, kind, seed=1)
    assert "got 0" in refused(name, train[:0], test[:0])
    if kind != "none":
        assert "got 0" in refused(name, train, test[:0])
        assert "have no labels" in refused(name, Features(train.x), test)
