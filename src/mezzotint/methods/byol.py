"""BYOL (Grill et al. 2020, arXiv 2006.07733): predict a momentum copy's projection of another view.

The target network is the exponential moving average of encoder and projector. It gets no gradient,
has no predictor, and its BatchNorms use the statistics of its own forward passes. The average is
updated after each optimizer step, with a momentum that rises to 1 along half a cosine. Differs from
the paper: the momentum starts at 0.99 (its value for 300 epochs; 0.996 for 1000); it may stay
constant, as in BYOL-A; any number of views is possible, and every other global view is then a
target.
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
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Views

MomentumSchedule = Literal["cosine", "constant"]


def squared_distance(p_BD: Tensor, t_BD: Tensor) -> Tensor:
    """Compute the squared distance of normalized predictions and targets: 2 − 2 cos (equation 2).

    Args:
        p_BD: predictions, `[B, D]`.
        t_BD: targets, `[B, D]`; no gradient flows into them.
    """
    return 2.0 - 2.0 * cosine_similarity(p_BD.float(), t_BD.detach().float(), dim=1).mean()


class BYOL(Siamese):
    """Predict the momentum copy's projection of one view from another view.

    Args:
        encoder: network to train.
        hidden_dim: width of the hidden layers of projector and predictor.
        dim: width of the projections.
        layers: linear layers of the projector; SSQL's BYOL has 3.
        predictor_layers: linear layers of the predictor; MASSRL with a 512-d head has 3, as in its
            projector.
        last_norm: end the projector with a BatchNorm, as in SSQL's BYOL.
        momentum: momentum of the target network at the start.
        momentum_schedule: `"cosine"` raises the momentum to 1 over training, `"constant"` keeps it.
        reduction: reduction over (prediction, target) pairs. `"sum"` is the paper's, and grows with
            the number of views; `"mean"` does not.
        symmetric: predict from every view; otherwise from the first view alone.
    """

    max_views: ClassVar[int | None] = None
    takes_target_views: ClassVar[bool] = True
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
        require_sizes("method", hidden_dim=hidden_dim, dim=dim)
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"`method.momentum` must be in [0, 1], got {momentum}. Try 0.99.")
        if min(layers, predictor_layers) < 1:
            raise ValueError(
                "`method.layers` and `method.predictor_layers` must be at least 1, got "
                f"{layers} and {predictor_layers}. Try 2 for both."
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
        xs = views.x if self.symmetric else views.x[:1]
        zs = each_view(self.projector, each_view(self.encoder, xs))
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the momentum copy's projections of the global views."""
        indices = [index for index in target_views(views) if index > 0 or self.symmetric]
        features = each_view(self.target_encoder, [views.x[index] for index in indices])
        return dict(zip(indices, each_view(self.target_projector, features), strict=True))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss over all (prediction, target) pairs, in [0, 8] for two views."""
        return over_pairs(squared_distance, ps, ts, views, self.reduction), {}

    def after_step(self, progress: float) -> None:
        """Update the target network."""
        constant = self.momentum_schedule == "constant"
        momentum = self.momentum if constant else cosine_momentum(self.momentum, progress)
        momentum_update(self.target_encoder, self.encoder, momentum)
        momentum_update(self.target_projector, self.projector, momentum)
