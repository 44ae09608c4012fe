"""The `run` section of a recipe: length, batches, hardware, loading, saving and logging."""

import copy
import math
import os
from collections.abc import Sequence
from typing import Literal

import torch

from mezzotint import dist
from mezzotint.data.source import Source
from mezzotint.evaluation.projection import Layout
from mezzotint.methods.method import Method
from mezzotint.recipe.component import Component, require_sizes
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.online import Classifier

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Loader(Component):
    """Load samples for the loop.

    Args:
        workers: processes that read and crop; none are used for data in memory. `None` takes one
            per core, at most 8.
        on_unreadable: `skip` replaces a sample that cannot be read by the next readable one, counts
            it and names it; `error` stops at the first.
        max_unreadable_fraction: fraction of the data set that may be unreadable before the run
            stops.
        timeout_seconds: time that the workers may take for a batch before the run is saved and
            stops, because a disk or a network is stuck.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        on_unreadable: Literal["skip", "error"] = "skip",
        max_unreadable_fraction: float = 0.05,
        timeout_seconds: float = 600.0,
    ) -> None:
        if workers is not None and workers < 0:
            raise ValueError(
                f"`run.loader.workers` must be at least 0, got {workers}. "
                "Use 0 to read in the main process."
            )
        if not 0.0 <= max_unreadable_fraction < 1.0:
            raise ValueError(
                "`run.loader.max_unreadable_fraction` must be at least 0 and below 1, "
                f"got {max_unreadable_fraction}. Try 0.05."
            )
        self.workers = workers
        self.on_unreadable = on_unreadable
        if not timeout_seconds > 0.0:
            raise ValueError(
                f"`run.loader.timeout_seconds` must be positive, got {timeout_seconds}. Try 600."
            )
        self.max_unreadable_fraction = max_unreadable_fraction
        self.timeout_seconds = timeout_seconds

    def processes(self, source: Source) -> int:
        """Choose the number of worker processes for a source."""
        if source.in_memory:
            return 0
        if self.workers is not None:
            return self.workers
        return min(8, max(1, len(os.sched_getaffinity(0)) // dist.world_size()))


class Checkpoints(Component):
    """Save checkpoints of a run.

    Args:
        every_minutes: time between two checkpoints.
        every_steps: steps between additional checkpoints; 0 for none.
        keep: checkpoints on disk; at least 2, so that a run survives a damaged newest one.
    """

    def __init__(self, *, every_minutes: float = 10.0, every_steps: int = 0, keep: int = 2) -> None:
        if keep < 2:
            raise ValueError(
                f"`run.checkpoints.keep` must be at least 2, got {keep}. "
                "Use 2, so that a good checkpoint survives a damaged one."
            )
        if not every_minutes > 0:
            raise ValueError(
                f"`run.checkpoints.every_minutes` must be positive, got {every_minutes}. Try 10."
            )
        if every_steps < 0:
            raise ValueError(
                f"`run.checkpoints.every_steps` must be at least 0, got {every_steps}. "
                "Use 0 to save by time only."
            )
        self.every_minutes = every_minutes
        self.every_steps = every_steps
        self.keep = keep


class Guard(Component):
    """Handle a loss or gradient that is NaN or inf, and features that collapse.

    Args:
        action: `abort` stops with the last good weights saved; `skip` skips the step.
        patience: steps in a row that may be skipped before the run stops.
        stop_on_collapse: stop when the features of logged steps have collapsed, instead of a
            warning in terminal, log and report.
        late: check a step while the next one is computed, so that the host does not wait for the
            device, and take it back if it does not count; takes memory for a copy of weights,
            moments and buffers. `None`: on GPUs, but for fp16.
    """

    def __init__(
        self,
        *,
        action: Literal["abort", "skip"] = "skip",
        patience: int = 5,
        stop_on_collapse: bool = False,
        late: bool | None = None,
    ) -> None:
        if patience < 0:
            raise ValueError(
                f"`run.guard.patience` must be at least 0, got {patience}. "
                "Use run.guard.action=abort to stop at once."
            )
        self.action = action
        self.patience = 0 if action == "abort" else patience
        self.stop_on_collapse = stop_on_collapse
        self.late = late


class Log(Component):
    """Log a run while it trains.

    Args:
        every_steps: steps between two lines of `metrics.jsonl`.
        knn_epochs: epochs between two online kNN evaluations, if the data has labels; 0 for none.
        map_epochs: epochs between two maps of the features for the report, the first one before
            training; 0 for none.
        map_layout: layout of the maps in the report; `umap` needs mezzotint[umap].
        trackers: experiment trackers that get the metrics too.
        classifier: a linear classifier trained online on detached features; `None` for none.
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
        if every_steps < 1:
            raise ValueError(
                f"`run.log.every_steps` must be at least 1, got {every_steps}. Try 10."
            )
        for name, epochs in (("knn_epochs", knn_epochs), ("map_epochs", map_epochs)):
            if epochs < 0:
                raise ValueError(
                    f"`run.log.{name}` must be at least 0, got {epochs}. Use 0 to switch it off."
                )
        self.every_steps = every_steps
        self.knn_epochs = knn_epochs
        self.map_epochs = map_epochs
        self.map_layout: Layout = map_layout
        self.trackers: Sequence[str] = trackers or ()
        self.classifier = classifier


