"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057): contrast a prediction with the momentum copy's keys of the batch.

No queue: the keys of the other samples of the global batch are the negatives. ResNets and ViTs have
their own heads. A ViT's patch embedding can stay as it was initialized, which the paper found to
prevent dips in training. Differs from the authors' code in order only: the momentum copy is updated
after the optimizer step rather than before the next forward, which gives the same sequence of
weights.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mezzotint import dist
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.heads import mlp
from mezzotint.methods.method import (
    Branch,
    BranchName,
    cosine_momentum,
    momentum_copy,
    momentum_update,
)
from mezzotint.methods.siamese import Siamese, each_view
from mezzotint.types import Views

Head = Literal["resnet", "vit"]


def contrast(q_BD: Tensor, k_BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE of queries with the keys of all ranks, times 2 · temperature (algorithm 1 and its footnote).

    The scale makes the gradient comparable between temperatures.

    Args:
        q_BD: queries of this rank, `[B, D]`, not normalized.
        k_BD: keys of the same samples, `[B, D]`; no gradient flows into them.
        temperature: of the softmax.

    Returns:
        The loss, and the share of queries whose nearest key is their own (no gradient).
    """
    with torch.autocast(q_BD.device.type, enabled=False):
        q = normalize(q_BD.float(), dim=1)
        keys = dist.gather(normalize(k_BD.detach().float(), dim=1))
        logits = q @ keys.T / temperature
        own = torch.arange(len(q), device=q.device) + dist.rank() * len(q)
        accuracy = (logits.detach().argmax(dim=1) == own).float().mean()
        return cross_entropy(logits, own) * (2.0 * temperature), accuracy


class MoCoV3(Siamese):
    """Contrast each view's prediction with the momentum copy's keys of the other view.

    Args:
        encoder: to be trained.
        head: `"resnet"`: two-layer projector, predictor without a last BatchNorm; `"vit"`:
            three-layer projector, predictor with one.
        hidden_dim: width of the hidden layers of projector and predictor.
        dim: width of queries and keys.
        temperature: of the softmax; the paper has 1.0 for ResNet-50 and 0.2 for ViTs.
        momentum: of the momentum copy at the start; it rises to 1 along half a cosine.
        stop_grad_patch_embed: leave the encoder's `patch_embed` as initialized; ViTs only.
    """

    no_accumulation: ClassVar[str] = (
        "its negatives are the keys of the other samples of the batch, and micro-batches would have fewer of them"
    )
    projector: nn.Sequential

    def __init__(
        self,
        encoder: Encoder,
        *,
        head: Head = "resnet",
        hidden_dim: int = 4096,
        dim: int = 256,
        temperature: float = 1.0,
        momentum: float = 0.99,
        stop_grad_patch_embed: bool = False,
    ) -> None:
        super().__init__(encoder)
        if temperature <= 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}; 1.0 or 0.2 is usual")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}; 0.99 to 0.999 is usual")
        self.temperature, self.momentum = temperature, momentum
        vit = head == "vit"
        if stop_grad_patch_embed:
            _freeze_patch_embed(encoder)
        self.projector = mlp(
            [encoder.dim, *[hidden_dim] * (2 if vit else 1), dim],
            hidden_bias=False,
            last_bias=False,
            last_norm=True,
        )
        self.predictor = mlp(
            [dim, hidden_dim, dim], hidden_bias=False, last_bias=False, last_norm=vit
        )
        self.key_encoder = momentum_copy(encoder)
        self.key_projector = momentum_copy(self.projector)

    def branches(self) -> Mapping[BranchName, Branch]:
        target = Branch(self.key_encoder, self.key_projector)
        return {**super().branches(), "target": target}

    def online(self, views: Views) -> tuple[list[Tensor], list[Tensor]]:
        """Projections, and the queries made from them."""
        zs = each_view(self.projector, each_view(self.encoder, views.x))
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """The keys: what the momentum copy says of each view."""
        return dict(enumerate(each_view(self.key_projector, each_view(self.key_encoder, views.x))))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses of both directions."""
        loss12, accuracy12 = contrast(ps[0], ts[1], self.temperature)
        loss21, accuracy21 = contrast(ps[1], ts[0], self.temperature)
        return loss12 + loss21, {"accuracy": (accuracy12 + accuracy21) / 2}

    def after_step(self, progress: float) -> None:
        """Move the momentum copy toward the trained network."""
        momentum = cosine_momentum(self.momentum, progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)


def _freeze_patch_embed(encoder: Encoder) -> None:
    found = [
        module
        for name, module in encoder.named_modules()
        if name.rpartition(".")[2] == "patch_embed"
    ]
    if not found:
        raise ValueError(
            f"stop_grad_patch_embed needs an encoder with a patch_embed, got {type(encoder).__name__}; "
            "set it to false, or take a ViT"
        )
    for module in found:
        module.requires_grad_(False)
