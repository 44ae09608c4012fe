"""The linear probe: what it chooses, on what, and that the test samples have no say."""

import warnings

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import mezzotint.evaluation.linear as linear
from mezzotint.data.listing.sampling import held_out
from mezzotint.evaluation.linear import Linear, Scaling, penalty_grid
from mezzotint.evaluation.logistic import Fit, fit
from mezzotint.types import Features


def data(count: int, seed: int, classes: int = 4, dim: int = 20, noise: float = 1.0) -> Features:
    centers = torch.randn(classes, dim, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=g)
    return Features(
        3.0 + 7.0 * (0.6 * centers[y] + noise * torch.randn(count, dim, generator=g)), y
    )


def figures(
    probe: Linear, train: Features, test: Features, seeds: int = 1
) -> dict[tuple[str, int], float]:
    return {(row.metric, row.seed): row.value for row in probe.run(train, test, seeds=seeds)}


def test_the_figure_is_that_of_scikit_learn_at_the_chosen_penalty() -> None:
    train, test = data(400, 1), data(1000, 2)
    assert train.y is not None and test.y is not None
    found = figures(Linear(tolerance=1e-6), train, test)
    mean = train.x.mean(dim=0)
    scale = (train.x - mean).square().mean().sqrt()
    theirs = LogisticRegression(C=1 / (found["penalty", 0] * 400), tol=1e-8, max_iter=5000)
    theirs.fit(((train.x - mean) / scale).numpy(), train.y.numpy())
    expected = theirs.score(((test.x - mean) / scale).numpy(), test.y.numpy())
    assert found["top1", 0] == pytest.approx(expected, abs=0.001)
    assert found["gap", 0] <= 1e-6 and ("top5", 0) not in found


def test_the_penalty_is_the_best_of_the_grid_on_the_held_out_fifth() -> None:
    train, test = data(300, 1, noise=2.0), data(50, 2)
    assert train.y is not None
    chosen = figures(Linear(tolerance=1e-4), train, test, seeds=3)
    x, y = Scaling.of(train.x)(train.x), train.y
    for seed in range(3):
        out = torch.from_numpy(held_out(y.numpy(), 0.2, f"linear/{seed}"))
        wrong, losses = {}, {}
        for penalty in penalty_grid(10.0, 1e-6)[:11]:
            logits = fit(x[~out], y[~out], 4, penalty, tolerance=1e-5).logits(x[out])
            wrong[penalty] = int((logits.argmax(dim=1) != y[out]).sum())
            losses[penalty] = torch.nn.functional.cross_entropy(logits, y[out]).item()
        # The path ends where the loss rises first.
        penalties = list(losses)
        end = next(i for i in range(1, 11) if losses[penalties[i]] > losses[penalties[i - 1]])
        assert wrong[chosen["penalty", seed]] == min(
            wrong[penalty] for penalty in penalties[: end + 1]
        )
        assert wrong[chosen["penalty", seed]] + 3 < max(
            wrong[10.0], wrong[penalties[-1]]
        )  # it matters


def test_at_equal_top1_the_loss_decides() -> None:
    train = data(400, 1, noise=0.05)  # every strength classifies all held-out samples
    penalty = figures(Linear(), train, train)["penalty", 0]
    assert penalty < 1e-3  # the strongest is as accurate, but its loss is far higher


