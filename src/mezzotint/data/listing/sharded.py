"""What sources of shards share: which samples they show, and how they are scored."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.audio.waveform import AUDIO_EXTENSIONS
from mezzotint.data.balance import EpochOrder
from mezzotint.data.formats import storage
from mezzotint.data.formats.parquet import SUFFIXES
from mezzotint.data.formats.rows import RowIndex, kind_of_rows, open_rows
from mezzotint.data.formats.shards import DamagedShards, ShardIndex, read_index
from mezzotint.data.formats.webdataset import scan_tars, suffixes_in
from mezzotint.data.listing.folder import EXTENSIONS, PACKED, extension_of, packed_suffix, scan
from mezzotint.data.listing.sampling import are_alone, held_out
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.seeding import Draws, key_of, sample_order
from mezzotint.types import Unreadable

_AT_ONCE = 1 << 18  # samples of windows that are shuffled at once, to save memory


def open_shards(
    root: str, suffixes: frozenset[str], modality: str, column: str | None, label: str | None
) -> ShardIndex:
    """Open packed samples: shards with an index, tar files, parquet files or an Arrow data set.

    Args:
        root: folder or URL of the files, or one local file.
        suffixes: of the members of a tar file that are samples.
        modality: of the samples.
        column: of encoded samples in a parquet or Arrow file.
        label: column of the labels there.

    Raises:
        ValueError: when there is nothing to read, or a column is named for files without.
    """
    if not storage.is_url(root):
        suffix = packed_suffix(root)
        if suffix is None:  # next to other files, and named all the same
            names = scan(root, frozenset(PACKED), "shards").images
            suffix = next((s for s in PACKED if s in map(extension_of, names)), None)
        if suffix in SUFFIXES:
            return open_rows(root, modality, column, label)
    if column is not None or label not in (None, "label"):
        key = "column" if column is not None else "label"
        raise ValueError(
            f"`data.{key}` names a column of parquet or Arrow files, and `{root}` has none of "
            "them. Leave it out."
        )
    index = read_index(root, modality)
    return scan_tars(root, suffixes, modality) if index is None else index


def kind_of_packed(path: str, suffix: str) -> str:
    """Return the kind of source of packed files: by columns, or by the names in a tar file.

    Raises:
        ValueError: when a tar file has neither images nor sounds, or a file is damaged.
    """
    if suffix != ".tar":
        return kind_of_rows(path)
    found = suffixes_in(path)
    known = {"image_shards": EXTENSIONS, "audio_shards": AUDIO_EXTENSIONS}
    kinds = [kind for kind, suffixes in known.items() if found & suffixes]
    if len(kinds) != 1:
        what = "both images and sounds" if kinds else "no images and no sounds"
        raise ValueError(
            f"`{path}` has tar files with {what}. Name files of one modality, or say which with "
            "data.kind=image_shards or audio_shards."
        )
    return kinds[0]


def check_window(window: int | None) -> None:
    """Raise a ValueError for samples that are shuffled together, if there is not one."""
    if window is not None and window < 1:
        raise ValueError(
            f"`data.window` must be 1 or more, or null, got {window}. Null shuffles all samples "
            "together."
        )


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """An order of samples that stays within a few shards at a time, for slow disks.

    Shards are put into a random order, and samples are shuffled within windows of it. The order is
    a function of (seed, epoch).

    Attributes:
        firsts: int64 `[shards + 1]`, the first sample of each shard.
        samples: samples of an epoch, the first ones.
        window: samples that are shuffled together.
    """

    firsts: npt.NDArray[np.int64]
    samples: int
    window: int

    def order(self, seed: int, epoch: int, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the order of an epoch, an int64 permutation `[samples]`, or a part of it."""
        stop = self.samples if stop is None else min(stop, self.samples)
        first = start // self.window * self.window
        last = min(-(-stop // self.window) * self.window, self.samples)
        walk = self._walk(seed, epoch, first, last)
        key = key_of(seed, epoch, "order within windows")
        step = self.window * max(1, _AT_ONCE // self.window)  # whole windows
        for begin in range(first, last, step):
            positions = torch.arange(begin, min(begin + step, last))
            keys = Draws(positions, key).bits("order") + (positions // self.window << 32)
            part = walk[begin - first :][: len(positions)]
            part.copy_(part[keys.argsort(stable=True)])
        return walk[start - first : max(start, stop) - first]

    def _walk(self, seed: int, epoch: int, first: int, last: int) -> Tensor:
        """Return positions `first … last − 1` of the shards in their random order."""
        bounds = np.minimum(self.firsts, self.samples)
        shards = sample_order(len(bounds) - 1, seed, epoch).numpy()
        ends = np.diff(bounds)[shards].cumsum()
        walk = torch.empty(max(0, last - first), dtype=torch.int64)
        for number in range(int(np.searchsorted(ends, first, side="right")), len(shards)):
            shard, end = shards[number], int(ends[number])
            begin = end - int(bounds[shard + 1] - bounds[shard])
            low, high, shift = max(begin, first), min(end, last), int(bounds[shard]) - begin
            if low >= last:
                break
            torch.arange(low + shift, high + shift, out=walk[low - first : high - first])
        return walk


class Sharded(Source, abstract=True):
    """A source of shards; what a file holds is for the class that inherits this and a source.

    Attributes:
        index: of the shards.
        holdout: fraction of each class to score, if the shards have no split for it.
    """

    opens: ClassVar[frozenset[str]] = frozenset(PACKED)
    opens_one: ClassVar[frozenset[str]] = frozenset()
    index: ShardIndex
    holdout: float
    labels: Index
    _paths: Any
    _held_out: npt.NDArray[np.bool_] | None = None
    _outcome: tuple[int, str] = (-1, "")

    def use(self, index: ShardIndex, window: int | None) -> None:
        """Have the training samples of an index, in windows of some samples."""
        self.index, own = index, index.splits[0][1]
        self.notes, self.unreadable = index.notes, index.unreadable
        self.show(own)
        needed = index.window if isinstance(index, RowIndex) and window is None else window
        if needed != window:
            self.notes = (*self.notes, f"shuffled within {needed:,} samples, which a process keeps")
        self.weighting = self.order(needed)

    def show(self, count: int) -> None:
        """Have the first samples of the shards."""
        self.classes = list(self.index.classes)
        self._paths = self.index.ids(count)
        self.labels = np.asarray(self.index.columns["label"])[:count]
        self.groups = np.asarray(self.index.columns["group"])[:count]

    def __getstate__(self) -> dict[str, Any]:
        """State for a spawned worker, which makes the rest again."""
        derived = ("_paths", "_held_out", "labels", "groups")
        state = {name: value for name, value in vars(self).items() if name not in derived}
        return {**state, "_count": len(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        count = state.pop("_count")
        vars(self).update(state)
        self.show(count)

    def order(self, window: int | None) -> EpochOrder | None:
        """Return the order of an epoch with windows; `None` to shuffle all samples together."""
        if window is None:
            return None
        return ShardOrder(self.index.firsts, len(self), window)

    def _file(self, index: int) -> bytes:
        """Read the bytes of a sample.

        Raises:
            Unreadable: when its shard is missing, or its bytes changed.
        """
        try:
            return self.index.read(index)
        except (OSError, DamagedShards) as error:
            raise Unreadable(self._paths[index], f"missing: {error}") from None

    def outcome(self) -> str:
        if self._outcome[0] != len(self):  # it is said twice, and looks at all samples
            self._outcome = len(self), super().outcome()
            self.index.give_back()
        return self._outcome[1]

    def fingerprint(self) -> str:
        return self.index.fingerprint

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return training and scored samples, and the task; none with fewer than two classes.

        Samples without a split of their own that were held out when the shards were written stay
        so.
        """
        index, trained = self.index, len(self)
        if len(index.classes) < 2:
            return self, []
        index.give_back()  # what is free by now, before as much is taken again
        if len(index.splits) == 1:
            chosen = np.asarray(index.columns["scored"][:trained], np.bool_)
            if not chosen.any():
                if self._held_out is None:
                    own = self.groups
                    groups = None if own is None or are_alone(own) else own
                    index.give_back()
                    self._held_out = held_out(self.labels, self.holdout, "label", groups)
                    index.give_back()
                chosen = self._held_out
            tasks = label_tasks("label/holdout", self.labels, chosen, self.classes)
            index.give_back()
            return self, tasks
        name, size = index.splits[1]
        both = copy.copy(self)
        both.show(trained + size)
        both.held_out = trained, name
        test = np.zeros(len(both), np.bool_)
        test[trained:] = True
        tasks = label_tasks(f"label/{name}", both.labels, test, self.classes)
        index.give_back()
        return both, tasks

    def everything(self) -> tuple[Source, npt.NDArray[np.str_]]:
        """Add the samples of splits that are neither trained on nor scored."""
        samples, split = Source.everything(self)
        if len(samples) == len(self.index):
            return samples, split
        whole = copy.copy(self)
        whole.show(len(self.index))
        names, sizes = zip(*self.index.splits, strict=True)
        rest = np.repeat(np.array(names, np.str_), sizes)[len(samples) :]
        return whole, np.concatenate([split, rest])
