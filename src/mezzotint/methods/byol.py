"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict what a slowly moving copy of the network says of another view.

The target network is the exponential moving average of encoder and projector; it gets no gradient,
has no predictor, and its BatchNorms use the statistics of its own passes. The average is updated
after each optimizer step, with a momentum that rises to 1 along half a cosine. Differs from the
paper: a momentum of 0.99 at the start (its value for 300 epochs; 0.996 for 1000); the momentum may
stay constant, as BYOL-A has it; more than two views are taken, and every other global view is then
a target.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.method import (
    Branch,
    BranchName,
    cosine_momentum,
    momentum_copy,
    momentum_update,
)
from mezzotint.methods.siamese import Reduction, Siamese, each_view, over_pairs, target_views
from mezzotint.types import Views

MomentumSchedule = Literal["cosine", "constant"]


def squared_distance(p_BD: Tensor, t_BD: Tensor) -> Tensor:
    """Mean squared distance of L2-normalized predictions and targets, 2 − 2 cos (equation 2), in [0, 4].

    Args:
        p_BD: predictions, `[B, D]`.
        t_BD: targets, `[B, D]`; no gradient flows into them.
    """
    return 2.0 - 2.0 * cosine_similarity(p_BD.float(), t_BD.detach().float(), dim=1).mean()


class BYOL(Siamese):
    """Predict the momentum copy's projection of one view from another view.

    Args:
        encoder: to be trained.
        hidden_dim: width of the hidden layers of projector and predictor.
        dim: width of the projections.
        layers: linears of the projector; SSQL's BYOL has 3.
        predictor_layers: linears of the predictor; MASSRL's with a 512-d head has 3, as its
            projector.
        last_norm: end the projector with a BatchNorm, as SSQL's BYOL does.
        momentum: of the target network at the start.
        momentum_schedule: `"cosine"` raises it to 1 over training, `"constant"` keeps it.
        reduction: over the (prediction, target) pairs. `"sum"` of both directions is the paper's,
            and grows with the number of views; `"mean"` does not.
        symmetric: predict from every view; otherwise from the first view alone.
    """

    max_views: ClassVar[int | None] = None
    projector: nn.Sequential

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden_dim: int = 4096,
        dim: int = 256,
        layers: int = 2,
        predictor_layers: int = 2,
        last_norm: bool = False,
        momentum: float = 0.99,
        momentum_schedule: MomentumSchedule = "cosine",
        reduction: Reduction = "sum",
        symmetric: bool = True,
    ) -> None:
        super().__init__(encoder)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}; 0.99 to 0.999 is usual")
        if min(layers, predictor_layers) < 1:
            raise ValueError(
                f"got layers={layers} and predictor_layers={predictor_layers}; allowed is 1 or more: 2 of both is usual"
            )
        self.momentum, self.momentum_schedule, self.reduction = (
            momentum,
            momentum_schedule,
            reduction,
        )
        self.symmetric = symmetric
        self.projector = mlp(
            [encoder.dim, *[hidden_dim] * (layers - 1), dim],
            last_bias=not last_norm,
            last_norm=last_norm,
        )
        self.predictor = mlp([dim, *[hidden_dim] * (predictor_layers - 1), dim])
        self.target_encoder = momentum_copy(encoder)
        self.target_projector = momentum_copy(self.projector)

    def branches(self) -> Mapping[BranchName, Branch]:
        target = Branch(self.target_encoder, self.target_projector)
        return {**super().branches(), "target": target}

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Projections, and predictions from them."""
        xs = views.x if self.symmetric else views.x[:1]
        zs = each_view(self.projector, each_view(self.encoder, xs))
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """What the momentum copy says of the global views."""
        places = [place for place in target_views(views) if place > 0 or self.symmetric]
        seen = each_view(self.target_encoder, [views.x[place] for place in places])
        return dict(zip(places, each_view(self.target_projector, seen), strict=True))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over all (prediction, target) pairs; in [0, 8] for the sum over two views."""
        return over_pairs(squared_distance, ps, ts, views, self.reduction), {}

    def after_step(self, progress: float) -> None:
        """Move the target network toward the trained one."""
        constant = self.momentum_schedule == "constant"
        momentum = self.momentum if constant else cosine_momentum(self.momentum, progress)
        momentum_update(self.target_encoder, self.encoder, momentum)
        momentum_update(self.target_projector, self.projector, momentum)
