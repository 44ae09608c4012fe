"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057): contrast predictions with momentum keys.

There is no queue: the keys of the other samples of the global batch are the negatives. ResNets and
ViTs have different heads. A ViT's patch embedding can be frozen at its initialization, which
prevents dips in training according to the paper. Differs from the authors' code in order only: the
momentum copy is updated after the optimizer step instead of before the next forward pass, which
gives the same sequence of weights.
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
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Views

Head = Literal["resnet", "vit"]


def contrast(q_BD: Tensor, k_BD: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Compute InfoNCE of queries and the keys of all ranks, times 2 · temperature (algorithm 1).

    The scale of its footnote makes gradients comparable between temperatures.

    Args:
        q_BD: queries of this rank, `[B, D]`, not normalized.
        k_BD: keys of the same samples, `[B, D]`; no gradient flows into them.
        temperature: temperature of the softmax.

    Returns:
        The loss, and the fraction of queries whose nearest key is their own (no gradient).
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
        encoder: network to train.
        head: `"resnet"` has a two-layer projector and no BatchNorm at the end of the predictor;
            `"vit"` has a three-layer projector and one.
        hidden_dim: width of the hidden layers of projector and predictor.
        dim: width of queries and keys.
        temperature: temperature of the softmax; 1.0 for ResNet-50 and 0.2 for ViTs in the paper.
        momentum: momentum of the key encoder at the start; it rises to 1 along half a cosine.
        stop_grad_patch_embed: freeze the patch embedding of a ViT at its initialization.
    """

    no_accumulation: ClassVar[str] = (
        "its negatives are the keys of the other samples, and micro-batches have fewer"
    )
    has_rows: ClassVar[bool] = True
    min_samples: ClassVar[int] = 2
    takes_target_views: ClassVar[bool] = True
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
        require_sizes("method", hidden_dim=hidden_dim, dim=dim)
        if temperature <= 0.0:
            raise ValueError(f"`method.temperature` must be positive, got {temperature}. Try 0.2.")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"`method.momentum` must be in [0, 1], got {momentum}. Try 0.99.")
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
        zs = each_view(self.projector, each_view(self.encoder, views.x))
        return zs, each_view(self.predictor, zs)

    @torch.no_grad()
    def targets(self, views: Views, zs: Sequence[Tensor]) -> dict[int, Tensor]:
        """Compute the keys: the momentum copy's projections of each view."""
        return dict(enumerate(each_view(self.key_projector, each_view(self.key_encoder, views.x))))

    def compare(
        self, ps: Sequence[Tensor], ts: Mapping[int, Tensor], views: Views
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses of both pairs of views."""
        loss12, accuracy12 = contrast(ps[0], ts[1], self.temperature)
        loss21, accuracy21 = contrast(ps[1], ts[0], self.temperature)
        return loss12 + loss21, {"accuracy": (accuracy12 + accuracy21) / 2}

    def after_step(self, progress: float) -> None:
        """Update the key encoder."""
        momentum = cosine_momentum(self.momentum, progress)
        momentum_update(self.key_encoder, self.encoder, momentum)
        momentum_update(self.key_projector, self.projector, momentum)


def _freeze_patch_embed(encoder: Encoder) -> None:
    names = ("patches", "patch_embed")  # ours, and timm's
    embeddings = [
        module
        for name, module in encoder.named_modules()
        if name.rpartition(".")[2] in names and any(True for _ in module.parameters())
    ]
    if not embeddings:
        raise ValueError(
            "`method.stop_grad_patch_embed` needs an encoder with a patch embedding, which "
            f"{type(encoder).__name__} does not have. Set it to false, or choose a ViT."
        )
    for module in embeddings:
        module.requires_grad_(False)
