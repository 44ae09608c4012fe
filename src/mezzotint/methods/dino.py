"""DINO (Caron et al. 2021, arXiv 2104.14294): tell which prototypes the momentum copy sees, from any crop.

Both networks give each view a distribution over prototypes. That of the momentum copy (the teacher)
is centered, which keeps one prototype from taking all, and sharpened by a low temperature, which
keeps the distribution from becoming uniform; together they prevent a collapse. Local crops are seen
by the trained network alone. With `multi_augment` views it is the base of MV-MA-DINO.

Differs from the authors' code: the center moves after the optimizer's step, so that a step that was
left out leaves no trace; a frozen last layer gets a gradient of zero, which the normalization of
its rows makes the same; the parameterization of the last layer is written out instead of
`weight_norm`.
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
from mezzotint.types import Views


class Prototypes(nn.Module):
    """Three layers to a unit vector, and its cosines with prototypes.

    Args:
        features: width of the input.
        hidden: width of the two hidden layers.
        dim: width of the unit vectors.
        count: prototypes, K.
        learned_lengths: whether the prototypes have lengths that are learned, instead of 1.
    """

    def __init__(
        self, features: int, hidden: int, dim: int, count: int, learned_lengths: bool
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
        self.lengths = nn.Parameter(torch.ones(count, 1)) if learned_lengths else None

    def forward(self, x: Tensor, learning: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Features `[N, features]` → unit vectors `[N, dim]` and logits `[N, K]`.

        Args:
            x: the features.
            learning: 0 keeps the gradient from the prototypes, 1 lets it pass.
        """
        z = normalize(self.body(x), dim=1)
        fixed = self.directions.detach()
        rows = normalize(fixed + (self.directions - fixed) * learning, dim=1)
        return z, linear(z, rows if self.lengths is None else rows * self.lengths)


class DINO(Siamese):
    """Predict the teacher's distribution over prototypes from every other view.

    Args:
        encoder: to be trained.
        prototypes: K.
        dim: width of the unit vectors that are compared with them.
        hidden_dim: width of the head's hidden layers.
        temperature: of the trained network.
        teacher_temperature: of the teacher, at the start and after its warm-up.
        teacher_warmup_epochs: epochs over which that rises.
        momentum: of the teacher at the start; it rises to 1 along half a cosine.
        center_momentum: of the center.
        frozen_epochs: epochs in which the prototypes stay as they were initialized.
        norm_last_layer: prototypes of length 1; learned lengths can help, and can make training
            unstable.
    """

    max_views: ClassVar[int | None] = None
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
        if min(temperature, *teacher_temperature) <= 0.0:
            raise ValueError(
                f"got temperature={temperature} and teacher_temperature={tuple(teacher_temperature)}; allowed is above "
                "0: 0.1 and [0.04, 0.07] are published"
            )
        if not 0.0 <= momentum <= 1.0 or not 0.0 <= center_momentum <= 1.0:
            raise ValueError(
                f"got momentum={momentum} and center_momentum={center_momentum}; allowed is 0 to 1: 0.996 and 0.9 are "
                "published"
            )
        if prototypes < 2 or teacher_warmup_epochs < 0 or frozen_epochs < 0:
            raise ValueError(
                f"got prototypes={prototypes}, teacher_warmup_epochs={teacher_warmup_epochs} and "
                f"frozen_epochs={frozen_epochs}; allowed are 2 prototypes or more, and epochs from 0 on: "
                "65536, 30 and 1 are published"
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
        """Unit vectors and logits of every view."""
        features = one_pass(self.encoder, views.x)
        learning = (_epoch(views) >= self.frozen_epochs).to(features[0].dtype)
        found = self.projector(torch.cat(features), learning)
        z, logits = (part.chunk(len(features)) for part in found)
        return list(z), list(logits)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The teacher's distributions, centered and sharpened; the batch's mean waits for `after_step`."""
        places = target_views(views)
        features = one_pass(self.teacher_encoder, [views.x[place] for place in places])
        _, logits = self.teacher_projector(torch.cat(features))
        logits = logits.float()
        self._fresh.append(logits.mean(dim=0))
        first, last = self.teacher_temperature
        share = (_epoch(views) / max(1, self.teacher_warmup_epochs)).clamp(max=1.0)
        sharp = first + (last - first) * (
            share if self.teacher_warmup_epochs else torch.ones_like(share)
        )
        seen = softmax((logits - self.center) / sharp, dim=1).chunk(len(places))
        return dict(zip(places, seen, strict=True))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean cross-entropy over all (prediction, target) pairs; and the entropy of the mean target, in nats."""
        logs = [log_softmax(p.float() / self.temperature, dim=1) for p in ps]
        mean = torch.stack([t.detach() for t in ts.values()]).mean(dim=(0, 1))
        spread = -(mean * mean.clamp(min=1e-30).log()).sum()
        return over_pairs(_cross_entropy, logs, ts, views, "mean"), {"target_entropy": spread}

    def before_step(self) -> None:
        """Drop what a step left behind whose update was left out."""
        self._fresh = []

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher toward the trained network, and the center toward the step's mean."""
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
    """The epoch of the views; past every warm-up where they do not say."""
    return views.x[0].new_full((), math.inf) if views.epoch is None else views.epoch
