"""The `run` section of a recipe: everything about a run that is not a component of it."""

import math
import os
from collections.abc import Sequence
from typing import Literal

import torch

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.evaluation.projection import Layout
from mezzotint.methods.method import Method
from mezzotint.recipe.component import Component
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.online import Classifier

Precision = Literal["fp32", "bf16", "fp16"]


class Loader(Component):
    """How samples reach the loop.

    Args:
        workers: processes that read and crop; none for data in memory. `None` takes one a core, at
            most 8.
        on_unreadable: `skip` takes the next readable sample in place of one that cannot be read, counts it
            and names it; `error` stops at the first.
        max_unreadable_fraction: share of the data set that may be unreadable before the run stops.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        on_unreadable: Literal["skip", "error"] = "skip",
        max_unreadable_fraction: float = 0.05,
    ) -> None:
        if workers is not None and workers < 0:
            raise ValueError(
                f"run.loader.workers: got {workers}; allowed is 0 or more: use 0 to read in the main process"
            )
        if not 0.0 <= max_unreadable_fraction < 1.0:
            raise ValueError(
                f"run.loader.max_unreadable_fraction: got {max_unreadable_fraction}; allowed is [0, 1): use 0.05"
            )
        self.workers = workers
        self.on_unreadable = on_unreadable
        self.max_unreadable_fraction = max_unreadable_fraction

    def processes(self, source: Source) -> int:
        """How many worker processes read this source."""
        if source.in_memory:
            return 0
        if self.workers is not None:
            return self.workers
        return min(8, max(1, len(os.sched_getaffinity(0)) // dist.world_size()))


class Checkpoints(Component):
    """When to save, and how much to keep.

    Args:
        every_minutes: save when this much time has passed since the last checkpoint.
        every_steps: save also every so many steps; 0 for never.
        keep: how many checkpoints stay; at least 2, so that a damaged newest one costs nothing but
            time.
    """

    def __init__(self, *, every_minutes: float = 10.0, every_steps: int = 0, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(
                f"run.checkpoints.keep: got {keep}; allowed is 2 or more, so that one is always good"
            )
        if every_minutes <= 0 or every_steps < 0:
            raise ValueError(
                f"run.checkpoints: got every_minutes={every_minutes}, every_steps={every_steps}; "
                "allowed is a positive time and 0 or more steps"
            )
        self.every_minutes = every_minutes
        self.every_steps = every_steps
        self.keep = keep


class Guard(Component):
    """What to do when the loss or a gradient is not finite.

    Args:
        action: `abort` stops with the last good weights saved; `skip` leaves the step out.
        patience: how many steps in a row may be skipped before the run stops.
    """

    def __init__(self, *, action: Literal["abort", "skip"] = "skip", patience: int = 5) -> None:
        if patience < 0:
            raise ValueError(
                f"run.guard.patience: got {patience}; allowed is 0 or more: use action=abort to stop at once"
            )
        self.action = action
        self.patience = 0 if action == "abort" else patience


class Log(Component):
    """What is written down during the run.

    Args:
        every_steps: a line in `metrics.jsonl` this often.
        knn_epochs: online kNN of the encoder this often, when the data has labels; 0 for never.
        map_epochs: a map of the features this often, and before training, for the report; 0 for
            never.
        map_layout: how the report lays out its maps; `umap` needs mezzotint[umap].
        trackers: where the metrics go besides the file.
        classifier: a linear classifier that learns along on detached features; `None` for none.
    """

    def __init__(
        self,
        *,
        every_steps: int = 10,
        knn_epochs: int = 10,
        map_epochs: int = 0,
        map_layout: Layout = "tsne",
        trackers: list[Literal["tensorboard", "wandb", "mlflow"]] | None = None,
        classifier: Classifier | None = None,
    ) -> None:
        if every_steps < 1 or knn_epochs < 0 or map_epochs < 0:
            raise ValueError(
                f"run.log: got every_steps={every_steps}, knn_epochs={knn_epochs}, map_epochs={map_epochs}; allowed is "
                "1 step or more, and 0 epochs (never) or more"
            )
        self.every_steps = every_steps
        self.knn_epochs = knn_epochs
        self.map_epochs = map_epochs
        self.map_layout: Layout = map_layout
        self.trackers: Sequence[str] = trackers or ()
        self.classifier = classifier


class Compute(Component):
    """Where and in which arithmetic the run computes.

    Args:
        device: `auto` is CUDA where there is one, else the CPU.
        precision: of the forward and backward pass; weights and optimizer stay in fp32. fp16 uses a
            gradient scaler.
        channels_last: memory format of images and convolutions.
        compile: run the method through `torch.compile`.
        threads: of the CPU; `None` leaves torch's choice.
        sync_batch_norm: BatchNorm over the batch of all processes, on CPU and GPU; in one branch
            alone, `online` or `target`, its momentum copy; or in none.
        average: decay of a running average of the weights, which is then what the run leaves, and
            what is evaluated; 0.9999 is usual in fine-tuning, `None` for the last weights.
    """

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Precision = "fp32",
        channels_last: bool = True,
        compile: bool = False,
        threads: int | None = None,
        sync_batch_norm: bool | Literal["online", "target"] = True,
        average: float | None = None,
    ) -> None:
        if average is not None and not 0.0 < average < 1.0:
            raise ValueError(
                f"run.compute.average: got {average}; allowed is a decay in (0, 1), or null for none"
            )
        self.device = device
        self.precision: Precision = precision
        self.channels_last = channels_last
        self.compile = compile
        self.threads = threads
        self.sync_batch_norm: bool | Literal["online", "target"] = sync_batch_norm
        self.average = average

    def torch_device(self) -> torch.device:
        """This process's device.

        Raises:
            ValueError: when CUDA is asked for and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "run.compute.device: got cuda, and there is none here; allowed: auto, cpu"
            )
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", dist.local_rank())


