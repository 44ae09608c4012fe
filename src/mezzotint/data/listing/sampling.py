"""Choose the samples to hold out: a pure function of their labels and a key."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from mezzotint.data.source import Index, Task
from mezzotint.seeding import Draws, key_of

_PART = 1 << 18  # groups that are looked at together, to save memory


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
    label of its first labeled sample. Where most groups of several samples have several labels, as
    those of one person may, groups are chosen whatever their labels.

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
    if groups is None or are_alone(groups):
        return _some_of_strata(labels, None, fraction, key)
    names, member = np.unique(groups, return_inverse=True)
    if len(names) == 0:
        return np.zeros(0, np.bool_)
    member = member.reshape(-1)
    return _some_of_strata(_strata(labels, member, len(names)), names, fraction, key)[member]


def are_alone(groups: Index) -> bool:
    """Whether each sample is the only one of its group, which has the number of the sample."""
    parts = ((i, groups[i : i + _PART]) for i in range(0, len(groups), _PART))
    return all(np.array_equal(part, np.arange(i, i + len(part))) for i, part in parts)


def _some_of_strata(
    strata: Index, names: Index | None, fraction: float, key: str
) -> npt.NDArray[np.bool_]:
    """Choose the groups of each stratum whose random numbers are the smallest, bool `[G]`.

    Args:
        strata: int64 `[G]`, the stratum of each group; those below 0 are never chosen.
        names: int64 `[G]`, numbers of the groups, distinct ones of 32 bits; `None` for 0, 1, ….
        fraction: of each stratum, at least one group and not all.
        key: name of the split.
    """
    number = key_of("held_out", key)

    def packed(start: int) -> Index:
        """Stratum and random number of some groups; the latter differ, as the names do."""
        part = strata[start : start + _PART].astype(np.int64)
        own = np.arange(start, start + len(part)) if names is None else names[start:][: len(part)]
        bits = Draws(torch.from_numpy(own.astype(np.int64)), number).bits("place")
        found: Index = part << 32 | bits.numpy()
        return found

    starts = range(0, len(strata), _PART)
    ordered = np.empty(len(strata), np.int64)
    for start in starts:
        ordered[start : start + _PART] = packed(start)
    ordered.sort()
    bounds = np.searchsorted(ordered, np.arange(int(strata.max(initial=-1)) + 2) << 32)
    largest = np.full(len(bounds), np.iinfo(np.int64).min)  # the last one is of no stratum
    for stratum, size in enumerate(np.diff(bounds).tolist()):
        if size > 1:
            count = min(max(1, round(fraction * size)), size - 1)
            largest[stratum] = ordered[bounds[stratum] + count - 1]
    del ordered
    taken = np.zeros(len(strata), np.bool_)
    for start in starts:
        limits = largest[np.maximum(strata[start : start + _PART], -1)]
        taken[start : start + _PART] = packed(start) <= limits
    return taken


def _strata(labels: Index, member: Index, count: int) -> Index:
    """Return the label of each group, that of its first labeled sample; -1 for one without any.

    Where most groups have several labels, all those with labels are 0.

    Args:
        labels: int64 `[N]`.
        member: int64 `[N]`, number of the group of each.
        count: number of groups.
    """
    known = np.flatnonzero(labels >= 0)
    groups, first = np.unique(member[known], return_index=True)
    stratum = np.full(count, -1, np.int64)
    stratum[groups] = labels[known[first]]
    mixed = np.unique(member[known[labels[known] != stratum[member[known]]]])
    several = int((np.bincount(member[known], minlength=count) > 1).sum())
    return np.where(stratum >= 0, 0, -1) if 2 * len(mixed) > several else stratum