class Compute(Component):
    """Choose the device and the arithmetic of a run.

    Args:
        device: `auto` is CUDA if available, else the CPU.
        precision: of the forward and backward pass; weights and optimizer stay in fp32, and fp16
            uses a gradient scaler.
        channels_last: use this memory format for images and convolutions.
        compile: compile the method with `torch.compile`.
        threads: CPU threads; `None` for torch's default.
        sync_batch_norm: normalize over the batch of all processes, on CPU and GPU: in both
            branches, in `online` or `target` (the momentum copy) only, or not at all.
        gradient_cache: compute the loss over the whole batch of each process, but encode its
            `run.micro_batches` parts one after the other, each twice, to save memory.
        sharding: `fsdp2` divides weights, gradients and moments of a transformer over the
            processes, for encoders that do not fit on one of them.
        average: decay of an exponential moving average of the weights, which is then saved and
            evaluated; 0.9999 is usual in fine-tuning, `None` for the last weights.

    Attributes:
        dtype: of the precision.
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
        gradient_cache: bool = False,
        sharding: Literal["none", "fsdp2"] = "none",
        average: float | None = None,
    ) -> None:
        if gradient_cache and compile:
            raise ValueError(
                "`run.compute.gradient_cache` encodes each part twice, with its random state, "
                "which run.compute.compile does not keep. Leave one of them out."
            )
        others = {
            "gradient_cache": gradient_cache,
            "compile": compile,
            "average": average is not None,
            "precision: fp16": precision == "fp16",
        }
        excluded = [name for name, is_set in others.items() if is_set]
        if sharding != "none" and excluded:
            raise ValueError(
                f"`run.compute.sharding: {sharding}` works without run.compute.{excluded[0]}. "
                "Leave one of them out."
            )
        if average is not None and not 0.0 < average < 1.0:
            raise ValueError(
                f"`run.compute.average` must be a decay between 0 and 1, or null, got {average}. "
                "Try 0.9999."
            )
        if threads is not None:
            require_sizes("run.compute", threads=threads)
        self.device = device
        self.precision: Precision = precision
        self.dtype = _DTYPES[precision]
        self.channels_last = channels_last
        self.compile = compile
        self.threads = threads
        self.sync_batch_norm: bool | Literal["online", "target"] = sync_batch_norm
        self.gradient_cache = gradient_cache
        self.sharding = sharding
        self.average = average

    def torch_device(self) -> torch.device:
        """Choose the device of this process.

        Raises:
            ValueError: when the recipe names CUDA and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "`run.compute.device` must be auto or cpu on a machine without CUDA, got cuda. "
                "Use auto."
            )
        if self.device == "cpu" or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", dist.local_rank())


