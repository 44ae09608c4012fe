"""The loop that trains a localizer: order, flips and sampling are functions of seed and step, as everywhere.

    scenes → flips → losses → guard → optimizer → checkpoint; then exact norms, and the figures

It is a loop of its own because images have sizes and numbers of objects of their own; what it is
made of (optimizers and their groups, schedules, guard, checkpoints, log) is that of pretraining. It
runs in one process.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset

from mezzotint.data.detection.source import DetectionSample, DetectionSource, Part
from mezzotint.detection.average_precision import (
    Found,
    MeanIoU,
    mean_precision,
    named,
    precision_by_class,
)
from mezzotint.detection.localizer import Localizer
from mezzotint.optim.optimizer import Optimizer
from mezzotint.optim.schedules import Schedule
from mezzotint.optim.state import load_optimizer_state, optimizer_state
from mezzotint.quant.batch_norm import averaged_statistics
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of, sample_order
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import Interrupted, StepGuard, catch_signals
from mezzotint.train.log import Progress, RunLog
from mezzotint.train.settings import Compute


class Training(Component):
    """How long a localizer is trained, and on how much at once.

    Args:
        steps: changes of the weights.
        batch_size: images a step.
        warmup_steps: linear rise of the learning rate.
        flip: probability of mirroring a training image.
        clip_norm: limit of the gradient's norm; `None` for no limit.
        exact_norms: training batches from which the statistics of BatchNorm are measured anew at
            the end (PreciseBN); 0 keeps the running ones.
        workers: processes that read images; 0 reads in this one.
        device: `auto` is CUDA where there is one.
        every_minutes: save a checkpoint this often.
    """

    def __init__(
        self,
        *,
        steps: int,
        batch_size: int = 16,
        warmup_steps: int = 100,
        flip: float = 0.5,
        clip_norm: float | None = None,
        exact_norms: int = 200,
        workers: int = 0,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        every_minutes: float = 10.0,
    ) -> None:
        if (
            steps < 1
            or batch_size < 1
            or min(warmup_steps, exact_norms, workers) < 0
            or not 0.0 <= flip <= 1.0
        ):
            raise ValueError(
                f"got steps={steps}, batch_size={batch_size}, warmup_steps={warmup_steps}, exact_norms={exact_norms}, "
                f"workers={workers}, flip={flip}; allowed are 1 step and image or more, 0 or more, and a share"
            )
        self.steps, self.batch_size, self.warmup_steps, self.flip = (
            steps,
            batch_size,
            warmup_steps,
            flip,
        )
        self.clip_norm, self.exact_norms, self.workers = clip_norm, exact_norms, workers
        self.device, self.every_minutes = device, every_minutes

    def torch_device(self) -> torch.device:
        """Where it runs."""
        return Compute(device=self.device).torch_device()


def train(
    network: Localizer,
    scenes: DetectionSource,
    optimizer: Optimizer,
    schedule: Schedule,
    training: Training,
    folder: Path,
    *,
    seed: int,
    progress: str = "bar",
) -> None:
    """Train in place; goes on from the newest checkpoint in `folder`, if there is one.

    Raises:
        Interrupted: after a signal; a checkpoint was saved.
        NotFinite: when the loss is not finite six times in a row.
        ValueError: when there are fewer scenes than a batch takes.
    """
    count, size = scenes.count("train"), training.batch_size
    if count < size:
        raise ValueError(f"got {count} scenes to learn from and batches of {size}; allowed are as many or more: lower "
                         "training.batch_size")  # fmt: skip
    device = training.torch_device()
    network.to(device).train()
    built = optimizer.build(network, size)
    store, guard = CheckpointStore(folder / "checkpoints"), StepGuard(patience=5)
    start = _restore(store, network, built)
    bar = Progress(training.steps, start, progress)
    log, saved = RunLog(folder, {}, (), start, bar), time.monotonic()
    try:
        with catch_signals() as flag:
            stream = _batches(scenes, training, seed, start)
            for step in range(start, training.steps):
                rise = min(1.0, (step + 1) / max(1, training.warmup_steps))
                for group in built.param_groups:
                    group["lr"] = (
                        group["base_lr"]
                        * rise
                        * schedule(step, training.steps, max(1, count // size))
                    )
                parts = _step(network, next(stream), built, guard, training, seed, step, device)
                done = step + 1
                if done % 20 == 0 or done == training.steps:
                    log.line(done, {**parts, "lr": built.param_groups[0]["lr"]})
                late = time.monotonic() - saved > 60 * training.every_minutes
                if late or (flag.number and done < training.steps):
                    store.save(done, network.own_tensors(), optimizer_state(built), {})
                    saved = time.monotonic()
                if flag.number and done < training.steps:
                    raise Interrupted(flag.number)
    finally:
        log.close()
        bar.close()
    if training.exact_norms:
        exact_norms(network, scenes, training, seed)
    network.eval()


def _step(
    network: Localizer, scenes: Sequence[DetectionSample], optimizer: torch.optim.Optimizer, guard: StepGuard,
    training: Training, seed: int, step: int, device: torch.device,
) -> dict[str, float]:  # fmt: skip
    """Change the weights, if all is finite; returns the parts of the loss."""
    torch.manual_seed(key_of(seed, step, "layers"))  # sampling of regions, sizes, dropout
    optimizer.zero_grad(set_to_none=True)
    parts = network.losses([image_of(scene, device) for scene in scenes], scenes)
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [p for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if guard.allows(step, float(loss.detach()), float(norm), device):
        if training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, training.clip_norm, norm)
        optimizer.step()
    logs = {name: float(part.detach()) for name, part in parts.items()}
    return {"loss": float(loss.detach()), "grad_norm": float(norm), **logs}


@torch.no_grad()
def exact_norms(network: Localizer, scenes: DetectionSource, training: Training, seed: int) -> None:
    """Measure the statistics of every BatchNorm that learns anew, as the mean over training batches."""
    network.train()
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training]
    device = training.torch_device()
    stream = _batches(scenes, training, seed, 0)
    with averaged_statistics(norms):
        for step in range(training.exact_norms):
            torch.manual_seed(key_of(seed, step, "norms"))
            batch = next(stream)
            network.losses([image_of(scene, device) for scene in batch], batch)
    network.eval()


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a trained network is worth on the scenes to be scored.

    Attributes:
        figures: means over classes: `boxes/AP50` and so on, `masks/AP50`, or `classes/mIoU`.
        by_class: a line for each class with its `class`, how many `objects` (or pixels) of it there
            are, and its own figures: the same, or `classes/IoU`; NaN where there is nothing to
            find.
    """

    figures: dict[str, float]
    by_class: list[dict[str, Any]]


