"""From a source to batches, in an order that is a function of (seed, epoch) alone.

State is the step: nothing in here is saved or restored, and neither the number of workers nor that
of processes can change which samples a step sees. Data in memory is indexed in the main process;
everything else is read, and large images are cropped while they are decoded, by worker processes.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from mezzotint import timing
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.balance import Weighting
from mezzotint.data.image import nvjpeg
from mezzotint.data.image.nvjpeg import Jpeg
from mezzotint.data.source import Source
from mezzotint.seeding import sample_order
from mezzotint.types import Batch, Input, Unreadable

_MAX_TRIES = 1000


class TooManyUnreadable(ValueError):
    """More samples cannot be read than the recipe allows."""


@dataclass
class BatchPlan:
    """Which samples each step sees.

    Attributes:
        length: of the data set.
        batch_size: samples a step over all processes.
        seed: of the order.
        rank: of this process.
        world_size: number of processes; each takes every `world_size`-th row of the step's batch.
        weighting: how often samples are drawn; `None` visits each once an epoch.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    weighting: Weighting | None = None

    def __post_init__(self) -> None:
        if self.samples < self.batch_size:
            raise ValueError(
                f"got {self.samples} samples, fewer than run.batch_size={self.batch_size}; allowed is a batch that the "
                f"data fills: set run.batch_size={max(1, self.samples)} or less"
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"run.batch_size={self.batch_size} cannot be shared by {self.world_size} processes; allowed is a "
                "multiple of their number"
            )

    @classmethod
    def of(cls, source: Source, batch_size: int, seed: int, rank: int, world_size: int) -> Self:
        """The plan of a source, which may say how often its samples are drawn."""
        return cls(len(source), batch_size, seed, rank, world_size, source.weighting)

    @property
    def samples(self) -> int:
        """Of an epoch, before it is cut into whole batches."""
        return self.length if self.weighting is None else self.weighting.samples

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the order is left out, another rest each epoch."""
        return self.samples // self.batch_size

    def epoch_of(self, step: int) -> int:
        """The epoch that a step (from 0) belongs to."""
        return step // self.steps_per_epoch

    def indices(self, step: int) -> Tensor:
        """This process's samples of a step, int64 `[batch_size / world_size]`."""
        start = step % self.steps_per_epoch * self.batch_size
        order = _order(self.length, self.weighting, self.seed, self.epoch_of(step))
        return order[start : start + self.batch_size][self.rank :: self.world_size]


@functools.lru_cache(maxsize=2)
def _order(length: int, weighting: Weighting | None, seed: int, epoch: int) -> Tensor:
    return sample_order(length, seed, epoch) if weighting is None else weighting.order(seed, epoch)


@dataclass
class _Reader(Dataset["Batch | _Rows"]):
    """Reads the batch of a step; what a worker process holds."""

    source: Source
    views: ViewGenerator
    plan: BatchPlan
    input: Input
    on_unreadable: Literal["skip", "error"]
    known_unreadable: set[int] = field(default_factory=set)

    @property
    def encoded(self) -> bool:
        """Whether JPEG files are left as they are, for a GPU."""
        return self.source.decoder == "nvjpeg"

    def __getitem__(self, step: int) -> "Batch | _Rows":
        return (
            self.read(step, encoded=True)
            if self.encoded
            else self.read(step, encoded=False).batch()
        )

    def read(self, step: int, *, encoded: bool) -> "_Rows":
        """Read the samples of a step, and decode what is not to stay `encoded`."""
        if not timing.is_measured(step):
            return self._read(step, encoded)
        with timing.measuring("read") as watch:
            rows = self._read(step, encoded)
        return replace(rows, seconds=watch.seconds)

    def _read(self, step: int, encoded: bool) -> "_Rows":
        ids = self.plan.indices(step)
        epoch = self.plan.epoch_of(step)
        bad: list[Unreadable] = []
        rows: list[list[Tensor] | Jpeg] = []
        read: list[int] = []
        if self.source.croppable:
            with timing.part("draw"):
                crop_samplers = self.views.crop_samplers(
                    ids, ViewContext(self.input, self.plan.seed, epoch)
                )
        for place, index in enumerate(ids.tolist()):
            for attempt in range(index, index + min(self.plan.length, _MAX_TRIES)):
                candidate = attempt % self.plan.length
                if candidate in self.known_unreadable:
                    continue
                try:
                    if encoded:
                        rows.append(self.source.read_encoded(candidate, crop_samplers[place]))
                    elif self.source.croppable:
                        rows.append(self.source.read_crops(candidate, crop_samplers[place]))
                    else:
                        rows.append([self.source.read(candidate)["x"]])
                    read.append(candidate)
                    break
                except Unreadable as error:
                    if self.on_unreadable == "error":
                        raise
                    self.known_unreadable.add(candidate)
                    bad.append(error)
            else:
                why = f"; the last is {bad[-1]}" if bad else ""
                tries = min(self.plan.length, _MAX_TRIES)
                raise TooManyUnreadable(
                    f"{tries} samples in a row cannot be read, from sample {index} on{why}; see `mezzotint doctor`"
                )
        labels = self.source.targets(torch.tensor(read))
        return _Rows(rows, ids, self.source.croppable, tuple(bad), labels)