class Run(Component):
    """Set the length, batch size and seed of a run, and how it computes, loads, saves and logs.

    Args:
        epochs: passes over the data.
        batch_size: samples per step, over all processes and micro-batches; lowered to the samples
            of an epoch if there are fewer.
        seed: seed of everything random.
        micro_batches: parts of each process's batch whose gradients are accumulated.
        clip_norm: maximum norm of the gradient; `None` for no clipping.
        compute: device, precision, compilation.
        loader: workers and unreadable samples.
        checkpoints: how often to save, and how many to keep.
        guard: what to do when the loss is NaN or inf.
        log: how often to log, and what.

    Attributes:
        notes: sentences on what the data changed, for the start of a run.
    """

    notes: tuple[str, ...] = ()

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
        if not -(2**63) <= seed < 2**63:
            raise ValueError(f"`run.seed` must be within 64 bits, got {seed}. Try 0.")
        for name, value, usual in (
            ("epochs", epochs, 100),
            ("batch_size", batch_size, 256),
            ("micro_batches", micro_batches, 1),
        ):
            if value < 1:
                raise ValueError(f"`run.{name}` must be at least 1, got {value}. Try {usual}.")
        if clip_norm is not None and not (clip_norm > 0 and math.isfinite(clip_norm)):
            raise ValueError(
                f"`run.clip_norm` must be positive and finite, or null, got {clip_norm}. "
                "Use null for no clipping."
            )
        if compute.gradient_cache and micro_batches < 2:
            raise ValueError(
                "`run.compute.gradient_cache` needs run.micro_batches of at least 2, the parts "
                f"that are encoded one after the other, got {micro_batches}. Try 4."
            )
        if guard.late and compute.precision == "fp16":
            raise ValueError(
                "`run.guard.late` must be false or null with run.compute.precision=fp16, whose "
                "gradient scaler decides on each step before it is made. Or use bf16."
            )
        for key in ("compile", "gradient_cache"):
            if log.classifier is not None and getattr(compute, key):
                raise ValueError(
                    f"`run.log.classifier` needs the encoder's features, and run.compute.{key} "
                    "hides them. Leave one of them out."
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

    def lowered(self, samples: int, processes: int) -> "Run":
        """Return these settings with a batch of at most the samples of an epoch, and a note.

        A small data set then trains with the recipe of a large one; `config` keeps what was
        written, and gives the same batch again when the run is resumed.

        Args:
            samples: samples of an epoch.
            processes: number of processes.
        """
        unit = self.micro_batches * processes
        if not unit <= samples < self.batch_size:
            return self
        other = copy.copy(self)
        other.batch_size = samples // unit * unit
        note = f"run.batch_size is {other.batch_size} instead of {self.batch_size}"
        other.notes = (*self.notes, f"{note}: an epoch has {samples} samples")
        return other

    def checks_late(self, device: torch.device) -> bool:
        """Whether a step is checked while the next one is computed."""
        if self.guard.late is None:
            return device.type == "cuda" and self.compute.precision != "fp16"
        return self.guard.late

    @property
    def accumulated(self) -> int:
        """Parts of a batch that are losses of their own."""
        return 1 if self.compute.gradient_cache else self.micro_batches

    def require_accumulable(self, method: Method, processes: int) -> None:
        """Refuse a batch that cannot be split into micro-batches, or that the method cannot take.

        Raises:
            ValueError: with the keys to change.
        """
        parts, kind = self.micro_batches, method.config["kind"]
        if self.accumulated > 1 and method.no_accumulation:
            reason = method.no_accumulation
            other = " or set run.compute.gradient_cache=true" if method.has_rows else ""
            raise RecipeError(
                f"`run.micro_batches` must be 1 for {kind}, because {reason}, got {parts}. "
                f"Lower run.batch_size{other} if memory is short."
            )
        if self.batch_size % (parts * processes):
            raise RecipeError(
                f"`run.batch_size` must be a multiple of run.micro_batches × processes = "
                f"{parts} × {processes}, got {self.batch_size}. Change one of them."
            )
        try:
            method.require_batch(self.batch_size)
        except ValueError as error:
            if not self.notes:
                raise
            size = self.batch_size
            raise RecipeError(
                f"{kind} cannot learn from an epoch of {size} sample{'s' * (size != 1)}, because "
                "its loss compares the samples of a batch. Add data, or choose another method."
            ) from error
