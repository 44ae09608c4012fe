"""SimCLR (Chen et al. 2020, arXiv 2002.05709): contrast views of a sample with all other samples.

Views of one sample attract each other, everything else in the batch repels. The head has a
BatchNorm after each linear layer, as in the authors' code. Differs from the paper: the last
BatchNorm of the head has no learned scale; the temperature is 0.2 by default; any number of views
is possible, and each pair of them is a positive.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.siamese import Siamese, one_pass, weights_of
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Views


def nt_xent(
    z_VBD: Tensor,
    temperature: float,
    others_VBD: Tensor | None = None,
    weights_VV: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Normalized temperature-scaled cross-entropy over all views of the global batch.

    Each of the `V · B` projections of this rank is an anchor. Its candidates are all other
    projections of all ranks; its positives are the V − 1 other views of its own sample. The loss is
    the cross-entropy of finding a positive, averaged over positives and anchors (equation 1; with
    two views an anchor has one positive).

    Args:
        z_VBD: projections of V views, `[V, B, D]`, not normalized.
        temperature: temperature of the softmax.
        others_VBD: candidates, if they are not the anchors themselves: another network's
            projections of the same views. The projection of an anchor's own view is left out too.
        weights_VV: weight of each pair of views (anchor, positive). Views of an anchor's sample
            with weight 0 are neither positives nor negatives.

    Returns:
        The loss, and the fraction of anchors whose nearest candidate is a positive (no gradient).
    """
    with torch.autocast(z_VBD.device.type, enabled=False):
        views, batch, _ = z_VBD.shape
        anchors = views * batch
        z = normalize(z_VBD.float().flatten(0, 1), dim=1)
        rows = torch.arange(anchors, device=z.device)
        own = rows + dist.rank() * anchors  # indices of this rank's rows among all ranks'
        # A sample's other views are batch, 2 · batch, … rows further, wrapping round.
        shifts = torch.arange(1, views, device=z.device) * batch
        positives = (rows.unsqueeze(1) + shifts) % anchors + dist.rank() * anchors
        others = z if others_VBD is None else normalize(others_VBD.float().flatten(0, 1), dim=1)
        logits = z @ dist.gather(others).T / temperature
        logits = logits.scatter(1, own.unsqueeze(1), float("-inf"))
        near = logits.gather(1, positives)
        if weights_VV is None:
            loss = (logits.logsumexp(dim=1) - near.mean(dim=1)).mean()
        else:
            view = (rows // batch).unsqueeze(1)
            weights = weights_VV[view, (view + shifts // batch) % views]
            logits = logits.scatter(1, positives, near.masked_fill(weights == 0.0, float("-inf")))
            loss = (weights * (logits.logsumexp(dim=1, keepdim=True) - near)).sum() / weights.sum()
        hit = (logits.detach().argmax(dim=1, keepdim=True) == positives).any(dim=1)
        return loss, hit.float().mean()


class SimCLR(Siamese):
    """Contrast the views of a sample with all other samples of the global batch.

    Args:
        encoder: network to train.
        hidden_dim: width of the projector's hidden layers.
        dim: width of the projections.
        layers: linear layers of the projector: 2 in SimCLR, 3 in SimCLR v2.
        temperature: temperature of the softmax.
        hidden_norm: put a BatchNorm after each hidden linear of the projector; without it they have
            a bias, as in SSQL's baseline.
        last_norm: end the projector with a BatchNorm.
    """

    no_accumulation: ClassVar[str] = (
        "its negatives are the other samples of the batch, and micro-batches have fewer"
    )
    max_views: ClassVar[int | None] = None
    has_rows: ClassVar[bool] = True
    min_samples: ClassVar[int] = 2
    projector: nn.Sequential
    own_targets: ClassVar[bool] = True

    def __init__(
        self,
        encoder: Encoder,
        *,
        hidden_dim: int = 2048,
        dim: int = 128,
        layers: int = 2,
        temperature: float = 0.2,
        hidden_norm: bool = True,
        last_norm: bool = True,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", hidden_dim=hidden_dim, dim=dim, layers=layers)
        if temperature <= 0.0:
            raise ValueError(f"`method.temperature` must be positive, got {temperature}. Try 0.2.")
        self.temperature = temperature
        self.projector = mlp(
            [encoder.dim, *[hidden_dim] * (layers - 1), dim],
            hidden_norm=hidden_norm,
            hidden_bias=not hidden_norm,
            last_bias=not last_norm,
            last_norm=last_norm,
        )

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Project two or more views, whose sizes may differ; there is no predictor."""
        features = one_pass(self.encoder, views.x)
        zs = list(self.projector(torch.cat(features)).chunk(len(features)))
        return zs, zs

    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return the same projections; the loss has a gradient in both."""
        return dict(enumerate(zs))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the cross-entropy of finding a sample's other views among all targets."""
        own = all(p is ts[index] for index, p in enumerate(ps))
        others = None if own else torch.stack([ts[index] for index in range(len(ps))])
        loss, accuracy = nt_xent(torch.stack(list(ps)), self.temperature, others, weights_of(views))
        return loss, {"accuracy": accuracy}
