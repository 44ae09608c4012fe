"""Learning-rate schedules: pure functions of the step that multiply each group's `base_lr`.

They have no state, so a resumed run has the rates of an uninterrupted one, and groups with
different learning rates keep their proportions.
"""

import math
from abc import ABC, abstractmethod

from mezzotint.recipe.component import Component


class Schedule(Component, ABC, abstract=True):
    """Factor of the learning rate, by step."""

    @abstractmethod
    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Compute the factor of one step.

        Args:
            step: index of the next step, from 0.
            total_steps: number of steps of the run.
            steps_per_epoch: number of steps per epoch.
        """


class Constant(Schedule):
    """Keep the base learning rate after a warm-up.

    Args:
        warmup_epochs: epochs of a linear rise from 0.
    """

    def __init__(self, *, warmup_epochs: float = 0.0) -> None:
        _check_warmup(warmup_epochs, 0.0)
        self.warmup_epochs = warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        return 1.0 if rise is None else rise


class Cosine(Schedule):
    """Raise the learning rate linearly, then lower it along half a cosine.

    A run that is shorter than its warm-up ends within it.

    Args:
        warmup_epochs: epochs of the linear rise.
        final: factor at the end of the run.
        warmup_start: factor at the first step.
        per_epoch: change the factor only once per epoch, in the rise as well. The first epoch then
            has `warmup_start`, and the last epoch of the warm-up has the base rate, as with
            schedulers that Lightning steps once per epoch (solo-learn, MASSRL).
    """

    def __init__(
        self,
        *,
        warmup_epochs: float = 0.0,
        final: float = 0.0,
        warmup_start: float = 0.0,
        per_epoch: bool = False,
    ) -> None:
        _check_warmup(warmup_epochs, warmup_start)
        if not 0.0 <= final <= 1.0:
            raise ValueError(
                f"`schedule.final` must be a factor in [0, 1], got {final}. Divide the rate by lr."
            )
        self.warmup_epochs, self.final, self.warmup_start, self.per_epoch = (
            warmup_epochs,
            final,
            warmup_start,
            per_epoch,
        )

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        warmup = self.warmup_epochs * steps_per_epoch
        position, length = step, warmup
        if self.per_epoch:
            position = step - step % steps_per_epoch
            # Stepped after each epoch, the rate is at its base in the last epoch of the rise.
            length = max(warmup - steps_per_epoch, steps_per_epoch)
        if position < warmup:
            return _rise(min(position / length, 1.0), self.warmup_start)
        progress = min((position - warmup) / max(total_steps - warmup, 1.0), 1.0)
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * progress)) / 2.0


class MultiStep(Schedule):
    """Multiply the learning rate by a factor at given fractions of the run.

    Args:
        milestones: fractions of the run in (0, 1), increasing.
        factor: factor of the learning rate at each milestone.
        warmup_epochs: epochs of a linear rise from 0.
    """

    def __init__(
        self, *, milestones: list[float], factor: float = 0.1, warmup_epochs: float = 0.0
    ) -> None:
        _check_warmup(warmup_epochs, 0.0)
        rising = all(a < b for a, b in zip(milestones, milestones[1:], strict=False))
        if not rising or not all(0.0 < m < 1.0 for m in milestones):
            raise ValueError(
                "`schedule.milestones` must be increasing fractions of the run in (0, 1), got "
                f"{list(milestones)}. Divide epochs by the number of epochs."
            )
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"`schedule.factor` must be in (0, 1], got {factor}. Try 0.1.")
        self.milestones, self.factor, self.warmup_epochs = list(milestones), factor, warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        # Milestones are rounded to steps: 0.6 · 10 must not miss step 6 by the last bit.
        passed = sum(step >= round(m * total_steps) for m in self.milestones)
        return self.factor**passed if rise is None else rise


class Polynomial(Schedule):
    """Follow a power of the remaining fraction of the run, as in semantic segmentation.

    Args:
        power: exponent; usually 0.9.
        warmup_epochs: epochs of a linear rise from 0.
    """

    def __init__(self, *, power: float = 0.9, warmup_epochs: float = 0.0) -> None:
        _check_warmup(warmup_epochs, 0.0)
        if power <= 0.0:
            raise ValueError(f"`schedule.power` must be positive, got {power}. Try 0.9.")
        self.power, self.warmup_epochs = power, warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        return (1.0 - step / total_steps) ** self.power if rise is None else rise


def _check_warmup(epochs: float, start: float) -> None:
    if epochs < 0.0:
        raise ValueError(
            f"`schedule.warmup_epochs` must be at least 0, got {epochs}. 0 turns it off."
        )
    if not 0.0 <= start <= 1.0:
        raise ValueError(
            f"`schedule.warmup_start` must be a factor in [0, 1], got {start}. Divide the rate by "
            "lr."
        )


def _warmup(step: int, steps: float, start: float) -> float | None:
    """Compute the factor during the linear rise; `None` after it."""
    return _rise(step / steps, start) if step < steps else None


def _rise(progress: float, start: float) -> float:
    return start + (1.0 - start) * progress
