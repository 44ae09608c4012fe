"""The papers' linear protocols against torch's optimizers; the sweep against single runs."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mezzotint.evaluation.knn import KNN, KNNGrid
from mezzotint.evaluation.linear import Linear
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.sgd_linear import (
    SGDLinear,
    airl_large_norm,
    airl_sgd,
    class_accuracy,
    convex,
    mocov3,
    ssql,
)
from mezzotint.recipe.schema import construct, resolve
from mezzotint.seeding import key_of, sample_order
from mezzotint.types import Features


def blobs(
    count: int, classes: int = 3, dim: int = 8, seed: int = 0, scale: float = 1.0
) -> Features:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (count,), generator=generator)
    return Features(scale * (centers[y] + 0.8 * torch.randn(count, dim, generator=generator)), y)


def naive(probe: SGDLinear, data: Features, rate: float, seed: int) -> nn.Linear:
    """The same with autograd and torch.optim.SGD."""
    assert data.y is not None
    count, dim = data.x.shape
    layer = nn.Linear(dim, 3)
    generator = torch.Generator().manual_seed(key_of("sgd_linear", seed))
    with torch.no_grad():
        layer.weight.copy_(torch.empty(3, dim).normal_(std=0.01, generator=generator))
        layer.bias.zero_()
    batch = min(probe.batch_size, count)
    optimizer = torch.optim.SGD(
        layer.parameters(),
        lr=1.0,
        momentum=0.9,
        weight_decay=probe.weight_decay,
        nesterov=probe.optimizer == "nesterov",
    )
    for epoch in range(probe.epochs):
        factor = 0.1 ** sum(epoch >= round(s * probe.epochs) for s in (0.6, 0.8))
        if probe.schedule == "cosine":
            factor = 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * epoch / probe.epochs))))
        # torch's SGD keeps a buffer without the rate, so a rate that changes once an epoch is the
        # same rule.
        optimizer.param_groups[0]["lr"] = (
            rate * (batch / 256 if probe.lr_scaling == "linear" else 1.0) * factor
        )
        order = sample_order(count, seed, epoch)
        for start in range(0, count // batch * batch, batch):
            rows = order[start : start + batch]
            optimizer.zero_grad()
            cross_entropy(layer(data.x[rows]), data.y[rows]).backward()
            if probe.optimizer == "larc":
                for p in layer.parameters():
                    assert p.grad is not None
                    own, other = p.norm(), p.grad.norm()
                    if own > 0 and other > 0:
                        p.grad.add_(p.detach(), alpha=probe.weight_decay)
                        p.grad.mul_(
                            1e-3 * own.detach() / (other + probe.weight_decay * own.detach() + 1e-8)
                        )
                    optimizer.param_groups[0]["weight_decay"] = 0.0
            optimizer.step()
    return layer


@pytest.mark.parametrize("keys", [
    {"optimizer": "sgd", "schedule": "steps"},
    {"optimizer": "nesterov", "schedule": "cosine", "lr_scaling": "linear"},
    {"optimizer": "sgd", "schedule": "cosine", "weight_decay": 1e-2},
    {"optimizer": "larc", "schedule": "cosine", "weight_decay": 1e-2},
])  # fmt: skip
def test_a_sweep_is_each_rate_trained_alone_by_torch(keys: dict[str, object]) -> None:
    data = blobs(70)
    assert data.y is not None
    rates = (0.01, 0.3, 2.0)
    probe = SGDLinear(lr=rates, epochs=5, batch_size=32, **keys)  # type: ignore[arg-type]
    heads = probe.train(data.x, data.y, 3, rates, seed=1)
    for index, rate in enumerate(rates):
        layer = naive(probe, data, rate, 1)
        torch.testing.assert_close(heads.weight[index], layer.weight.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(heads.bias[index], layer.bias.detach(), rtol=1e-4, atol=1e-5)
        alone = probe.train(data.x, data.y, 3, (rate,), seed=1)
        torch.testing.assert_close(
            heads.logits(data.x)[:, index], alone.logits(data.x)[:, 0], rtol=1e-4, atol=1e-4
        )


def test_the_rate_is_chosen_without_test_samples_and_fits_the_scale_of_the_features() -> None:
    rates = tuple(10.0**power for power in range(-6, 4))
    chosen = {}
    for scale in (0.1, 100.0):
        train, test = blobs(300, scale=scale), blobs(200, seed=1, scale=scale)
        probe = SGDLinear(lr=rates, epochs=10)
        rows = {row.metric: row for row in probe.run(train, test)}
        chosen[scale] = rows["lr"].value
        assert rows["top1"].value > 0.75
        assert test.y is not None
        shuffled = Features(test.x, test.y.roll(1))
        assert {r.metric: r for r in probe.run(train, shuffled)}["lr"].value == rows["lr"].value
    assert chosen[0.1] > 10 * chosen[100.0]


def test_rates_that_blow_up_are_never_chosen() -> None:
    train, test = blobs(100, scale=1e18), blobs(50, seed=1, scale=1e18)
    rows = {row.metric: row.value for row in SGDLinear(lr=(1e-38, 1e30), epochs=3).run(train, test)}
    assert rows["lr"] < 1e-30


def test_accuracy_of_each_class() -> None:
    train, test = blobs(200), blobs(100, seed=1)
    rows = {
        row.metric: row.value
        for row in SGDLinear(lr=[1.0], epochs=5, per_class=True).run(train, test)
    }
    parts = [rows[f"class_{label}"] for label in range(3)]
    assert sum(parts) / 3 == pytest.approx(rows["mean_per_class"])
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert dict(class_accuracy(scores, torch.tensor([4, 9]), torch.tensor([4, 9, 9]))) == {
        4: 1.0,
        9: 0.5,
    }


def test_protocols_by_name_are_those_of_the_papers() -> None:
    found = {kind: construct(resolve(kind, "Probe", "p"), "Probe", {}) for kind in (
        "airl_sgd", "airl_large_norm", "mocov3", "solo_learn", "ssql")}  # fmt: skip
    assert str(found["airl_sgd"].protocol) == str(airl_sgd().protocol) == (
        "airl_sgd/1 lr=30 epochs=100 batch=256 optimizer=sgd schedule=steps lr_scaling=linear wd=0"
    )  # fmt: skip
    # The authors' loader is made before the batch of this protocol is set, and stays at 256.
    assert str(found["airl_large_norm"].protocol) == str(airl_large_norm().protocol) == (
        "airl_large_norm/1 lr=0.2 epochs=80 batch=1024 optimizer=nesterov schedule=cosine "
        "lr_scaling=none wd=0"
    )  # fmt: skip
    assert str(found["mocov3"].protocol) == str(mocov3().protocol) == (
        "mocov3/1 lr=0.1 epochs=90 batch=1024 optimizer=sgd schedule=cosine lr_scaling=linear wd=0"
    )  # fmt: skip
    assert str(found["solo_learn"].protocol) == (
        "solo_learn/1 lr=0.1 epochs=100 batch=256 optimizer=sgd schedule=steps lr_scaling=linear "
        "wd=0"
    )
    assert str(found["ssql"].protocol) == str(ssql().protocol) == (
        "ssql/1 lr=30 epochs=100 batch=512 optimizer=sgd schedule=steps lr_scaling=none wd=0"
    )  # fmt: skip
    assert "lr=0.8 epochs=60 batch=1024 optimizer=larc" in str(ssql(data="imagenet").protocol)
    ours = construct(resolve("convex", "Probe", "p"), "Probe", {})
    assert isinstance(ours, Linear) and ours.protocol == Linear().protocol == convex().protocol
    assert all(isinstance(probe, Probe) for probe in found.values())


@pytest.mark.parametrize(
    "keys", [{"lr": []}, {"lr": [0.0]}, {"epochs": 0}, {"batch_size": 0}, {"weight_decay": -1.0}]
)
def test_settings_out_of_range_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be .* got "):
        SGDLinear(**keys)  # type: ignore[arg-type]


@pytest.mark.parametrize("center", [False, True])
def test_the_grid_is_knn_at_each_setting(center: bool) -> None:
    def rounded(data: Features) -> Features:  # ties between neighbors
        return Features((data.x * 2).round(), data.y)

    train, test = rounded(blobs(60, dim=3)), rounded(blobs(40, dim=3, seed=1))
    grid = KNNGrid(k=[1, 7, 200], temperature=[0.05, 1.0], center=center)
    rows = list(grid.run(train, test))
    expected = [
        row
        for metric in ("cosine", "euclidean")
        for k in (1, 7, 200)
        for t in (0.05, 1.0)
        for row in KNN(k=k, temperature=t, metric=metric, center=center).run(train, test)
    ]
    assert rows == expected and len({row.protocol for row in rows}) == 12


def test_an_empty_grid_is_refused() -> None:
    with pytest.raises(
        ValueError, match="`k`, `temperature` and `metric` must have one value or more"
    ):
        KNNGrid(k=[])


def test_features_that_are_not_finite_are_refused() -> None:
    data = blobs(20)
    x: Tensor = data.x.clone()
    x[0, 0] = torch.nan
    with pytest.raises(ValueError, match="contain NaN or inf"):
        list(SGDLinear().run(Features(x, data.y), data))
