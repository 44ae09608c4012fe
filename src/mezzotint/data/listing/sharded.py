"""What sources of shards share: which samples they show, and how they are scored."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from mezzotint.data.balance import EpochOrder
from mezzotint.data.formats.shards import DamagedShards, ShardIndex, ShardOrder
from mezzotint.data.listing.sampling import held_out
from mezzotint.data.source import Source, Task, label_tasks
from mezzotint.types import Unreadable


class Sharded(Protocol):
    """A source of shards.

    Attributes:
        index: of the shards.
        holdout: fraction of each class to score, if the shards have no split for it.
        labels: int64 `[N]` of the samples that are shown.
    """

    index: ShardIndex
    holdout: float
    labels: Any
    classes: Any
    groups: Any
    _paths: Any

    def __len__(self) -> int: ...


S = TypeVar("S", bound=Sharded)


def show(source: Sharded, count: int) -> None:
    """Let a source have the first samples of its shards."""
    index = source.index
    source.classes = list(index.classes)
    source._paths = index.ids(count)
    source.labels = np.asarray(index.columns["label"])[:count]
    source.groups = np.asarray(index.columns["group"])[:count]


def stored(source: Sharded) -> dict[str, Any]:
    """Return the state of a source for a spawned worker, which makes the rest by `restore`."""
    derived = ("_paths", "labels", "groups")
    state = {name: value for name, value in vars(source).items() if name not in derived}
    return {**state, "_count": len(source)}


def restore(source: Sharded, state: dict[str, Any]) -> None:
    """Fill a source from what `stored` returned."""
    count = state.pop("_count")
    vars(source).update(state)
    show(source, count)


def order_of(source: Sharded, window: int | None) -> EpochOrder | None:
    """Return the order of an epoch with windows; `None` to shuffle all samples together.

    Raises:
        ValueError: for a window below 1.
    """
    if window is None:
        return None
    if window < 1:
        raise ValueError(
            f"`data.window` must be at least 1, or null to shuffle all samples together, got "
            f"{window}. Try 10000."
        )
    return ShardOrder(source.index.firsts, len(source), window)


def content_of(source: Sharded, index: int) -> bytes:
    """Read the bytes of a sample.

    Raises:
        Unreadable: when its shard is missing, or its bytes changed.
    """
    try:
        return source.index.read(index)
    except (OSError, DamagedShards) as error:
        raise Unreadable(source._paths[index], f"missing: {error}") from None


def tasks_of(source: S) -> tuple[S, Sequence[Task]]:
    """Return training and scored samples, and the task; with fewer than two classes there is none.

    Samples without a split of their own that were held out when the shards were written stay so.
    """
    index, trained = source.index, len(source)
    if len(index.classes) < 2:
        return source, []
    if len(index.splits) == 1:
        chosen = np.asarray(index.columns["scored"][:trained], np.bool_)
        if not chosen.any():
            chosen = held_out(source.labels, source.holdout, "label", source.groups)
        return source, label_tasks("label/holdout", source.labels, chosen, source.classes)
    name, size = index.splits[1]
    both = copy.copy(source)
    show(both, trained + size)
    test = np.arange(len(both)) >= trained
    return both, label_tasks(f"label/{name}", both.labels, test, source.classes)


def all_of(
    source: S, found: tuple[Source, npt.NDArray[np.str_]]
) -> tuple[Source | S, npt.NDArray[np.str_]]:
    """Add the samples of splits that are neither trained on nor scored.

    Args:
        source: the source.
        found: training and scored samples, and their splits.
    """
    samples, split = found
    if len(samples) == len(source.index):
        return samples, split
    whole = copy.copy(source)
    show(whole, len(source.index))
    names, sizes = zip(*source.index.splits, strict=True)
    rest = np.repeat(np.array(names, np.str_), sizes)[len(samples) :]
    return whole, np.concatenate([split, rest])
