"""Notice features that collapse while an encoder trains, before hours are spent on it.

Two scalars of a step's features are computed on the device in the steps that are logged, and read
together with the loss: the standard deviation of the L2-normalized features, which is 0 if all
samples have the same features, and their effective rank, which is 1 if the features vary along one
direction only. The effective rank is the participation ratio of the eigenvalues of the covariance,
(Σ λ)² / Σ λ², which needs no decomposition. Where the method logs `feature_std` of its projections
(`methods.siamese.collapse_signals`), this counts too.
"""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.recipe.recipe import Recipe

STD, RANK, PROJECTED = "features/std", "features/rank", "feature_std"
LOWEST_STD, LOWEST_PROJECTED_STD = 0.02, 0.005
"""Features and projections that differ by less, as a fraction of isotropic ones, are collapsed.

Optimization comes near the constant solution and not quite to it: on digits a planted collapse ends
at 0.013, and healthy encoders of all modalities stay above 0.3. DINO's projections reach 0.02.
"""
LOWEST_RANK = 1.05
"""Features of a lower effective rank vary along a single direction."""
PATIENCE = 3
"""Logged steps in a row before the alarm: a single batch may be odd."""


class Collapsed(RuntimeError):
    """The features collapsed, and the recipe stops a run then."""


def spread_and_rank(x_BD: Tensor) -> Tensor:
    """Compute √D × the mean standard deviation, and the effective rank, of normalized features.

    Args:
        x_BD: features `[B, D]` of at least two samples.

    Returns:
        float32 `[2]`: the standard deviation, 1 for isotropic features, and the effective rank.
    """
    units_BD = normalize(x_BD.float(), dim=1)
    centered_BD = units_BD - units_BD.mean(dim=0)
    std = centered_BD.square().mean(dim=0).sqrt().mean() * units_BD.shape[1] ** 0.5
    # The smaller of both Gram matrices has the same eigenvalues.
    rows, columns = centered_BD.shape
    gram = centered_BD @ centered_BD.T if rows < columns else centered_BD.T @ centered_BD
    total = gram.trace()
    rank = total.square() / gram.square().sum().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.stack([std, rank])


class CollapseAlarm:
    """Measures the features of an encoder in logged steps, and warns when they have collapsed.

    Of several forward passes in a step (views, bit-widths), the most varied one counts, so that a
    pass at 2 bits raises no alarm of its own.

    Args:
        encoder: the trained one.
        every: steps between two measurements.
        stop: whether a collapse ends the run.
        enabled: false to measure nothing, because hooks would break up a compiled graph.
    """

    def __init__(self, encoder: Encoder, *, every: int, stop: bool, enabled: bool = True) -> None:
        self.encoder, self.every, self.stop, self.enabled = encoder, every, stop, enabled
        self._hook: RemovableHandle | None = None
        self._found: list[Tensor] = []
        self._in_a_row = 0

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Make the alarm of a run."""
        run = recipe.run
        is_hooked = not run.compute.compile
        return cls(
            recipe.encoder, every=run.log.every_steps, stop=run.guard.stop_on_collapse,
            enabled=is_hooked,
        )  # fmt: skip

    def start(self, step: int) -> None:
        """Begin to keep features, if this step (from 0) is measured."""
        self._found = []  # of a step that is computed again
        if self.enabled and (step + 1) % self.every == 0 and self._hook is None:
            self._hook = self.encoder.register_forward_hook(self._measure)

    @torch.no_grad()
    def _measure(self, module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 2 and len(output) > 1:
            self._found.append(spread_and_rank(output.detach()))

    def finish(self, logs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the scalars of the step, on the device; empty if the step is not measured.

        Args:
            logs: what the method logs.
        """
        if self._hook is None:
            return {}
        self._hook.remove()
        self._hook = None
        found, self._found = self._found, []
        if not found:  # the method computes no features of samples
            return {}
        best = torch.stack(found).amax(dim=0)
        names = [STD, RANK]
        if PROJECTED in logs:
            best, names = torch.cat([best, logs[PROJECTED].detach().float()[None]]), [
                *names, PROJECTED,
            ]  # fmt: skip
        # All processes decide alike.
        return dict(zip(names, dist.mean(best), strict=True))

    def check(self, step: int, metrics: Mapping[str, float]) -> str | None:
        """Return a sentence when the features have collapsed, once per collapse.

        Args:
            step: steps that are done.
            metrics: of the step, on the host.
        """
        if STD not in metrics or not math.isfinite(metrics[STD]):
            return None
        std, projected = metrics[STD], metrics.get(PROJECTED, math.inf)
        is_spread = std >= LOWEST_STD and projected >= LOWEST_PROJECTED_STD
        if is_spread and metrics[RANK] >= LOWEST_RANK:
            self._in_a_row = 0
            return None
        self._in_a_row += 1
        if self._in_a_row != PATIENCE:
            return None
        return (
            f"The features collapsed by step {step}: their standard deviation is {std:.4f} "
            f"(collapsed below {LOWEST_STD}), their effective rank {metrics[RANK]:.2f} (below "
            f"{LOWEST_RANK}){_said(projected)}. Lower optimizer.lr, or check what keeps the method "
            "from a constant solution: negatives, a predictor, a stop of the gradient."
        )

    def end(self, warning: str | None) -> None:
        """End the run after a warning, if the recipe stops on a collapse.

        Raises:
            Collapsed: then.
        """
        if warning is not None and self.stop:
            raise Collapsed(warning)


def _said(projected: float) -> str:
    if math.isinf(projected):
        return ""
    return (
        f", and the projections' standard deviation {projected:.4f} (below {LOWEST_PROJECTED_STD})"
    )
