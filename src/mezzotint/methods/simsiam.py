"""SimSiam (Chen and He 2020, arXiv 2011.10566): predict one view from another, and stop the target's gradient.

Neither negatives nor a momentum copy: the predictor and the stopped gradient alone keep it from
collapsing. Each view passes through on its own, so BatchNorm sees one view at a time, as in the
paper. Differs from the paper's code: the projector's last linear has no bias instead of a frozen
one (the BatchNorm after it undoes either); more than two views are taken, and every other global
view is then a target.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.siamese import Reduction, Siamese, each_view, over_pairs, target_views
from mezzotint.types import Views


def negative_cosine(p_BD: Tensor, z_BD: Tensor) -> Tensor:
    """Minus the mean cosine of predictions and their targets (equation 1), in [−1, 1].

    Args:
        p_BD: predictions, `[B, D]`.
        z_BD: targets, `[B, D]`; no gradient flows into them.
    """
    return -cosine_similarity(p_BD.float(), z_BD.detach().float(), dim=1).mean()


class SimSiam(Siamese, kind="simsiam"):
    """Predict the projection of each view from that of the others.

    Args:
        encoder: to be trained.
        dim: width of the projections.
        hidden_dim: width of the predictor's hidden layer; the paper has a quarter of `dim`.
        reduction: over the (prediction, target) pairs; the sum grows with the number of views.
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
        self.reduction = reduction
        width = max(encoder.dim, dim)
        self.projector = mlp(
            [encoder.dim, width, width, dim], hidden_bias=False, last_bias=False, last_norm=True
        )
        self.predictor = mlp([dim, hidden_dim, dim], hidden_bias=False)

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Projections, and predictions of them."""
        zs = each_view(self.projector, each_view(self.encoder, views.x))
        return zs, each_view(self.predictor, zs)

    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The projections of the global views."""
        return {place: zs[place] for place in target_views(views)}

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss over all (prediction, target) pairs; in [−1, 1] for the mean (equation 2)."""
        return over_pairs(negative_cosine, ps, ts, views, self.reduction), {}
