"""Take a step back: what its forward passes moved, and what its update changed.

The forward passes of a step move BatchNorm statistics, observers and codebooks before anything can
check the loss; of a step that may not change the weights, they are put back.

On a GPU, the host would wait for each step. There a step may be made before it is checked: its
scalars are read while the next one runs, and a step that should not have been made is undone.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mezzotint import dist
from mezzotint.train.guard import NotFinite, SentScalars, first_not_finite
from mezzotint.train.sharding import copy_each, local
from mezzotint.train.state import RunState

T = TypeVar("T")
_LARGE = 100_000


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


class Copies:
    """Copies of what an update changes and a forward pass does not: weights, moments, averages.

    Args:
        state: of the run.
    """

    def __init__(self, state: RunState) -> None:
        self._own: list[Tensor] = list(state.method.parameters())
        average = state.modules["average"]
        if average is not None:
            self._own += [*average.parameters(), *average.buffers()]
        self._kept: list[Tensor] = []
        self._optimizer, self._moments = state.optimizer, dict[Tensor, dict[str, Any]]()

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the tensors, into the memory of the copies before."""
        self._kept = self._kept or [torch.empty_like(t) for t in self._own]
        pairs = list(zip(self._kept, self._own, strict=True))
        self._moments = {
            parameter: _copies(entries, self._moments.get(parameter, {}), pairs)
            for parameter, entries in self._optimizer.state.items()
        }
        copy_each(pairs)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the tensors back."""
        pairs = list(zip(self._own, self._kept, strict=True))
        state = self._optimizer.state
        for parameter in list(state):
            if parameter in self._moments:
                kept = self._moments[parameter]
                state[parameter] = _copies(kept, state[parameter], pairs)
            else:  # the update was its first
                del state[parameter]
        copy_each(pairs)


def _copies(
    entries: Mapping[str, Any], to: Mapping[str, Any], pairs: list[tuple[Tensor, Tensor]]
) -> dict[str, Any]:
    """Return copies of a parameter's moments; add to `pairs` what is to be copied into `to`."""
    found: dict[str, Any] = {}
    for name, value in entries.items():
        target = to.get(name)
        if isinstance(value, Tensor) and isinstance(target, Tensor) and alike(value, target):
            pairs.append((target, value))
            found[name] = target
        else:
            found[name] = value.clone() if isinstance(value, Tensor) else value
    return found


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
        state: of the run; its guard counts the steps that are left out.

    Attributes:
        before: the method's buffers before the step at hand.
    """

    def __init__(self, state: RunState) -> None:
        self.guard, self._copies = state.guard, Copies(state)
        self.before, self._spare = ForwardState(state.method), ForwardState(state.method)
        self._pending: tuple[int, SentScalars, ForwardState] | None = None
        self._metrics: dict[str, float] = {}
        self._listener: Callable[[dict[str, float]], None] | None = None
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
        self._metrics = scalars.metrics
        return Check(allowed, overflow, scalars.metrics)

    def tell(self, listener: Callable[[dict[str, float]], None]) -> None:
        """Tell a listener about the last step once it is checked: at once, or with the next one.

        It gets the step's metrics, and `skipped`, the number of steps that were left out so far.
        """
        self._listener = listener
        if self._pending is None:
            self._tell()

    def _tell(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener({**self._metrics, "skipped": len(self.guard.skipped)})

    def settle(self) -> bool:
        """Check the step that was made last, if it is not checked, and undo it if it is not finite.

        Returns:
            Whether it counts; true if there is none to check.

        Raises:
            NotFinite: as `check`, and the step is undone.
        """
        if self._pending is None:
            return True
        step, _, before = self._pending
        counts = self._check_last(*self._pending)
        if not counts:
            before.abandon(step)
        self._tell()
        return counts

    def _check_last(self, step: int, sent: SentScalars, before: ForwardState) -> bool:
        """Check the step that was made last, and undo it if it is not finite."""
        self._pending = None
        scalars = sent.read()
        self._metrics = scalars.metrics
        if scalars.is_finite:
            before.release()
        else:
            self.before.release()  # the step at hand began with weights that do not count
            self._copies.restore()
            before.restore()
        return self.guard.allows(step, scalars)

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
        with contextlib.suppress(Exception):  # nothing hides the error that ends the run
            if self._pending is not None:
                self._check_last(*self._pending)  # and no more: other processes may not take part
                self._tell()
        self.before.restore()
        step = error.step if isinstance(error, NotFinite) else None
        return done if step is None else step


def alike(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether one tensor can be copied into the other."""
    if one is None or other is None:
        return False
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
