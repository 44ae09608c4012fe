"""Turn a source into batches, in an order that is a function of (seed, epoch) alone.

The only state is the step: nothing is saved or restored, and the number of workers or processes
never changes which samples a step sees. In-memory data is indexed in the main process; worker
processes read everything else, and crop large images while decoding them.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mezzotint import timing
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.balance import EpochOrder
from mezzotint.data.image import nvjpeg
from mezzotint.data.image.nvjpeg import Jpeg
from mezzotint.data.source import Source
from mezzotint.seeding import sample_order
from mezzotint.types import Batch, Input, Unreadable
from mezzotint.workers import read_in_workers

_PART = 1 << 20  # samples of an order that are computed at once
_MAX_TRIES = 1000


class TooManyUnreadable(ValueError):
    """More samples are unreadable than the recipe allows."""


@dataclass
class BatchPlan:
    """Which samples each step sees.

    Attributes:
        length: size of the data set.
        batch_size: samples per step, over all processes.
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of processes; the first takes the first rows of a batch, and so on, so
            that rows gathered from all of them have the order of one.
        weighting: how often samples are drawn; `None` visits each once an epoch.
    """

    length: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    weighting: EpochOrder | None = None

    def __post_init__(self) -> None:
        if self.samples < self.batch_size:
            raise ValueError(
                f"`run.batch_size` must be at most {max(1, self.samples)}, the samples of an epoch"
                f", got {self.batch_size}. Lower it."
            )
        if self.batch_size % self.world_size:
            raise ValueError(
                f"`run.batch_size` must be a multiple of the {self.world_size} processes, got "
                f"{self.batch_size}. Change either."
            )

    @classmethod
    def of(cls, source: Source, batch_size: int, seed: int, rank: int, world_size: int) -> Self:
        """Make the plan of a source, with its weighting."""
        return cls(len(source), batch_size, seed, rank, world_size, source.weighting)

    @staticmethod
    def samples_of(source: Source) -> int:
        """Return the samples of an epoch of a source."""
        return len(source) if source.weighting is None else source.weighting.samples

    @property
    def samples(self) -> int:
        """Samples of an epoch, before it is cut into whole batches."""
        return self.length if self.weighting is None else self.weighting.samples

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the incomplete last one is dropped."""
        return self.samples // self.batch_size

    def epoch_of(self, step: int) -> int:
        """Return the epoch of a step, both from 0."""
        return step // self.steps_per_epoch

    def part_of(self, step: int) -> tuple[int, int, int]:
        """Return the part of an epoch's order that a step is in, its row there, and its size.

        A part has the samples of some steps, so that the order of many samples is never held. It is
        a sixteenth of an epoch at least, since each part looks at all samples.
        """
        steps = max(1, max(_PART, self.samples // 16) // self.batch_size)
        part, row = divmod(step % self.steps_per_epoch, steps)
        return part, row, steps * self.batch_size

    def indices(self, step: int) -> Tensor:
        """Return this process's samples of a step, int64 `[batch_size / world_size]`."""
        part, row, size = self.part_of(step)
        order = _order(self.length, self.weighting, self.seed, self.epoch_of(step), part, size)
        own = self.batch_size // self.world_size
        start = row * self.batch_size + self.rank * own
        return order[start : start + own].long()


@functools.lru_cache(maxsize=2)
def _order(
    length: int, weighting: EpochOrder | None, seed: int, epoch: int, part: int, size: int
) -> Tensor:
    """Return the part with this number of an epoch's order, `size` positions of it."""
    start, stop = part * size, (part + 1) * size
    order = (
        sample_order(length, seed, epoch, start=start, stop=stop)
        if weighting is None
        else weighting.order(seed, epoch, start=start, stop=stop)
    )
    return order.to(torch.int32) if length < 2**31 else order


@dataclass
class _Reader(Dataset["Batch | _Rows"]):
    """The part of the loader that worker processes get: it reads the batch of a step."""

    source: Source
    views: ViewGenerator
    plan: BatchPlan
    input: Input
    on_unreadable: Literal["skip", "error"]
    known_unreadable: set[int] = field(default_factory=set)

    @property
    def encoded(self) -> bool:
        """Whether JPEG files stay encoded for a GPU."""
        return self.source.decoder == "nvjpeg"

    def __getitem__(self, chosen: "_Chosen") -> "Batch | _Rows":
        step, ids = chosen[0], torch.from_numpy(chosen[1])
        return (
            self.read(step, ids, encoded=True)
            if self.encoded
            else self.read(step, ids, encoded=False).batch()
        )

    def read(self, step: int, ids: Tensor, *, encoded: bool) -> "_Rows":
        """Read the samples of a step; with `encoded`, leave plain JPEG files to the GPU."""
        if not timing.is_measured(step):
            return self._read(step, ids, encoded)
        with timing.measuring("read") as watch:
            rows = self._read(step, ids, encoded)
        return replace(rows, seconds=watch.seconds)

    def _read(self, step: int, ids: Tensor, encoded: bool) -> "_Rows":
        epoch = self.plan.epoch_of(step)
        bad: list[Unreadable] = []
        rows: list[list[Tensor] | Jpeg] = []
        read: list[int] = []
        if self.source.croppable:
            with timing.part("draw"):
                crop_samplers = self.views.crop_samplers(
                    ids, ViewContext(self.input, self.plan.seed, epoch)
                )
        for position, index in enumerate(ids.tolist()):
            for attempt in range(index, index + min(self.plan.length, _MAX_TRIES)):
                candidate = attempt % self.plan.length
                if candidate in self.known_unreadable:
                    continue
                try:
                    if encoded:
                        rows.append(self.source.read_encoded(candidate, crop_samplers[position]))
                    elif self.source.croppable:
                        rows.append(self.source.read_crops(candidate, crop_samplers[position]))
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
                why = f"; the last is {bad[-1]}".rstrip(".") if bad else ""
                tries = min(self.plan.length, _MAX_TRIES)
                raise TooManyUnreadable(
                    f"{tries} samples in a row are unreadable, from sample {index} on{why}. Run "
                    "`mezzotint doctor` on the data."
                )
        labels = self.source.targets(torch.tensor(read))
        return _Rows(rows, ids, self.source.croppable, tuple(bad), labels)


@dataclass(frozen=True)
class _Rows:
    """The rows of a batch before stacking: tensors, or JPEG files still to be decoded."""

    rows: list[list[Tensor] | Jpeg]
    ids: Tensor
    cropped: bool
    bad: tuple[Unreadable, ...]
    labels: Tensor | None
    seconds: dict[str, float] = field(default_factory=dict)

    def batch(self, device: torch.device | None = None) -> Batch:
        """Stack the batch, on the device that decodes files, if there is one.

        Raises:
            RuntimeError: when the device cannot decode a file.
        """
        files = [row for row in self.rows if isinstance(row, Jpeg)]
        decoded = iter(nvjpeg.decode_crops(files, device) if files and device is not None else [])
        rows = [next(decoded) if isinstance(row, Jpeg) else row for row in self.rows]
        x = tuple(
            torch.stack([tensor.to(device) for tensor in column])
            for column in zip(*rows, strict=True)
        )
        return Batch(x, self.ids, self.cropped, self.bad, self.labels, self.seconds)


_Chosen = tuple[int, npt.NDArray[np.int64]]
"""A step and the indices of its samples, which a worker process gets as plain numbers."""


class _Steps(Sampler[_Chosen]):
    """Samples whole batches: the steps `start … stop − 1` with the samples of each.

    The order of an epoch is computed here, once in the main process, and not in every worker.
    """

    def __init__(self, plan: BatchPlan, start: int, stop: int) -> None:
        self.plan, self.steps = plan, range(start, stop)

    def __iter__(self) -> Iterator[_Chosen]:
        return ((step, self.plan.indices(step).numpy()) for step in self.steps)

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
    timeout_s: float = 600.0,
    while_waiting: Callable[[], None] | None = None,
) -> Iterator[Batch]:
    """Yield the batches of steps `start … stop − 1`.

    Args:
        source: source of the samples.
        views: view generator, which chooses the crops when the source crops while decoding.
        plan: which samples each step sees.
        start: first step.
        stop: one after the last step.
        workers: processes that read; 0 reads in this process. In-memory data needs none.
        on_unreadable: `skip` takes the next readable sample, `error` raises `Unreadable`.
        pin_memory: whether to pin batches for faster copies to CUDA.
        timeout_s: seconds that the workers may take for a batch.
        while_waiting: called while a batch is awaited; may raise.

    Raises:
        Unreadable: when `on_unreadable` is `error`.
        TooManyUnreadable: when a long run of samples is unreadable.
        WorkerLost: when a worker ends early, or a batch takes longer than `timeout_s`.
    """
    if source.in_memory:
        for step in range(start, stop):
            ids = plan.indices(step)
            labels = source.targets(ids)
            yield Batch((source.read_batch(ids),), ids, labels=labels)
        return
    reader = _Reader(source, views, plan, source.input, on_unreadable)
    loader = read_in_workers(
        reader,
        workers=workers,
        timeout_s=timeout_s,
        while_waiting=while_waiting,
        sampler=_Steps(plan, start, stop),
        batch_size=None,
        prefetch_factor=2 if workers else None,
        pin_memory=pin_memory,
    )
    for step, read in enumerate(loader, start):
        yield _decoded(reader, step, read) if isinstance(read, _Rows) else read


def _decoded(reader: _Reader, step: int, read: _Rows) -> Batch:
    """Decode on the GPU; Pillow reads a batch again that nvJPEG refuses, and names the reason."""
    try:
        if not timing.is_measured(step):
            return read.batch(nvjpeg.DEVICE)
        with timing.measuring("stack", nvjpeg.DEVICE) as watch:
            batch = read.batch(nvjpeg.DEVICE)
        return replace(batch, seconds=batch.seconds | watch.seconds)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return reader.read(step, reader.plan.indices(step), encoded=False).batch()
