"""Keep NaN and inf out of a run.

The guard checks the loss and the gradient's norm of *every* step before the optimizer and any
momentum copy use them. What the forward passes of an abandoned step moved (BatchNorm statistics,
observers, codebooks) is put back, so that the state in memory and on disk is always finite.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from mezzotint import dist

_LARGE = 100_000


class NotFinite(RuntimeError):
    """The loss or a gradient was NaN or inf in more steps than the recipe tolerates."""


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

    @classmethod
    def read(
        cls, loss: Tensor, grad_norm: Tensor, moved_finite: Tensor, logs: Mapping[str, Tensor]
    ) -> Self:
        """Read all scalars at once: the only time in a step that the host waits for the device."""
        # The loss of any process that is NaN or inf makes the mean NaN or inf on all of them.
        shared = dist.mean(torch.stack([loss.float(), moved_finite.float()]))
        rest = [value.detach().float() for value in (grad_norm, *logs.values())]
        mean_loss, fraction, norm, *values = torch.stack([*shared, *rest]).tolist()
        return cls(mean_loss, norm, fraction == 1.0, dict(zip(logs, values, strict=True)))


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
                "optimizer.lr, set run.clip_norm, or use run.compute.precision=fp32."
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
        reused = [name for name, b in now.items() if _alike(self._kept.get(name), b)]
        if reused:
            torch._foreach_copy_([self._kept[n] for n in reused], [now[n] for n in reused])
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
        name = first_not_finite(self.module.named_parameters())
        if name is not None:
            raise NotFinite(
                f"The update before step {step} made the weights {name} NaN or inf. Lower "
                "optimizer.lr, or set run.clip_norm."
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
            if _alike(buffer, kept):
                buffer.copy_(kept)  # type: ignore[union-attr]
            else:
                owner._buffers[attribute] = kept.clone()
        # Modules that mirror a buffer in Python read it again when they are loaded.
        self.module.load_state_dict(self.module.state_dict())


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
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
