"""The loop that trains a detector or segmenter.

    source → flips → losses → guard → optimizer → checkpoint → BatchNorm re-estimation → metrics

Order, flips and sampling are functions of seed and step, as in pretraining. Images differ in size
and in number of objects, so this loop is separate; it shares optimizers and their groups,
schedules, guard, checkpoints and log with pretraining. It runs in one process.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from mezzotint.data.detection.source import DetectionSample, DetectionSource, Part
from mezzotint.detection.average_precision import (
    Detections,
    MeanIoU,
    mean_precision,
    named,
    precision_by_class,
)
from mezzotint.detection.model import DetectionModel
from mezzotint.optim.optimizer import Optimizer
from mezzotint.optim.schedules import Schedule
from mezzotint.quant.batch_norm import averaged_statistics
from mezzotint.recipe.component import Component, require_sizes
from mezzotint.seeding import Draws, key_of, sample_order
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import SentScalars, StepGuard
from mezzotint.train.log import Progress, RunLog
from mezzotint.train.settings import Compute
from mezzotint.train.signals import Interrupted, catch_signals
from mezzotint.train.state import load_optimizer_state, optimizer_state
from mezzotint.train.undo import ForwardState
from mezzotint.types import Unreadable
from mezzotint.workers import read_in_workers


class Training(Component):
    """Training settings of a detector or segmenter.

    Args:
        steps: number of optimizer steps.
        batch_size: images per step.
        warmup_steps: steps over which the learning rate rises linearly.
        flip: probability of mirroring a training image.
        clip_norm: largest norm of the gradient; `None` for no limit.
        precise_bn_batches: training batches from which BatchNorm statistics are re-estimated at the
            end (PreciseBN); 0 keeps the running statistics.
        workers: processes that read images; 0 reads in the main process.
        device: device to train on; `auto` is CUDA if available.
        every_minutes: minutes between checkpoints.
    """

    def __init__(
        self,
        *,
        steps: int,
        batch_size: int = 16,
        warmup_steps: int = 100,
        flip: float = 0.5,
        clip_norm: float | None = None,
        precise_bn_batches: int = 200,
        workers: int = 0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        every_minutes: float = 10.0,
    ) -> None:
        require_sizes("training", steps=steps, batch_size=batch_size)
        for name, value in {
            "warmup_steps": warmup_steps,
            "precise_bn_batches": precise_bn_batches,
            "workers": workers,
            "every_minutes": every_minutes,
        }.items():
            if value < 0:
                raise ValueError(f"`training.{name}` must be 0 or more, got {value}. Increase it.")
        if clip_norm is not None and clip_norm <= 0.0:
            raise ValueError(f"`training.clip_norm` must be positive, got {clip_norm}. Try 1.0.")
        if not 0.0 <= flip <= 1.0:
            raise ValueError(f"`training.flip` must be in [0, 1], got {flip}. Try 0.5.")
        self.steps, self.batch_size, self.warmup_steps, self.flip = (
            steps,
            batch_size,
            warmup_steps,
            flip,
        )
        self.clip_norm, self.precise_bn_batches, self.workers = (
            clip_norm,
            precise_bn_batches,
            workers,
        )
        self.device, self.every_minutes = device, every_minutes

    def torch_device(self) -> torch.device:
        """Return the device to train on."""
        return Compute(device=self.device).torch_device()


def train(
    network: DetectionModel,
    source: DetectionSource,
    optimizer: Optimizer,
    schedule: Schedule,
    training: Training,
    folder: Path,
    *,
    seed: int,
    progress: str = "bar",
) -> dict[str, str]:
    """Train a network in place, from the newest checkpoint in `folder` if there is one.

    Returns:
        The reason for each image that could not be read; the next one replaced it.

    Raises:
        Interrupted: after a signal; a checkpoint was saved.
        NotFinite: if the loss is not finite six times in a row.
        ValueError: for a batch size larger than the number of training images.
    """
    count, size = source.count("train"), training.batch_size
    if count < size:
        raise ValueError(
            f"`training.batch_size` must be at most the {count} training images, got {size}. "
            "Lower it."
        )
    device = training.torch_device()
    network.to(device).train()
    built = optimizer.build(network, size)
    store, guard = CheckpointStore(folder / "checkpoints"), StepGuard(patience=5)
    before = ForwardState(network)
    start = _restore(store, network, built)
    bar = Progress(training.steps, start, progress)
    log, saved = RunLog(folder, {}, (), start, bar), time.monotonic()
    unreadable: dict[str, str] = {}
    try:
        with catch_signals() as flag:
            stream = _batches(source, training, seed, start, unreadable)
            for step in range(start, training.steps):
                rise = min(1.0, (step + 1) / max(1, training.warmup_steps))
                for group in built.param_groups:
                    group["lr"] = (
                        group["base_lr"]
                        * rise
                        * schedule(step, training.steps, max(1, count // size))
                    )
                before.keep()
                parts = _step(network, next(stream), built, before, guard, training, seed, step)
                done = step + 1
                if done % 20 == 0 or done == training.steps:
                    log.line(done, {**parts, "lr": built.param_groups[0]["lr"]})
                late = time.monotonic() - saved > 60 * training.every_minutes
                if late or (flag.number and done < training.steps):
                    store.save(done, network.named_tensors(), optimizer_state(built), {})
                    saved = time.monotonic()
                if flag.number and done < training.steps:
                    stop = Interrupted(flag.number)
                    stop.add_note("A checkpoint is saved: the same command goes on from it.")
                    raise stop
    finally:
        log.close()
        bar.close()
    if training.precise_bn_batches:
        recompute_batch_norm(network, source, training, seed)
    network.eval()
    return unreadable


def _step(
    network: DetectionModel, samples: Sequence[DetectionSample], optimizer: torch.optim.Optimizer,
    before: ForwardState, guard: StepGuard, training: Training, seed: int, step: int,
) -> dict[str, float]:  # fmt: skip
    """Update the weights if everything is finite, and return the parts of the loss."""
    device = training.torch_device()
    torch.manual_seed(key_of(seed, step, "layers"))  # sampling of regions, sizes, dropout
    optimizer.zero_grad(set_to_none=True)
    parts = network.losses([image_of(sample, device) for sample in samples], samples)
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()
    trained = [p for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    scalars = SentScalars(loss.detach(), norm, before.is_finite(device), parts).read()
    if guard.allows(step, scalars):
        if training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, training.clip_norm, norm)
        optimizer.step()
    else:
        before.abandon(step)
    return {"loss": scalars.loss, "grad_norm": scalars.grad_norm, **scalars.logs}


@torch.no_grad()
def recompute_batch_norm(
    network: DetectionModel, source: DetectionSource, training: Training, seed: int
) -> None:
    """Re-estimate the statistics of every BatchNorm in training mode, as means over batches."""
    network.train()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training]
    device = training.torch_device()
    stream = _batches(source, training, seed, 0, {})
    with averaged_statistics(norms):
        for step in range(training.precise_bn_batches):
            torch.manual_seed(key_of(seed, step, "norms"))
            batch = next(stream)
            network.losses([image_of(sample, device) for sample in batch], batch)
    network.eval()


@dataclasses.dataclass(frozen=True)
class Scores:
    """Metrics of a trained network on the test images.

    Attributes:
        metrics: means over classes: `boxes/AP50` and so on, `masks/AP50`, or `classes/mIoU`.
        by_class: one row per class: its name (`class`), its number of `objects` (or pixels), and
            its own metrics (`classes/IoU` in place of the mean); NaN for a class without objects.
        unreadable: the reason for each test image that could not be read, and was left out.
    """

    metrics: dict[str, float]
    by_class: list[dict[str, Any]]
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


@torch.no_grad()
def score(network: DetectionModel, source: DetectionSource, training: Training) -> Scores:
    """Compute the metrics of a network on the test images."""
    device = training.torch_device()
    network.to(device).eval()
    count = source.count("test")
    loader = read_in_workers(
        _Reader(source, "test"), workers=training.workers, batch_size=None, sampler=range(count)
    )
    seen: list[DetectionSample] = []
    found: list[Detections] = []
    iou = MeanIoU(len(source.classes) + 1)
    unreadable: dict[str, str] = {}
    for sample, reasons in loader:
        unreadable |= reasons
        if sample is None:
            continue
        (one,) = network.predict([image_of(sample, device)])
        if isinstance(one, Tensor):
            iou.add(one, sample.classes)
        else:
            found.append(one)
            seen.append(
                dataclasses.replace(sample, image=sample.image[:, :0])
            )  # pixels are no longer needed
    if network.needs == "classes":
        lines = zip(
            ("background", *source.classes),
            iou.counts.sum(1).tolist(),
            iou.by_class().tolist(),
            strict=True,
        )
        return Scores(
            {"classes/mIoU": iou.mean()},
            [{"class": c, "objects": n, "classes/IoU": v} for c, n, v in lines],
            unreadable,
        )
    if not seen:
        raise ValueError(f"None of the {count} test images can be read. Run `mezzotint doctor`.")
    wanted = torch.cat([one.labels[~one.ignored] for one in seen]).bincount(
        minlength=len(source.classes)
    )
    by_class = [
        {"class": name, "objects": n}
        for name, n in zip(source.classes, wanted.tolist(), strict=True)
    ]
    metrics: dict[str, float] = {}
    for what in ("boxes", "masks") if network.needs == "masks" else ("boxes",):
        table = precision_by_class(found, seen, len(source.classes), masks=what == "masks")
        metrics |= {f"{what}/{name}": value for name, value in mean_precision(table).items()}
        for line, row in zip(by_class, table, strict=True):
            line |= {f"{what}/{name}": value for name, value in named(row).items()}
    return Scores(metrics, by_class, unreadable)


_Read = tuple[DetectionSample | None, dict[str, str]]
"""A sample, `None` if there is none, and the reason for each image that could not be read."""


class _Reader(Dataset[_Read]):
    """Read samples; the next readable training image replaces an unreadable one."""

    def __init__(self, source: DetectionSource, part: Part) -> None:
        self.source, self.part = source, part

    def __len__(self) -> int:
        return self.source.count(self.part)

    def __getitem__(self, index: int) -> _Read:
        reasons: dict[str, str] = {}
        for other in range(index, index + (len(self) if self.part == "train" else 1)):
            try:
                return self.source.read(self.part, other % len(self)), reasons
            except Unreadable as error:
                reasons[error.id] = error.reason
        return None, reasons


def _batches(
    source: DetectionSource, training: Training, seed: int, start: int, unreadable: dict[str, str]
) -> Iterator[list[DetectionSample]]:
    """Yield batches from a step on, without end; add what cannot be read to `unreadable`.

    Each epoch has its own order; its last, incomplete batch is dropped.
    """
    count, size = source.count("train"), training.batch_size
    each = count // size

    def indices() -> Iterator[list[int]]:
        step = start
        while True:
            order = sample_order(count, seed, step // each)
            yield order[step % each * size :][:size].tolist()
            step += 1

    loader = read_in_workers(
        _Reader(source, "train"),
        workers=training.workers,
        collate=list,
        batch_sampler=_Endless(indices()),
    )
    for step, read in enumerate(loader, start):
        batch = [sample for sample, _ in read if sample is not None]
        for _, reasons in read:
            unreadable |= reasons
        if len(batch) < size:
            raise ValueError(
                f"None of the {count} training images can be read. Run `mezzotint doctor`."
            )
        ids = torch.arange(len(batch)) + step * size
        flips = Draws(ids, key_of("flip", seed)).chance("flip", training.flip).tolist()
        yield [
            mirrored(sample) if flip else sample for sample, flip in zip(batch, flips, strict=True)
        ]


class _Endless:
    """Wrap an endless iterator of indices for `DataLoader`, which iterates once per epoch."""

    def __init__(self, indices: Iterator[list[int]]) -> None:
        self.indices = indices

    def __iter__(self) -> Iterator[list[int]]:
        return self.indices


def mirrored(sample: DetectionSample) -> DetectionSample:
    """Mirror an image and its objects horizontally."""
    left, top, right, bottom = sample.boxes.unbind(1)
    width = sample.image.shape[2]
    return dataclasses.replace(
        sample,
        image=sample.image.flip(2),
        boxes=torch.stack([width - right, top, width - left, bottom], dim=1),
        masks=None if sample.masks is None else sample.masks.flip(2),
        classes=None if sample.classes is None else sample.classes.flip(1),
    )


def image_of(sample: DetectionSample, device: torch.device) -> Tensor:
    """Convert an image to float `[3, H, W]` in [0, 1] on a device."""
    return sample.image.to(device).float() / 255.0


def _restore(
    store: CheckpointStore, network: DetectionModel, optimizer: torch.optim.Optimizer
) -> int:
    saved, _ = store.latest()
    if saved is None:
        return 0
    load_tensors(network, saved.model)
    load_optimizer_state(optimizer, saved.optimizer)
    return saved.step


def load_tensors(network: DetectionModel, tensors: dict[str, Tensor]) -> None:
    """Load tensors that `named_tensors` returned."""
    own = network.named_tensors()
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise ValueError(
            f"The checkpoint and the network differ, first in {odd!r}. Use the recipe of the run."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
