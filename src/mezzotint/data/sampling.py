"""Which samples are held out: a function of their labels and a key, never of a generator or of the clock."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.source import Index, Task
from mezzotint.seeding import Draws, key_of


def some_of_each(
    labels: Index, pool: Index, key: int, *, fraction: float = 1.0, per_class: int | None = None
) -> Index:
    """Of each class the first samples of one keyed order, so that 1 % is a part of 10 %.

    Args:
        labels: int64 `[N]`.
        pool: int64 `[M]`, which of them may be taken.
        key: of the order.
        fraction: share of each class, and at least one.
        per_class: so many of each class instead.

    Returns:
        int64, sorted, some of `pool`.

    Raises:
        ValueError: when a class has fewer than `per_class`.
    """
    places = Draws(torch.from_numpy(pool), key).bits("place").numpy()
    kept = []
    for label in np.unique(labels[pool]):
        members = np.flatnonzero(labels[pool] == label)
        count = max(1, round(fraction * len(members))) if per_class is None else per_class
        if count > len(members):
            raise ValueError(
                f"got per_class={per_class}, and class {label} has {len(members)} training samples; allowed is at most "
                "that: lower it"
            )
        kept.append(pool[members[np.argsort(places[members], kind="stable")[:count]]])
    return np.sort(np.concatenate(kept))


def one_percent(task: Task) -> Task:
    """The same question with one in a hundred of the labels to learn from: of each class alike, and one at least."""
    labels = np.asarray(task.labels, np.int64)
    train = some_of_each(
        labels, np.asarray(task.train, np.int64), key_of("one_percent", task.name), fraction=0.01
    )
    return replace(task, name=f"{task.name.split('/')[0]}/1-percent", train=train)


def held_out(
    labels: Index, fraction: float, key: str, groups: Index | None = None
) -> npt.NDArray[np.bool_]:
    """Choose a stratified part of the samples: of each label the same fraction.

    Of a label with `n ≥ 2` groups, `round(fraction · n)` are chosen, but at least one and not all;
    of a label with a single group, none. Samples of one group stay together; a group belongs to the
    label of its first sample.

    Args:
        labels: int64 `[N]`; samples with a negative label have none, and are not chosen.
        fraction: in (0, 1).
        key: the name of the split; another name gives another, independent split.
        groups: int64 `[N]`, what must not be torn apart, such as identical pictures; by default
            each sample is its own.

    Returns:
        bool `[N]`, true for the chosen samples.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(
            f"got a holdout of {fraction}; allowed is more than 0 and less than 1: give 0.2 for a fifth"
        )
    chosen = np.zeros(len(labels), dtype=np.bool_)
    if groups is None:
        groups = np.arange(len(labels), dtype=np.int64)
    names, first, member = np.unique(groups, return_index=True, return_inverse=True)
    if len(names) == 0:
        return chosen
    stratum = labels[first]
    place = (
        Draws(torch.from_numpy(names.astype(np.int64)), key_of("held_out", key))
        .bits("place")
        .numpy()
    )
    by_stratum = np.lexsort((place, stratum))
    sizes = np.bincount(stratum[stratum >= 0], minlength=1)
    start = int((stratum < 0).sum())
    taken = np.zeros(len(names), dtype=np.bool_)
    for size in sizes.tolist():
        if size > 1:
            count = min(max(1, round(fraction * size)), size - 1)
            taken[by_stratum[start : start + count]] = True
        start += size
    chosen[:] = taken[member.reshape(-1)]
    return chosen