class Run(Component):
    """How long, how many at once, and from which seed.

    Args:
        epochs: passes over the data.
        batch_size: samples a step over all processes and micro-batches.
        seed: of everything random.
        micro_batches: split each process's share of a batch into so many passes whose gradients are
            accumulated.
        clip_norm: limit of the gradient's norm; `None` for no limit.
        compute: device, precision, compilation.
        loader: workers and bad samples.
        checkpoints: when to save.
        guard: what to do about non-finite numbers.
        log: how often to report.
    """

    def __init__(
        self,
        *,
        epochs: int = 100,
        batch_size: int = 256,
        seed: int = 0,
        micro_batches: int = 1,
        clip_norm: float | None = None,
        compute: Compute = Compute(),  # noqa: B008 - keeps no state
        loader: Loader = Loader(),  # noqa: B008
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008
        guard: Guard = Guard(),  # noqa: B008
        log: Log = Log(),  # noqa: B008
    ) -> None:
        for name, value, least in (
            ("epochs", epochs, 1),
            ("batch_size", batch_size, 1),
            ("micro_batches", micro_batches, 1),
        ):
            if value < least:
                raise ValueError(f"run.{name}: got {value}; allowed is {least} or more")
        if clip_norm is not None and not (clip_norm > 0 and math.isfinite(clip_norm)):
            raise ValueError(
                f"run.clip_norm: got {clip_norm}; allowed is a positive number, or null for none"
            )
        if log.classifier is not None and compute.compile:
            raise ValueError(
                "run.log.classifier: got one with run.compute.compile=true, which hides the features; allowed is either"
            )
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.micro_batches = micro_batches
        self.clip_norm = clip_norm
        self.compute = compute
        self.loader = loader
        self.checkpoints = checkpoints
        self.guard = guard
        self.log = log

    def require_accumulable(self, method: Method, processes: int) -> None:
        """Raise a ValueError when a batch cannot be split as asked, or the method cannot take it so."""
        parts, kind = self.micro_batches, method.config["kind"]
        if parts > 1 and method.no_accumulation:
            reason = method.no_accumulation
            raise RecipeError(
                f"run.micro_batches: got {parts}; allowed for {kind} is 1, because {reason}"
            )
        if self.batch_size % (parts * processes):
            raise RecipeError(
                f"run.micro_batches: got {parts}, which does not divide the batch of {self.batch_size}"
            )
        method.require_batch(self.batch_size)
