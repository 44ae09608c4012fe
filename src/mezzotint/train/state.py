"""The state of a run: tensors of method and optimizer, and a few counters.

Everything else is a function of the step. The state may include an exponential moving average
of the weights, which a run then saves instead of its last weights.

The state of an optimizer is written as named tensors, so that checkpoints need no pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mezzotint import dist
from mezzotint.data.loader import TooManyUnreadable
from mezzotint.data.source import Source
from mezzotint.methods.method import Method, momentum_copy, momentum_update
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.callbacks import ForwardPassCounter
from mezzotint.train.checkpoint import CheckpointStore, Saved, size_of
from mezzotint.train.guard import NotFinite, StepGuard, first_not_finite
from mezzotint.train.sharding import divided, whole
from mezzotint.types import Batch

_MARK = ":"


def tensors_of(saved: Saved, name: str) -> dict[str, Tensor]:
    """Select the tensors of a module of the run (`average`, `classifier`) from a checkpoint."""
    start = f"{name}{_MARK}"
    return {
        key.removeprefix(start): t for key, t in saved.optimizer.items() if key.startswith(start)
    }


@dataclass
class RunState:
    """Everything that a checkpoint saves: all that cannot be computed again.

    Attributes:
        method: its parameters and buffers are saved, momentum copies and queues among them.
        optimizer: its moments are saved.
        scaler: the scaler of fp16 gradients.
        source: its fingerprint is saved, so that a run resumes with the same data.
        guard: the skipped steps.
        batch_size: samples per step; with the seed, it decides which samples a step sees.
        bad: unreadable samples, and why.
        seconds: time of training so far.
        modules: modules of the run that are not part of the method, by name (averaged weights,
            online classifier); `None` for one that the run does not have.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    source: Source
    guard: StepGuard
    batch_size: int
    bad: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    modules: Mapping[str, nn.Module | None] = field(default_factory=dict)

    def count_bad(self, batch: Batch, most: float) -> None:
        """Count the samples of a batch that could not be read.

        Raises:
            TooManyUnreadable: when they exceed the fraction `most` of all samples.
        """
        for sample in batch.bad:
            self.bad[sample.id] = sample.reason
        if len(self.bad) > most * len(self.source):
            name, reason = next(iter(self.bad.items()))
            raise TooManyUnreadable(
                f"{len(self.bad)} of {len(self.source)} samples cannot be read, more than "
                f"run.loader.max_unreadable_fraction={most}. The first is {name}: {reason}. "
                "Check the data with `mezzotint doctor`."
            )

    def counts(self, seconds: float, epoch: float) -> dict[str, float]:
        """Return the first entries of a line of the log, up to skipped steps and bad samples."""
        skipped, unreadable = len(self.guard.skipped), len(self.bad)
        return {"epoch": epoch, "seconds": seconds, "skipped": skipped, "unreadable": unreadable}

    def bytes(self) -> int:
        """Estimate the size of a checkpoint before the first step."""
        # The optimizer has no moments yet; it will have at most two per weight.
        return 3 * size_of(self.method.state_dict(), {}) + size_of(self._module_tensors(), {})

    def describe(self, recipe: Recipe, counter: ForwardPassCounter, steps: int) -> dict[str, Any]:
        """Describe a run after `steps` steps for its environment.json."""
        own = recipe.run.batch_size // dist.world_size()
        return {
            "directory": str(Path.cwd()),
            "processes": dist.world_size(),
            "precision": recipe.run.compute.precision,
            "parameters": sum(p.numel() for p in recipe.encoder.parameters()),
            "samples": len(self.source),
            "steps": steps,
            "seconds": round(self.seconds, 2),
            "skipped_steps": self.guard.skipped,
            "unreadable": self.bad,
            "data": self.source.outcome(),
            **counter.as_json(own, recipe.views.num_views),
        }

    @property
    def is_divided(self) -> bool:
        """Whether the method's parameters are divided over the processes."""
        return any(isinstance(p, DTensor) for p in self.method.parameters())

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the method, and all others; whole ones on the main process.

        All processes call it together if the method is divided.
        """
        others = optimizer_state(self.optimizer) | self._module_tensors()
        return whole(self.method.state_dict()), whole(others)

    def parts(
        self, step: int, found: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint after `step` steps has: tensors of the method, others, counters.

        Args:
            step: number of steps that are done.
            found: what `tensors` returned; by default it is called here.

        Raises:
            NotFinite: if weights or moments are NaN or inf.
        """
        model, tensors = found or self.tensors()
        trained = [(name, model[name]) for name, _ in self.method.named_parameters()]
        name = first_not_finite([*trained, *tensors.items()])
        if name is not None:
            raise NotFinite(
                f"{name} is NaN or inf after step {step}, so that no checkpoint of it is saved. "
                "Lower optimizer.lr, or set run.clip_norm.",
                step,
            )
        state = {
            "seconds": self.seconds,
            "skipped": list(self.guard.skipped),
            "in_a_row": self.guard.in_a_row,
            "bad": dict(self.bad),
            "scaler": self.scaler.state_dict(),
            "batch_size": self.batch_size,
            "data": self.source.fingerprint(),
        }
        return model, tensors, state

    def _module_tensors(self) -> dict[str, Tensor]:
        """Tensors of the run's modules, by names that no optimizer state has."""
        return {
            f"{name}{_MARK}{key}": tensor
            for name, module in self.modules.items()
            if module is not None
            for key, tensor in module.state_dict().items()
        }

    def restore(self, store: CheckpointStore) -> tuple[int, list[str]]:
        """Load the newest good checkpoint.

        Returns:
            The number of steps done, and notes for the user.

        Raises:
            RecipeError: when there is no good checkpoint, or it belongs to another recipe or data.
        """
        saved, problems = store.latest()
        notes = [f"skipped a damaged checkpoint: {problem}" for problem in problems]
        if saved is None:
            why = f" ({problems[0]})" if problems else ""
            raise RecipeError(
                f"--resume needs a good checkpoint, and {store.root} has none{why}. "
                "Start again with --overwrite."
            )
        self._load(saved)
        return saved.step, [*notes, f"resumed at step {saved.step}"]

    def _load(self, saved: Saved) -> None:
        if saved.state["data"] != self.source.fingerprint():
            raise RecipeError(
                "The data changed since the checkpoint was saved, and a run resumes with the same "
                "data only. Restore the files, or start again with --overwrite."
            )
        if saved.state["batch_size"] != self.batch_size:
            processes = dist.world_size()
            raise RecipeError(
                f"The run has batches of {saved.state['batch_size']} samples, and {processes} "
                f"process{'es' * (processes > 1)} would make them {self.batch_size}, so that a "
                "step would see other samples. Resume it on the number of processes that it was "
                "started with."
            )
        own = self.method.state_dict()
        if own.keys() != saved.model.keys():
            odd = sorted(own.keys() ^ saved.model.keys())[0]
            raise RecipeError(
                f"The checkpoint does not fit the method: {odd!r} is only in one of them. "
                "Resume with the run's own recipe."
            )
        for name, tensor in saved.model.items():
            if own[name].shape != tensor.shape:
                raise RecipeError(
                    f"The checkpoint does not fit the method: {name} is {tuple(tensor.shape)} in "
                    f"the checkpoint and {tuple(own[name].shape)} in the method. "
                    "Resume with the run's own recipe."
                )
        # All at once and not tensor by tensor, because modules may react to being loaded.
        self.method.load_state_dict(divided(saved.model, own))
        moments = {k: t for k, t in saved.optimizer.items() if _MARK not in k}
        alike = {key: own.get(key.rpartition("/")[0], t) for key, t in moments.items()}
        load_optimizer_state(self.optimizer, divided(moments, alike))
        for name, module in self.modules.items():
            tensors = tensors_of(saved, name)
            # A classifier may be added to a resumed run, like other logging.
            added = name == "classifier" and not tensors
            if module is not None and not added:
                module.load_state_dict(tensors)
        self.scaler.load_state_dict(saved.state["scaler"])
        self.guard.skipped, self.guard.in_a_row = (
            list(saved.state["skipped"]),
            saved.state["in_a_row"],
        )
        self.bad, self.seconds = dict(saved.state["bad"]), saved.state["seconds"]


