"""Keep NaN and inf out of a run.

The guard checks the loss and the gradient's norm of *every* step before the optimizer and any
momentum copy use them. What the forward passes of an abandoned step moved (BatchNorm statistics,
observers, codebooks) is put back, so that the state in memory and on disk is always finite.

On a GPU, the host would wait for each step. There a step may be made before it is checked: its
scalars are read while the next one runs, and a step that should not have been made is undone.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.train.sharding import copy_each, local

if TYPE_CHECKING:
    from mezzotint.train.state import Copies

T = TypeVar("T")
_LARGE = 100_000


class NotFinite(RuntimeError):
    """The loss or a gradient was NaN or inf in more steps than the recipe tolerates.

    Args:
        message: what was found, and what to do.
        step: number of steps that are done and that count, if an error of training.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class StepScalars:
    """The scalars of a step on the host.

    Attributes:
        loss: mean over the processes.
        grad_norm: norm of the gradient, before it is clipped.
        moved_finite: whether the state that forward passes move is finite on every process.
        logs: what the method logs, of this process.
    """

    loss: float
    grad_norm: float
    moved_finite: bool
    logs: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether loss, gradient and moved state are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm) and self.moved_finite


class SentScalars:
    """The scalars of a step on their way to the host.

    Args:
        loss: of this process, float `[]`, like all others.
        grad_norm: norm of the gradient, before it is clipped.
        moved_finite: whether what forward passes moved is finite.
        logs: what the method logs.
    """

    def __init__(
        self, loss: Tensor, grad_norm: Tensor, moved_finite: Tensor, logs: Mapping[str, Tensor]
    ) -> None:
        # The loss of any process that is NaN or inf makes the mean NaN or inf on all of them.
        shared = dist.mean(torch.stack([loss.float(), moved_finite.float()]))
        rest = [value.detach().float() for value in (grad_norm, *logs.values())]
        self._names, self._values = tuple(logs), torch.stack([*shared, *rest])
        self._event: torch.cuda.Event | None = None
        if self._values.is_cuda:
            self._values = self._values.to("cpu", non_blocking=True)  # in pinned memory
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> StepScalars:
        """Wait for the scalars: the only time in a step that the host waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        loss, fraction, norm, *logs = self._values.tolist()
        return StepScalars(loss, norm, fraction == 1.0, dict(zip(self._names, logs, strict=True)))


@dataclass
class StepGuard:
    """Decides whether a step may change the weights.

    Attributes:
        patience: steps in a row that may be skipped.
        in_a_row: steps that were skipped in a row, up to now.
        skipped: all skipped steps.
        rejected: scalars of the last of them; `None` before the first in this process.
    """

    patience: int
    in_a_row: int = 0
    skipped: list[int] = field(default_factory=list)
    rejected: StepScalars | None = None

    def allows(self, step: int, scalars: StepScalars, *, overflow: bool = False) -> bool:
        """Count a step that is not finite, and stop the run after too many.

        Args:
            step: number of the step, from 0.
            scalars: of the step; every process passes the same loss, norm and `moved_finite`.
            overflow: whether the gradient may be NaN or inf, because a scaler skips such steps.

        Raises:
            NotFinite: after more than `patience` such steps in a row.
        """
        loss, norm = scalars.loss, scalars.grad_norm
        numbers = math.isfinite(loss) and (overflow or math.isfinite(norm))
        if numbers and scalars.moved_finite:
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.skipped.append(step)
        self.rejected = scalars
        if self.in_a_row > self.patience:
            what = (
                "The forward pass makes running statistics NaN or inf"
                if numbers
                else f"The loss is {loss:.4g} and the gradient norm {norm:.4g}"
            )
            raise NotFinite(
                f"{what} at step {step}: NaN or inf {self.in_a_row} times in a row. Lower "
                "optimizer.lr, set run.clip_norm, or use run.compute.precision=fp32.",
                step,
            )
        return False


class ForwardState:
    """The buffers of a method, as they were before a step.

    Forward passes move BatchNorm statistics, observers and codebooks before anything can check the
    loss. A step that is abandoned puts them back.

    Args:
        module: the method.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._kept: dict[str, Tensor] = {}
        self._versions: dict[str, tuple[int, int]] = {}
        self._is_current = False

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers; called before the first forward pass of a step."""
        now = dict(self.module.named_buffers())
        reused = [name for name, b in now.items() if alike(self._kept.get(name), b)]
        copy_each((self._kept[name], now[name]) for name in reused)
        fresh = now.keys() - set(reused)
        self._kept = {n: b.clone() if n in fresh else self._kept[n] for n, b in now.items()}
        self._versions = {name: (id(b), b._version) for name, b in now.items()}
        self._is_current = True

    def release(self) -> None:
        """Let the buffers stay as they are: the step counts, and `restore` has nothing to do."""
        self._is_current = False

    @torch.no_grad()
    def is_finite(self, device: torch.device) -> Tensor:
        """Compute whether the forward passes made no buffer NaN or inf, bool `[]`, on the device.

        A buffer that had such values before, like the ranges of an observer that has seen nothing,
        may keep them.
        """
        flags = [
            b.isfinite().all() | ~self._kept[name].isfinite().all()
            for name, b in self.module.named_buffers()
            if b.is_floating_point()
            and name in self._kept
            # BatchNorm moves its statistics without a new version, but these are small; a large
            # buffer of the same version, such as a queue, is the one that was finite before.
            and (b.numel() < _LARGE or self._versions[name] != (id(b), b._version))
        ]
        return (
            torch.stack(flags).all() if flags else torch.ones((), dtype=torch.bool, device=device)
        )

    def abandon(self, step: int) -> None:
        """Put the buffers back after a step that may not change the weights.

        Raises:
            NotFinite: if the update before made weights NaN or inf, which no later step repairs.
        """
        self.restore()
        parameters = dict(self.module.named_parameters())
        name = first_not_finite((name, local(p)) for name, p in parameters.items())
        if any(local(p) is not p for p in parameters.values()):  # each process has other parts
            name = next(filter(None, dist.gather_objects(name)), None)
        if name is not None:
            raise NotFinite(
                f"The update before step {step} made the weights {name} NaN or inf. Lower "
                "optimizer.lr, or set run.clip_norm.",
                step,
            )

    @torch.no_grad()
    def restore(self) -> None:
        """Put the buffers back to what `keep` copied, unless the step counts by now."""
        if not self._is_current:
            return
        self._is_current = False
        for name, kept in self._kept.items():
            path, _, attribute = name.rpartition(".")
            owner = self.module.get_submodule(path)
            buffer = owner._buffers[attribute]
            if alike(buffer, kept):
                buffer.copy_(kept)  # type: ignore[union-attr]
            else:
                owner._buffers[attribute] = kept.clone()
        # Modules that mirror a buffer in Python read it again when they are loaded.
        self.module.load_state_dict(self.module.state_dict())


@dataclass(frozen=True)
class Check:
    """Whether a step may be made.

    Attributes:
        allowed: if not, all is as it was before the step.
        overflow: whether a gradient scaler leaves out the update.
        metrics: loss, norm and logs; empty if they are read later.
    """

    allowed: bool
    overflow: bool = False
    metrics: dict[str, float] = field(default_factory=dict)


class Undo:
    """Takes a step back, also after it was made.

    A step is checked before it is made, or made at once and checked by the next one after its
    backward passes. If it is not finite then, all tensors become what they would be had it been
    left out, and the next one is computed again.

    Args:
        method: whose weights and buffers a step changes.
        copies: of all else that an update changes.
        guard: counts the steps that are left out.

    Attributes:
        before: the method's buffers before the step at hand.
    """

    def __init__(self, method: nn.Module, copies: "Copies", guard: StepGuard) -> None:
        self.guard, self._copies = guard, copies
        self.before, self._spare = ForwardState(method), ForwardState(method)
        self._pending: tuple[int, SentScalars, ForwardState] | None = None
        self._made: list[Any] = []

    def check(self, step: int, sent: SentScalars, *, wait: bool, scaled: bool) -> Check:
        """Check a step, or put that off to the next one.

        Args:
            step: its number, from 0.
            sent: its scalars.
            wait: whether to wait for them.
            scaled: whether a gradient scaler leaves out updates that are not finite.

        Raises:
            NotFinite: as `StepGuard.allows` and `ForwardState.abandon`.
        """
        if not wait:
            self._copies.keep()
            self._pending = step, sent, self.before
            self.before, self._spare = self._spare, self.before
            return Check(allowed=True)
        scalars = sent.read()
        # A gradient scaler overflows now and then by design: it skips a step and halves its scale.
        overflow = scaled and not math.isfinite(scalars.grad_norm)
        allowed = self.guard.allows(step, scalars, overflow=overflow)
        if allowed:
            self.before.release()
        else:
            self.before.abandon(step)
        metrics = {"loss": scalars.loss, "grad_norm": scalars.grad_norm, **scalars.logs}
        return Check(allowed, overflow, metrics)

    def settle(self) -> bool:
        """Check the step that was made last, if it is not checked, and undo it if it is not finite.

        Returns:
            Whether it counts; true if there is none to check.

        Raises:
            NotFinite: as `check`, and the step is undone.
        """
        undone = self._check_last()
        if undone is not None:
            step, before = undone
            before.abandon(step)
        return undone is None

    def _check_last(self) -> tuple[int, ForwardState] | None:
        """Check the step that was made last; return it if it does not count, and is undone."""
        if self._pending is None:
            return None
        (step, sent, before), self._pending = self._pending, None
        scalars = sent.read()
        if scalars.is_finite:
            before.release()
        else:
            self.before.release()  # the step at hand began with weights that do not count
            self._copies.restore()
            before.restore()
        return None if self.guard.allows(step, scalars) else (step, before)

    def settled(self, compute: Callable[[], T]) -> T:
        """Compute the gradients of a step, and again if the step before it does not count.

        Raises:
            NotFinite: as `settle`.
        """
        try:
            found = compute()
            again = not self.settle()
        except Exception:  # weights that are not finite may be more than a method can bear
            if self.settle():
                raise
            again = True
        if again:
            found = compute()
        self._made = []
        return found

    def once(self, position: int, make: Callable[[], T]) -> T:
        """Make the views of a part of a step, which are kept if it may be computed again.

        Generators with a memory would remember a batch twice.
        """
        if position < len(self._made):
            kept: T = self._made[position]
            return kept
        made = make()
        if self._pending is not None:
            self._made.append(made)
        return made

    def take_back(self, error: Exception, done: int) -> int:
        """Make the state after a number of steps whole, before an error ends the run.

        Args:
            error: that ends the run.
            done: steps that are done.

        Returns:
            The number of steps that the state is after.
        """
        with contextlib.suppress(NotFinite):
            self._check_last()  # and no more: other processes may not take part
        self.before.restore()
        step = error.step if isinstance(error, NotFinite) else None
        return done if step is None else step


def alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether one tensor can be copied into the other."""
    if one is None or other is None:
        return False
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Return the name of the first tensor with NaN or inf; `None` if all are finite."""
    named = [(name, t) for name, t in tensors if t.is_floating_point()]
    if not named:
        return None
    # One reading from the device for all tensors. A sum is the fastest reading of memory; where it
    # is not finite, each number is looked at, because finite ones can have a sum that is not.
    finite = torch.stack([t.sum(dtype=_summed_in(t)).isfinite() for _, t in named]).tolist()
    return next(
        (
            name
            for (name, t), good in zip(named, finite, strict=True)
            if not good and not bool(t.isfinite().all())
        ),
        None,
    )


def _summed_in(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