@dataclass(frozen=True)
class _Rows:
    """What a batch is made of: of each sample its tensors, or the file that they are still to be cut out of."""

    rows: list[list[Tensor] | Jpeg]
    ids: Tensor
    cropped: bool
    bad: tuple[Unreadable, ...]
    labels: Tensor | None
    seconds: dict[str, float] = field(default_factory=dict)

    def batch(self, device: torch.device | None = None) -> Batch:
        """The batch, on the device that files are decoded on, if there is one.

        Raises:
            RuntimeError: when a file cannot be decoded there.
        """
        files = [row for row in self.rows if isinstance(row, Jpeg)]
        decoded = iter(nvjpeg.decode_crops(files, device) if files and device is not None else [])
        rows = [next(decoded) if isinstance(row, Jpeg) else row for row in self.rows]
        x = tuple(
            torch.stack([tensor.to(device) for tensor in column])
            for column in zip(*rows, strict=True)
        )
        return Batch(x, self.ids, self.cropped, self.bad, self.labels, self.seconds)


class _Steps(Sampler[int]):
    """Steps from one to another."""

    def __init__(self, start: int, stop: int) -> None:
        self.steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def batches(
    source: Source,
    views: ViewGenerator,
    plan: BatchPlan,
    *,
    start: int,
    stop: int,
    workers: int = 0,
    on_unreadable: Literal["skip", "error"] = "skip",
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of steps `start … stop − 1`.

    Args:
        source: of the samples.
        views: decides the crops when the source crops while decoding.
        plan: which samples each step sees.
        start: first step.
        stop: one after the last.
        workers: processes that read; 0 reads in this one. Data in memory needs none.
        on_unreadable: take the next readable sample, or raise `Unreadable`.
        pin_memory: for faster copies to CUDA.

    Raises:
        Unreadable: when `on_unreadable` is `error`.
        TooManyUnreadable: when a long run of samples cannot be read.
    """
    if source.in_memory:
        for step in range(start, stop):
            ids = plan.indices(step)
            labels = source.targets(ids)
            yield Batch((source.read_batch(ids),), ids, labels=labels)
        return
    reader = _Reader(source, views, plan, source.input, on_unreadable)
    loader = DataLoader(
        reader,
        sampler=_Steps(start, stop),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
    )
    for step, read in enumerate(loader, start):
        yield _decoded(reader, step, read) if isinstance(read, _Rows) else read


def _decoded(reader: _Reader, step: int, read: _Rows) -> Batch:
    """Decode on the GPU; a batch with a file that nvJPEG refuses is read again by Pillow, which says what is wrong."""
    try:
        if not timing.is_measured(step):
            return read.batch(nvjpeg.DEVICE)
        with timing.measuring("stack", nvjpeg.DEVICE) as watch:
            batch = read.batch(nvjpeg.DEVICE)
        return replace(batch, seconds=batch.seconds | watch.seconds)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return reader.read(step, encoded=False).batch()
