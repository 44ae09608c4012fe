"""SimSiam (Chen and He 2020, arXiv 2011.10566): predict a view from another, with a stop-gradient.

There are no negatives and no momentum copy: the predictor and the stop-gradient alone prevent a
collapse. Each view has its own forward pass, so BatchNorm sees one view at a time, as in the paper.
Differs from the paper's code: the projector's last linear layer has no bias instead of a frozen one
(the BatchNorm after it removes either); any number of views is possible, and every other global
view is then a target.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.siamese import Reduction, Siamese, each_view, over_pairs, target_views
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Views


def negative_cosine(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """Compute minus the mean cosine of predictions and targets (equation 1), in [−1, 1].

    Args:
        p_BD: predictions, `[B, D]`.
        z_BD: targets, `[B, D]`; no gradient flows into them.
    """
    return -cosine_similarity(p_BD.float(), z_BD.detach().float(), dim=1).mean()


class SimSiam(Siamese, kind="simsiam"):
    """Predict the projection of each view from the other views.

    Args:
        encoder: network to train.
        dim: width of the projections.
        hidden_dim: width of the predictor's hidden layer; the paper uses a quarter of `dim`.
        reduction: reduction over (prediction, target) pairs; `sum` grows with the number of views.
    """

    max_views: ClassVar[int | None] = None
    projector: nn.Sequential
    own_targets: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        dim: int = 2048,
        hidden_dim: int = 512,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim, dim=dim)
        self.reduction = reduction
        width = max(encoder.dim, dim)
        self.projector = mlp(
            [encoder.dim, width, width, dim], hidden_bias=False, last_bias=False, last_norm=True
        )
        self.predictor = mlp([dim, hidden_dim, dim], hidden_bias=False)

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        zs = each_view(self.projector, each_view(self.encoder, views.x))
        return zs, each_view(self.predictor, zs)

    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the projections of the global views."""
        return {index: zs[index] for index in target_views(views)}

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss over all (prediction, target) pairs, in [−1, 1] for the mean."""
        return over_pairs(negative_cosine, ps, ts, views, self.reduction), {}