class Average:
    """Exponential moving average of a method's weights, as fine-tuning uses it.

    The window is about `1 / (1 − decay)` steps and grows as the run goes on: after step t (from 0)
    the decay is at most `(1 + t) / (10 + t)`, like TensorFlow's `ExponentialMovingAverage`, so that
    the random initialization is forgotten in short runs too. Buffers (BatchNorm statistics, queues,
    counters) are copied from the last step.

    Args:
        method: the trained method; the average starts from its weights.
        decay: decay of the average after the first steps.

    Attributes:
        method: a copy of the method, with the averaged weights.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.method, self.decay = momentum_copy(method), decay

    @torch.no_grad()
    def follow(self, method: Method, step: int) -> None:
        """Update the average with the weights after a step (from 0)."""
        momentum_update(self.method, method, min(self.decay, (1 + step) / (10 + step)))
        for own, new in zip(self.method.buffers(), method.buffers(), strict=True):
            own.copy_(new)


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Map names of `param_names` to the optimizer's parameters."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return state tensors as `parameter/entry`; numbers become scalars, `None` is left out."""
    state: dict[str, Tensor] = {}
    for name, parameter in _named(optimizer).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                state[f"{name}/{entry}"] = (
                    value if isinstance(value, Tensor) else torch.tensor(value)
                )
    return state


def load_optimizer_state(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> None:
    """Load the tensors that `optimizer_state` returned.

    Raises:
        ValueError: for a name that belongs to no parameter of this optimizer.
    """
    named = _named(optimizer)
    state: dict[Tensor, dict[str, Any]] = {}
    for key, value in saved.items():
        name, _, entry = key.rpartition("/")
        if name not in named:
            raise ValueError(
                f"The checkpoint has optimizer state of {name!r}, but the method has no such "
                "parameter. Use the recipe of the run."
            )
        parameter = named[name]
        moment = value.shape == parameter.shape
        # Moments share their parameter's memory format, as when the optimizer made them, so that
        # sums stay bit-equal.
        placed = torch.empty_like(parameter).copy_(value) if moment else value.clone()
        state.setdefault(parameter, {})[entry] = placed
    optimizer.state.clear()
    optimizer.state.update(state)
