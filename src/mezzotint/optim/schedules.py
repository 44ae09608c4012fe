"""Learning-rate schedules: pure functions of the step that multiply each group's `base_lr`.

Nothing is kept between steps, so a resumed run is where an uninterrupted one would be, and groups
with learning rates of their own keep their proportions.
"""

import math
from abc import ABC, abstractmethod

from mezzotint.recipe.component import Component


class Schedule(Component, ABC, abstract=True):
    """A factor for the learning rate, by step."""

    @abstractmethod
    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """The factor of one step.

        Args:
            step: index of the step that is about to be taken, from 0.
            total_steps: of the run.
            steps_per_epoch: what makes epochs of steps.
        """


class Constant(Schedule):
    """The base learning rate throughout.

    Args:
        warmup_epochs: linear rise from 0 at the beginning.
    """

    def __init__(self, *, warmup_epochs: float = 0.0) -> None:
        _check_warmup(warmup_epochs, 0.0)
        self.warmup_epochs = warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """1, after the warm-up."""
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        return 1.0 if rise is None else rise


class Cosine(Schedule):
    """A linear rise, then half a cosine down.

    A run that is shorter than its warm-up ends within it.

    Args:
        warmup_epochs: length of the rise.
        final: factor that the cosine approaches at the end of the run.
        warmup_start: factor of the first step of the rise.
        per_epoch: change the factor of the cosine once an epoch only.
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
                f"final is a factor of the learning rate in [0, 1], got {final}; divide by lr"
            )
        self.warmup_epochs, self.final, self.warmup_start, self.per_epoch = (
            warmup_epochs,
            final,
            warmup_start,
            per_epoch,
        )

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Rises from `warmup_start` to 1, falls to `final`."""
        warmup = self.warmup_epochs * steps_per_epoch
        rise = _warmup(step, warmup, self.warmup_start)
        if rise is not None:
            return rise
        place = max(step - step % steps_per_epoch, warmup) if self.per_epoch else step
        progress = min((place - warmup) / max(total_steps - warmup, 1.0), 1.0)
        return self.final + (1.0 - self.final) * (1.0 + math.cos(math.pi * progress)) / 2.0


class MultiStep(Schedule):
    """The learning rate falls by a factor at given shares of the run.

    Args:
        milestones: shares of the run in (0, 1), increasing.
        factor: what the learning rate is multiplied by at each.
        warmup_epochs: linear rise from 0 at the beginning.
    """

    def __init__(
        self, *, milestones: list[float], factor: float = 0.1, warmup_epochs: float = 0.0
    ) -> None:
        _check_warmup(warmup_epochs, 0.0)
        rising = all(a < b for a, b in zip(milestones, milestones[1:], strict=False))
        if not rising or not all(0.0 < m < 1.0 for m in milestones):
            raise ValueError(
                f"milestones are increasing shares of the run in (0, 1), got {list(milestones)}; "
                "divide epochs by their number"
            )
        if not 0.0 < factor <= 1.0:
            raise ValueError(f"factor must lie in (0, 1], got {factor}; 0.1 is usual")
        self.milestones, self.factor, self.warmup_epochs = list(milestones), factor, warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """`factor` to the number of milestones passed, after the warm-up."""
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        # Milestones are rounded to steps: 0.6 · 10 must not miss step 6 by the last bit.
        passed = sum(step >= round(m * total_steps) for m in self.milestones)
        return self.factor**passed if rise is None else rise


class Polynomial(Schedule):
    """A power of the share of the run that is left, as semantic segmentation uses it.

    Args:
        power: 0.9 is usual.
        warmup_epochs: linear rise from 0 at the beginning.
    """

    def __init__(self, *, power: float = 0.9, warmup_epochs: float = 0.0) -> None:
        _check_warmup(warmup_epochs, 0.0)
        if power <= 0.0:
            raise ValueError(f"power must be above 0, got {power}; 0.9 is usual")
        self.power, self.warmup_epochs = power, warmup_epochs

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """`(1 − step / total_steps)^power`, after the warm-up."""
        rise = _warmup(step, self.warmup_epochs * steps_per_epoch, 0.0)
        return (1.0 - step / total_steps) ** self.power if rise is None else rise


def _check_warmup(epochs: float, start: float) -> None:
    if epochs < 0.0:
        raise ValueError(f"warmup_epochs must be at least 0, got {epochs}; 0 leaves it out")
    if not 0.0 <= start <= 1.0:
        raise ValueError(
            f"warmup_start is a factor of the learning rate in [0, 1], got {start}; divide by lr"
        )


def _warmup(step: int, steps: float, start: float) -> float | None:
    """The factor during the linear rise, None after it."""
    return start + (1.0 - start) * step / steps if step < steps else None