def test_test_features_have_no_say_in_the_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spy gets every array of a fit or of the choice of the penalty; none has a test feature."""
    train, test = data(200, 1), data(80, 2)
    test = Features(test.x + 1000.0, test.y)  # such values can come from nowhere else
    seen: list[Tensor] = []

    def spy_fit(x: Tensor, *args: object, **keywords: object) -> Fit:
        seen.append(x)
        return fit(x, *args, **keywords)  # type: ignore[arg-type]

    def spy_loss(logits: Tensor, y: Tensor) -> Tensor:
        seen.append(logits)
        return torch.nn.functional.cross_entropy(logits, y)

    monkeypatch.setattr(linear, "fit", spy_fit)
    monkeypatch.setattr(linear, "cross_entropy", spy_loss)
    first = figures(Linear(), train, test)
    assert len(seen) > 6 and all(x.abs().max() < 30 for x in seen)
    assert {x.shape[0] for x in seen} <= {200, *(n for n in range(30, 171))}
    other = figures(Linear(), train, Features(-test.x, None if test.y is None else test.y.flip(0)))
    assert first["penalty", 0] == other["penalty", 0]


def test_seeds_are_other_splits_and_repeat() -> None:
    train, test = data(60, 1), data(300, 2)
    three = figures(Linear(), train, test, seeds=3)
    assert {seed for _, seed in three} == {0, 1, 2}
    assert three == figures(Linear(), train, test, seeds=3)
    assert {key: value for key, value in three.items() if key[1] == 0} == figures(
        Linear(), train, test
    )
    assert len({three["penalty", seed] for seed in range(3)}) > 1


@pytest.mark.parametrize("rows", [100, 30])  # more, and fewer, samples than features
def test_the_scale_of_the_features_and_their_rotation_do_not_matter(rows: int) -> None:
    train, test = data(rows, 1, dim=60, noise=3.0), data(200, 2, dim=60, noise=3.0)
    rotation = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(0))).Q
    first = figures(Linear(tolerance=1e-5), train, test)
    other = figures(
        Linear(tolerance=1e-5),
        Features(1e3 * train.x @ rotation + 5, train.y),
        Features(1e3 * test.x @ rotation + 5, test.y),
    )
    assert other["penalty", 0] == first["penalty", 0]
    assert other["top1", 0] == pytest.approx(first["top1", 0], abs=0.011)


def test_the_basis_of_few_samples_keeps_the_solution() -> None:
    train, test = data(40, 1, dim=100), data(200, 2, dim=100)
    assert train.y is not None
    scaling = Scaling.of(train.x)
    assert scaling.basis is not None and scaling(train.x).shape == (40, 40)
    plain = Scaling(scaling.mean, scaling.scale, None)
    small, large = (fit(s(train.x), train.y, 4, 0.1, tolerance=1e-7) for s in (scaling, plain))
    torch.testing.assert_close(
        small.logits(scaling(test.x)), large.logits(plain(test.x)), atol=2e-3, rtol=0
    )


def test_top5_and_the_mean_over_classes() -> None:
    train, test = data(600, 1, classes=15), data(300, 2, classes=15)
    found = figures(Linear(), train, test)
    assert found["top1", 0] < found["top5", 0] < 1.0
    assert found["mean_per_class", 0] == pytest.approx(found["top1", 0], abs=0.08)


def test_features_without_information_give_the_largest_class() -> None:
    y = torch.tensor([0] * 30 + [1] * 20)
    found = figures(
        Linear(),
        Features(torch.ones(50, 8), y),
        Features(torch.ones(10, 8), torch.zeros(10).long()),
    )
    assert found["top1", 0] == 1.0


def test_one_sample_a_class_takes_the_strongest_penalty() -> None:
    found = figures(
        Linear(), Features(torch.eye(4), torch.arange(4)), Features(torch.eye(4), torch.arange(4))
    )
    assert found["penalty", 0] == 10.0 and found["top1", 0] == 1.0


def test_an_unfinished_fit_warns() -> None:
    train, test = data(200, 1), data(50, 2)
    with pytest.warns(RuntimeWarning, match="Raise `max_evaluations`"):
        unfinished = list(Linear(tolerance=1e-9, max_evaluations=4).run(train, test))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finished = list(Linear().run(train, test))
    assert {row.metric for row in unfinished} == {
        row.metric for row in finished
    }  # a warning, and results all the same


def test_nan_features_are_refused() -> None:
    bad = Features(torch.full((10, 3), float("nan")), torch.arange(10) % 2)
    with pytest.raises(ValueError, match="contain NaN or inf"):
        list(Linear().run(bad, bad))


def test_settings() -> None:
    assert str(Linear().protocol).startswith(
        "linear/1 scale=global select=top1 validation=0.2 penalty=10..1e-06 "
    )
    assert penalty_grid(1.0, 0.05) == pytest.approx([1.0, 10**-0.5, 0.1, 0.05])
    for bad in ({"min_l2": 0.0}, {"min_l2": 20.0}, {"validation": 1.0}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="must .* got "):
            Linear(**bad)  # type: ignore[arg-type]
