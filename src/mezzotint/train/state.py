"""The state of a run: the tensors of method and optimizer, and a few counters. All else is a function of the step.

A running average of a method's weights, which a run then keeps in place of its last weights.

Polyak averaging as fine-tuning uses it, with an exponential window of about `1 / (1 − decay)`
steps. The window opens as the run goes on: after step t (from 0) the decay is at most `(1 + t) /
(10 + t)`, as TensorFlow's `ExponentialMovingAverage` has it, so that the random start is forgotten
in short runs too. Buffers (statistics of BatchNorm, queues, counters) are those of the last step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mezzotint.data.loader import TooManyUnreadable
from mezzotint.data.source import Source
from mezzotint.methods.method import Method, momentum_copy, momentum_update
from mezzotint.optim.state import load_optimizer_state, optimizer_state
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore, Saved, size_of
from mezzotint.train.guard import StepGuard
from mezzotint.types import Batch

_MARK = ":"


def tensors_of(saved: Saved, name: str) -> dict[str, Tensor]:
    """What a checkpoint holds of a module beside the method; empty where there was none."""
    start = f"{name}{_MARK}"
    return {
        key.removeprefix(start): t for key, t in saved.optimizer.items() if key.startswith(start)
    }


@dataclass
class RunState:
    """Everything that a checkpoint holds, and nothing that can be computed again.

    Attributes:
        method: its parameters and buffers (momentum copies and queues are among them).
        optimizer: its moments.
        scaler: of fp16 gradients.
        source: its fingerprint is kept, so that a run goes on with the same data.
        guard: the steps that were left out.
        bad: samples that could not be read, and why.
        seconds: of training so far.
        beside: modules that belong to the run and not to the method, by name: averaged weights, an
            online classifier; `None` where there is none.
    """

    method: Method
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    source: Source
    guard: StepGuard
    bad: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    beside: Mapping[str, nn.Module | None] = field(default_factory=dict)

    def count_bad(self, batch: Batch, most: float) -> None:
        """Remember the samples of a batch that could not be read.

        Raises:
            TooManyUnreadable: when they are more than a fraction `most` of all.
        """
        for sample in batch.bad:
            self.bad[sample.id] = sample.reason
        if len(self.bad) > most * len(self.source):
            name, reason = next(iter(self.bad.items()))
            raise TooManyUnreadable(
                f"{len(self.bad)} of {len(self.source)} samples cannot be read, more than "
                f"run.loader.max_unreadable_fraction={most}; the first is {name}: {reason}; see `mezzotint doctor`"
            )

    def bytes(self) -> int:
        """Size of a checkpoint; the optimizer's moments, which do not exist before the first step, count as two."""
        return 3 * size_of(self.method.state_dict(), {}) + size_of(self._beside(), {})

    def save(self, store: CheckpointStore, step: int) -> None:
        """Write a checkpoint of the state after `step` steps."""
        state = {
            "seconds": self.seconds,
            "skipped": self.guard.skipped,
            "in_a_row": self.guard.in_a_row,
            "bad": self.bad,
            "scaler": self.scaler.state_dict(),
            "data": self.source.fingerprint(),
        }
        tensors = optimizer_state(self.optimizer) | self._beside()
        store.save(step, self.method.state_dict(), tensors, state)

    def _beside(self) -> dict[str, Tensor]:
        """Tensors of the modules beside the method, by names that no state of an optimizer has."""
        there = {name: part.state_dict() for name, part in self.beside.items() if part is not None}
        return {
            f"{name}{_MARK}{key}": t
            for name, tensors in there.items()
            for key, t in tensors.items()
        }

    def restore(self, store: CheckpointStore) -> tuple[int, list[str]]:
        """Go back to the newest good checkpoint.

        Returns:
            The number of steps done, and what there is to tell the user.

        Raises:
            RecipeError: when there is no good checkpoint, or it is not one of this recipe and data.
        """
        saved, problems = store.latest()
        notes = [f"passed over a damaged checkpoint: {problem}" for problem in problems]
        if saved is None:
            why = f" ({problems[0]})" if problems else ""
            raise RecipeError(
                f"got --resume, and {store.root} holds no good checkpoint{why}; start again with --overwrite"
            )
        self._load(saved)
        return saved.step, [*notes, f"resumed at step {saved.step}"]

    def _load(self, saved: Saved) -> None:
        if saved.state["data"] != self.source.fingerprint():
            raise RecipeError(
                "got data that changed since the checkpoint was saved; allowed is the same data: restore the files, or "
                "start again with --overwrite"
            )
        own = self.method.state_dict()
        if own.keys() != saved.model.keys():
            odd = sorted(own.keys() ^ saved.model.keys())[0]
            raise RecipeError(
                f"the checkpoint and the method differ, first in {odd!r}; resume with the run's own recipe"
            )
        for name, tensor in saved.model.items():
            if own[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} in the checkpoint, {tuple(own[name].shape)} in the method"
                raise RecipeError(f"{name}: {shapes}; resume with the run's own recipe")
        self.method.load_state_dict(
            saved.model
        )  # and not tensor by tensor: modules may note that they were loaded
        load_optimizer_state(
            self.optimizer, {k: t for k, t in saved.optimizer.items() if _MARK not in k}
        )
        for name, part in self.beside.items():
            tensors = tensors_of(saved, name)
            if part is not None and (
                tensors or name != "classifier"
            ):  # one may be added to a run, as logs may
                part.load_state_dict(tensors)
        self.scaler.load_state_dict(saved.state["scaler"])
        self.guard.skipped, self.guard.in_a_row = (
            list(saved.state["skipped"]),
            saved.state["in_a_row"],
        )
        self.bad, self.seconds = dict(saved.state["bad"]), saved.state["seconds"]


class Average:
    """The average of the weights of a method.

    Args:
        method: that is trained; the average starts from its weights.
        decay: of the average, once the window is open.

    Attributes:
        method: a copy of the method, with the averaged weights.
    """

    def __init__(self, method: Method, decay: float) -> None:
        self.method, self.decay = momentum_copy(method), decay

    @torch.no_grad()
    def follow(self, method: Method, step: int) -> None:
        """Take in the weights of a method after its step (from 0)."""
        momentum_update(self.method, method, min(self.decay, (1 + step) / (10 + step)))
        for own, new in zip(self.method.buffers(), method.buffers(), strict=True):
            own.copy_(new)
