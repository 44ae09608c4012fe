import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mezzotint import seeding
from mezzotint.seeding import Draws, key_of, sample_order

IDS = torch.arange(20_000)


def draws(*parts: int | str) -> Draws:
    return Draws(IDS, key_of(*parts))


@pytest.mark.parametrize("name", ["a", "b", "edges"])
def test_uniform_is_uniform_over_ids_and_over_counters(name: str) -> None:
    # Chi-square with 99 degrees of freedom: the 0.9999 quantile is 163.
    for values in (
        draws(0, 1).uniform(name),
        Draws(torch.zeros(1, dtype=torch.long), 7).uniform(name, 20_000)[0],
    ):
        counts = torch.histc(values, 100, 0, 1)
        chi2 = float(((counts - 200) ** 2 / 200).sum())
        assert chi2 < 163
        assert 0 <= float(values.min()) and float(values.max()) < 1


@pytest.mark.parametrize(
    "other",
    [
        draws(0, 1).uniform("y"),
        draws(0, 2).uniform("x"),
        draws(1, 1).uniform("x"),
        draws(0, 1).fold("v").uniform("x"),
    ],
)
def test_streams_are_independent(other: torch.Tensor) -> None:
    mine = draws(0, 1).uniform("x")
    correlation = float(torch.corrcoef(torch.stack([mine, other]))[0, 1])
    assert abs(correlation) < 4 / math.sqrt(len(IDS))


def test_neighboring_ids_and_counters_are_independent() -> None:
    values = draws(3).uniform("x", 4)
    flat = torch.stack([values[:-1, 0], values[1:, 0], values[:-1, 1], values[1:, 3]])
    off = torch.corrcoef(flat) - torch.eye(4)
    assert float(off.abs().max()) < 4 / math.sqrt(len(IDS))


def test_a_sample_draws_the_same_in_every_batch() -> None:
    alone = Draws(torch.tensor([17]), key_of(5)).normal("n", 3)
    among = Draws(torch.tensor([4, 17, 9]), key_of(5)).normal("n", 3)
    assert torch.equal(alone[0], among[1])


@pytest.mark.parametrize("distance", [1 << 31, 1 << 32, 1 << 40])
def test_large_ids_are_told_apart(distance: int) -> None:
    pair = Draws(torch.tensor([5, 5 + distance]), key_of(0)).bits("x", 8)
    assert not torch.equal(pair[0], pair[1])


def test_normal_has_the_moments_of_a_normal() -> None:
    values = draws(0).normal("n")
    assert abs(float(values.mean())) < 0.03
    assert abs(float(values.std()) - 1) < 0.02
    assert abs(float((values**4).mean()) - 3) < 0.3
    assert torch.isfinite(values).all()


@given(p=st.floats(0, 1), seed=st.integers(0, 1000))
def test_chance_is_exact_at_its_ends_and_close_between(p: float, seed: int) -> None:
    share = float(draws(seed).chance("c", p).float().mean())
    assert share == p if p in (0.0, 1.0) else abs(share - p) < 0.02


@given(low=st.integers(-50, 50), width=st.integers(1, 60))
def test_integers_cover_their_range(low: int, width: int) -> None:
    values = draws(1).integers("i", low=low, high=low + width)
    assert int(values.min()) == low and int(values.max()) == low + width - 1


def test_permutation_is_a_permutation_and_all_occur_equally() -> None:
    orders = draws(2).permutation("order", 4)
    assert torch.equal(orders.sort(1).values, torch.arange(4).expand(len(IDS), 4))
    _, counts = torch.unique(orders, dim=0, return_counts=True)
    assert len(counts) == 24
    assert (
        float(((counts - len(IDS) / 24) ** 2 / (len(IDS) / 24)).sum()) < 60
    )  # chi-square, 23 degrees of freedom


def test_golden_values_never_change() -> None:
    """Changing these changes every published run; bump the version and say so in the CHANGELOG."""
    assert key_of(0, 1, "order") == GOLDEN_KEY
    values = Draws(torch.tensor([0, 1, 12345678901]), key_of(0, "golden")).bits("x", 2)
    assert values.tolist() == GOLDEN_BITS


def test_sample_order_visits_each_sample_once_and_differs_by_epoch() -> None:
    first, second = sample_order(1000, 0, 0), sample_order(1000, 0, 1)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert not torch.equal(first, second)
    assert torch.equal(first, sample_order(1000, 0, 0))


GOLDEN_KEY = 1815783807564109026
GOLDEN_BITS = [[4161732544, 297058318], [2007822117, 2393065267], [1328539650, 3325176677]]


def test_the_order_of_many_samples_is_that_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    every = Draws(torch.arange(1000), key_of(5, 2, "order"))
    expected = every.bits("order").argsort(stable=True)
    assert torch.equal(sample_order(1000, 5, 2), expected)
    monkeypatch.setattr(seeding, "_AT_ONCE", 77)
    assert torch.equal(sample_order(1000, 5, 2), expected)
    assert len(sample_order(0, 5, 2)) == len(sample_order(10, 5, 2, start=7, stop=7)) == 0


@pytest.mark.parametrize("at_once", [1 << 18, 700])
def test_parts_of_an_order_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(seeding, "_AT_ONCE", at_once)
    whole = Draws(torch.arange(20_000), key_of(1, 0, "order")).bits("order").argsort(stable=True)
    assert torch.equal(sample_order(20_000, 1, 0), whole)
    for start, stop in ((0, 10), (0, 7000), (7000, 14_000), (19_999, 20_000), (123, 19_900)):
        part = sample_order(20_000, 1, 0, start=start, stop=stop)
        assert torch.equal(part, whole[start:stop])
    assert torch.equal(sample_order(20_000, 1, 0, start=19_990, stop=10**9), whole[19_990:])
