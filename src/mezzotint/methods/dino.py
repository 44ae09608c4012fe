"""DINO (Caron et al. 2021, arXiv 2104.14294): predict the teacher's distribution over prototypes.

Student and teacher, its momentum copy, assign each view a distribution over prototypes. The
teacher's is centered, so that no prototype takes all samples, and sharpened by a low temperature,
so that it does not become uniform; together they prevent a collapse. Local crops are given to the
student alone. With `multi_augment` views it is the base of MV-MA-DINO.

Differs from the authors' code: the center is updated after the optimizer step, so that a skipped
step leaves no trace; a frozen last layer gets a zero gradient, which has the same effect because
its rows are normalized; the last layer is parameterized here instead of by `weight_norm`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, log_softmax, normalize, softmax

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.method import (
    Branch,
    BranchName,
    cosine_momentum,
    momentum_copy,
    momentum_update,
)
from mezzotint.methods.siamese import Siamese, one_pass, over_pairs, target_views
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Views


class Prototypes(nn.Module):
    """A head of three layers to a unit vector, and its cosines with prototypes.

    Args:
        features: width of the input.
        hidden: width of the two hidden layers.
        dim: width of the unit vectors.
        count: number of prototypes, K.
        learned_norms: learn the norms of the prototypes instead of fixing them at 1.
    """

    def __init__(
        self, features: int, hidden: int, dim: int, count: int, learned_norms: bool
    ) -> None:
        super().__init__()
        layers = [
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, dim),
        ]
        self.body = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.directions = nn.Parameter(nn.Linear(dim, count, bias=False).weight.detach())
        self.lengths = nn.Parameter(torch.ones(count, 1)) if learned_norms else None

    def forward(self, x: Tensor, learning: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Features `[N, features]` → unit vectors `[N, dim]` and logits `[N, K]`.

        Args:
            x: features.
            learning: factor of the gradient of the prototypes: 0 freezes them, 1 trains them.
        """
        z = normalize(self.body(x), dim=1)
        fixed = self.directions.detach()
        rows = normalize(fixed + (self.directions - fixed) * learning, dim=1)
        return z, linear(z, rows if self.lengths is None else rows * self.lengths)


class DINO(Siamese):
    """Predict the teacher's distribution over prototypes from every other view.

    Args:
        encoder: network to train.
        prototypes: number of prototypes, K.
        dim: width of the unit vectors that are compared with prototypes.
        hidden_dim: width of the head's hidden layers.
        temperature: temperature of the student's softmax.
        teacher_temperature: temperature of the teacher at the start and after the warm-up.
        teacher_warmup_epochs: epochs over which the teacher's temperature rises.
        momentum: momentum of the teacher at the start; it rises to 1 along half a cosine.
        center_momentum: momentum of the center.
        frozen_epochs: epochs in which the prototypes are frozen.
        norm_last_layer: fix the norms of prototypes at 1; learned norms can help, and can make
            training unstable.
    """

    max_views: ClassVar[int | None] = None
    takes_target_views: ClassVar[bool] = True
    center: Tensor
    projector: Prototypes

    def __init__(
        self,
        encoder: Encoder,
        *,
        prototypes: int = 65536,
        dim: int = 256,
        hidden_dim: int = 2048,
        temperature: float = 0.1,
        teacher_temperature: tuple[float, float] = (0.04, 0.07),
        teacher_warmup_epochs: int = 30,
        momentum: float = 0.996,
        center_momentum: float = 0.9,
        frozen_epochs: int = 1,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim, dim=dim)
        if min(temperature, *teacher_temperature) <= 0.0:
            raise ValueError(
                "`method.temperature` and `method.teacher_temperature` must be positive, got "
                f"{temperature} and {list(teacher_temperature)}. Try 0.1 and [0.04, 0.07]."
            )
        if not 0.0 <= momentum <= 1.0 or not 0.0 <= center_momentum <= 1.0:
            raise ValueError(
                "`method.momentum` and `method.center_momentum` must be in [0, 1], got "
                f"{momentum} and {center_momentum}. Try 0.996 and 0.9."
            )
        if prototypes < 2 or teacher_warmup_epochs < 0 or frozen_epochs < 0:
            raise ValueError(
                "`method.prototypes` must be at least 2, `teacher_warmup_epochs` and "
                "`frozen_epochs` "
                f"at least 0, got {prototypes}, {teacher_warmup_epochs} and {frozen_epochs}. "
                "Try 65536, 30 and 1."
            )
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.teacher_warmup_epochs, self.frozen_epochs = teacher_warmup_epochs, frozen_epochs
        self.momentum, self.center_momentum = momentum, center_momentum
        self.projector = Prototypes(encoder.dim, hidden_dim, dim, prototypes, not norm_last_layer)
        self.teacher_encoder = momentum_copy(encoder)
        self.teacher_projector = momentum_copy(self.projector)
        self.register_buffer("center", torch.zeros(prototypes))
        self._fresh: list[Tensor] = []

    def branches(self) -> Mapping[BranchName, Branch]:
        # The heads return unit vectors and logits; what is evaluated comes before both.
        return {
            "online": Branch(self.encoder, self.projector.body),
            "target": Branch(self.teacher_encoder, self.teacher_projector.body),
        }

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Compute unit vectors and logits of every view."""
        features = one_pass(self.encoder, views.x)
        learning = (_epoch(views) >= self.frozen_epochs).to(features[0].dtype)
        outputs = self.projector(torch.cat(features), learning)
        z, logits = (part.chunk(len(features)) for part in outputs)
        return list(z), list(logits)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the teacher's centered and sharpened distributions.

        The mean of the batch is kept for `after_step`.
        """
        indices = target_views(views)
        features = one_pass(self.teacher_encoder, [views.x[index] for index in indices])
        _, logits = self.teacher_projector(torch.cat(features))
        logits = logits.float()
        self._fresh.append(logits.mean(dim=0))
        first, last = self.teacher_temperature
        progress = (_epoch(views) / max(1, self.teacher_warmup_epochs)).clamp(max=1.0)
        sharp = first + (last - first) * (
            progress if self.teacher_warmup_epochs else torch.ones_like(progress)
        )
        probabilities = softmax((logits - self.center) / sharp, dim=1).chunk(len(indices))
        return dict(zip(indices, probabilities, strict=True))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Average the cross-entropy over all pairs; log the entropy of the mean target in nats."""
        logs = [log_softmax(p.float() / self.temperature, dim=1) for p in ps]
        mean = torch.stack([t.detach() for t in ts.values()]).mean(dim=(0, 1))
        spread = -(mean * mean.clamp(min=1e-30).log()).sum()
        return over_pairs(_cross_entropy, logs, ts, views, "mean"), {"target_entropy": spread}

    def before_step(self) -> None:
        """Drop the means of a skipped step."""
        self._fresh = []

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the teacher, and move the center toward the mean of the step."""
        momentum = cosine_momentum(self.momentum, progress)
        momentum_update(self.teacher_encoder, self.encoder, momentum)
        momentum_update(self.teacher_projector, self.projector, momentum)
        if self._fresh:
            mean = dist.mean(torch.stack(self._fresh).mean(dim=0))
            self.center.lerp_(mean, 1.0 - self.center_momentum)
            self._fresh = []


def _cross_entropy(log_p_BK: Tensor, t_BK: Tensor) -> Tensor:
    return -(t_BK.detach() * log_p_BK).sum(dim=1).mean()


def _epoch(views: Views) -> Tensor:
    """Return the epoch of the views; infinity, past every warm-up, if they have none."""
    return views.x[0].new_full((), math.inf) if views.epoch is None else views.epoch
