"""Choose the samples to hold out: a pure function of their labels and a key."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.source import Index, Task
from mezzotint.seeding import Draws, key_of


def some_of_each(
    labels: Index, pool: Index, key: int, *, fraction: float = 1.0, per_class: int | None = None
) -> Index:
    """Take the first samples of each class in one keyed order, so that 1 % is a part of 10 %.

    Args:
        labels: int64 `[N]`.
        pool: int64 `[M]`, indices to choose from.
        key: key of the order.
        fraction: fraction of each class, at least one sample.
        per_class: number of samples of each class instead.

    Returns:
        int64, the chosen part of `pool`, sorted.

    Raises:
        ValueError: when a class has fewer than `per_class`.
    """
    ranks = Draws(torch.from_numpy(pool), key).bits("place").numpy()
    kept = []
    for label in np.unique(labels[pool]):
        members = np.flatnonzero(labels[pool] == label)
        count = max(1, round(fraction * len(members))) if per_class is None else per_class
        if count > len(members):
            raise ValueError(
                f"`per_class` must be at most {len(members)}, the training samples of class "
                f"{label}, got {per_class}. Lower it."
            )
        kept.append(pool[members[np.argsort(ranks[members], kind="stable")[:count]]])
    return np.sort(np.concatenate(kept))


def one_percent(task: Task) -> Task:
    """Return the task with 1 % of the training samples of each class, at least one."""
    labels = np.asarray(task.labels, np.int64)
    train = some_of_each(
        labels, np.asarray(task.train, np.int64), key_of("one_percent", task.name), fraction=0.01
    )
    return replace(task, name=f"{task.name.split('/')[0]}/1-percent", train=train)


def check_holdout(holdout: float) -> None:
    """Raise a ValueError for a fraction to score that is not in (0, 1)."""
    if not 0.0 < holdout < 1.0:
        raise ValueError(
            f"`holdout` must be more than 0 and less than 1, got {holdout}. Try 0.2 for a fifth."
        )


def held_out(
    labels: Index, fraction: float, key: str, groups: Index | None = None
) -> npt.NDArray[np.bool_]:
    """Choose a stratified part of the samples: the same fraction of each label.

    A label with `n ≥ 2` groups gives `round(fraction · n)` of them, at least one and not all; a
    label with a single group gives none. Samples of one group stay together; a group belongs to the
    label of its first sample. Where most groups of several samples have several labels, as those
    of one person may, groups are chosen whatever their labels.

    Args:
        labels: int64 `[N]`; samples with a negative label are unlabeled and never chosen.
        fraction: in (0, 1).
        key: name of the split; another name gives an independent split.
        groups: int64 `[N]`, samples that stay together, such as identical pictures; by default each
            sample is its own group.

    Returns:
        bool `[N]`, true for the chosen samples.
    """
    check_holdout(fraction)
    chosen = np.zeros(len(labels), dtype=np.bool_)
    if groups is None:
        groups = np.arange(len(labels), dtype=np.int64)
    names, member = np.unique(groups, return_inverse=True)
    if len(names) == 0:
        return chosen
    stratum = _strata(labels, member.reshape(-1), len(names))
    rank = (
        Draws(torch.from_numpy(names.astype(np.int64)), key_of("held_out", key))
        .bits("place")
        .numpy()
    )
    by_stratum = np.lexsort((rank, stratum))
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


def _strata(labels: Index, member: Index, count: int) -> Index:
    """Return the label of each group, that of its first sample; 0 where groups mostly mix labels.

    Args:
        labels: int64 `[N]`.
        member: int64 `[N]`, number of the group of each.
        count: number of groups.
    """
    _, first = np.unique(member, return_index=True)
    stratum = labels[first]
    known = np.flatnonzero(labels >= 0)
    mixed = np.unique(member[known[labels[known] != stratum[member[known]]]])
    several = int((np.bincount(member[known], minlength=count) > 1).sum())
    return np.where(stratum >= 0, 0, -1) if 2 * len(mixed) > several else stratum
