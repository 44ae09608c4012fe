import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mezzotint.data.listing import sampling
from mezzotint.data.listing.sampling import held_out, one_percent, some_of_each
from mezzotint.data.source import Index, Task
from mezzotint.seeding import Draws, key_of


@given(st.lists(st.integers(-1, 4), max_size=60), st.floats(0.05, 0.95))
def test_takes_the_same_fraction_of_each_label(values: list[int], fraction: float) -> None:
    labels = np.array(values, np.int64)
    chosen = held_out(labels, fraction, "a")
    assert not chosen[labels < 0].any()
    for label in set(values) - {-1}:
        size, taken = values.count(label), int(chosen[labels == label].sum())
        assert taken == (0 if size == 1 else min(max(1, round(fraction * size)), size - 1))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=40))
def test_keeps_groups_together(rows: list[tuple[int, int]]) -> None:
    labels, groups = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    chosen = held_out(labels, 0.5, "a", groups)
    for group in set(groups.tolist()):
        assert len(set(chosen[groups == group].tolist())) == 1


def by_sorting(labels: Index, fraction: float, key: str, groups: Index) -> list[bool]:
    """The groups of each label in the order of their random numbers, of which some are taken."""
    names = sorted(set(groups.tolist()))
    first = {name: groups.tolist().index(name) for name in names}
    draws = Draws(torch.tensor(names), key_of("held_out", key)).bits("place").tolist()
    taken = set()
    for label in set(labels.tolist()) - {-1}:
        own = [(d, n) for d, n in zip(draws, names, strict=True) if labels[first[n]] == label]
        count = min(max(1, round(fraction * len(own))), len(own) - 1) if len(own) > 1 else 0
        taken |= {name for _, name in sorted(own)[:count]}
    return [group in taken for group in groups.tolist()]


@pytest.mark.parametrize("part", [1 << 20, 7])
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.floats(0.05, 0.95))
def test_what_is_held_out_is_what_sorting_gives(
    part: int, values: list[int], fraction: float
) -> None:
    labels, own = np.array(values, np.int64), np.arange(len(values))
    pairs = np.array([values.index(v) for v in values])  # all samples of a label are one group
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_PART", part)
        for groups in (own, own[::-1].copy(), pairs):
            expected = by_sorting(labels, fraction, "a", groups)
            assert held_out(labels, fraction, "a", groups).tolist() == expected
        assert held_out(labels, fraction, "a").tolist() == by_sorting(labels, fraction, "a", own)


def test_is_a_function_of_its_key_alone() -> None:
    labels = np.arange(1000) % 7
    np.testing.assert_array_equal(held_out(labels, 0.3, "a"), held_out(labels, 0.3, "a"))
    both = held_out(labels, 0.3, "a") & held_out(labels, 0.3, "b")
    assert 50 < both.sum() < 130  # independent splits share 0.09 of 1,000


def test_does_not_change_from_release_to_release() -> None:
    chosen = held_out(np.arange(20) % 2, 0.3, "label").nonzero()[0]
    assert chosen.tolist() == [0, 4, 5, 10, 17, 19]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_refuses_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(
        ValueError, match="`holdout` must be more than 0 and less than 1, got .*Try 0.2"
    ):
        held_out(np.zeros(4, np.int64), fraction, "a")


def test_one_percent_is_of_each_class_alike_and_one_at_least() -> None:
    labels = np.repeat([0, 1, 2, 3], [500, 200, 30, 400])
    pool = np.arange(
        0, 730, dtype=np.int64
    )  # class 3 is scored, and one sample of it, of which none may be taken
    task = Task("label/test", "classify", labels, pool, np.arange(730, 1130), "abcd")
    found = one_percent(task)
    assert (
        np.bincount(labels[found.train]).tolist() == [5, 2, 1] and found.name == "label/1-percent"
    )
    assert np.array_equal(found.test, task.test) and set(found.train) < set(pool)
    assert np.array_equal(one_percent(task).train, found.train)
    tenth = some_of_each(labels, pool, key_of("one_percent", "label/test"), fraction=0.1)
    assert set(found.train) < set(tenth) and np.bincount(labels[tenth]).tolist() == [50, 20, 3]