@torch.no_grad()
def score(network: Localizer, scenes: DetectionSource, training: Training) -> Scores:
    """Measure a network on the scenes to be scored."""
    device = training.torch_device()
    network.to(device).eval()
    count = scenes.count("test")
    loader = DataLoader(
        _Reader(scenes, "test"), None, sampler=range(count), num_workers=training.workers
    )
    seen: list[DetectionSample] = []
    found: list[Found] = []
    iou = MeanIoU(len(scenes.classes) + 1)
    for scene in loader:
        (one,) = network.find([image_of(scene, device)])
        if isinstance(one, Tensor):
            iou.add(one, scene.classes)
        else:
            found.append(one)
            seen.append(
                dataclasses.replace(scene, image=scene.image[:, :0])
            )  # the pixels are no longer needed
    if network.needs == "classes":
        lines = zip(
            ("background", *scenes.classes),
            iou.counts.sum(1).tolist(),
            iou.by_class().tolist(),
            strict=True,
        )
        return Scores(
            {"classes/mIoU": iou.mean()},
            [{"class": c, "objects": n, "classes/IoU": v} for c, n, v in lines],
        )
    wanted = torch.cat([one.labels[~one.ignored] for one in seen]).bincount(
        minlength=len(scenes.classes)
    )
    by_class = [
        {"class": name, "objects": n}
        for name, n in zip(scenes.classes, wanted.tolist(), strict=True)
    ]
    figures: dict[str, float] = {}
    for what in ("boxes", "masks") if network.needs == "masks" else ("boxes",):
        table = precision_by_class(found, seen, len(scenes.classes), masks=what == "masks")
        figures |= {f"{what}/{name}": value for name, value in mean_precision(table).items()}
        for line, row in zip(by_class, table, strict=True):
            line |= {f"{what}/{name}": value for name, value in named(row).items()}
    return Scores(figures, by_class)


class _Reader(Dataset[DetectionSample]):
    def __init__(self, scenes: DetectionSource, part: Part) -> None:
        self.scenes, self.part = scenes, part

    def __len__(self) -> int:
        return self.scenes.count(self.part)

    def __getitem__(self, index: int) -> DetectionSample:
        return self.scenes.read(self.part, index)


def _batches(
    scenes: DetectionSource, training: Training, seed: int, start: int
) -> Iterator[list[DetectionSample]]:
    """Batches from a step on, without end; each epoch in its own order, its rest left out."""
    count, size = scenes.count("train"), training.batch_size
    each = count // size

    def places() -> Iterator[list[int]]:
        step = start
        while True:
            order = sample_order(count, seed, step // each)
            yield order[step % each * size :][:size].tolist()
            step += 1

    loader = DataLoader(
        _Reader(scenes, "train"),
        batch_sampler=_Endless(places()),
        num_workers=training.workers,
        collate_fn=list,
    )
    for step, batch in enumerate(loader, start):
        ids = torch.arange(len(batch)) + step * size
        flips = Draws(ids, key_of("flip", seed)).chance("flip", training.flip).tolist()
        yield [mirrored(scene) if flip else scene for scene, flip in zip(batch, flips, strict=True)]


class _Endless:
    """An iterable over places, as `DataLoader` takes it."""

    def __init__(self, places: Iterator[list[int]]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[list[int]]:
        return self.places


def mirrored(scene: DetectionSample) -> DetectionSample:
    """A scene with left and right exchanged."""
    left, top, right, bottom = scene.boxes.unbind(1)
    width = scene.image.shape[2]
    return dataclasses.replace(
        scene,
        image=scene.image.flip(2),
        boxes=torch.stack([width - right, top, width - left, bottom], dim=1),
        masks=None if scene.masks is None else scene.masks.flip(2),
        classes=None if scene.classes is None else scene.classes.flip(1),
    )


def image_of(scene: DetectionSample, device: torch.device) -> Tensor:
    """The image as networks take it: float `[3, H, W]` in [0, 1]."""
    return scene.image.to(device).float() / 255.0


def _restore(store: CheckpointStore, network: Localizer, optimizer: torch.optim.Optimizer) -> int:
    saved, _ = store.latest()
    if saved is None:
        return 0
    put_back(network, saved.model)
    load_optimizer_state(optimizer, saved.optimizer)
    return saved.step


def put_back(network: Localizer, tensors: dict[str, Tensor]) -> None:
    """Give a network the tensors that `own_tensors` named."""
    own = network.own_tensors()
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise ValueError(
            f"the checkpoint and the network differ, first in {odd!r}; use the run's own recipe"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
