"""e-Mix and i-Mix: recognize the two samples of a mixture.

i-Mix (Lee et al. 2021, arXiv 2010.08887) mixes inputs; e-Mix (Tamkin et al. 2021, DABS, arXiv
2111.12062) mixes embeddings, before the transformer, so that text and any other data can be mixed.
Each mixture is an anchor, and the samples of the batch are its candidates: the cross-entropy of
finding the own sample has the weight λ, the cross-entropy of finding the partner 1 − λ. λ is
uniform and folded to one half or more; the partner gets no gradient through the mixture.

Differs from DABS's published code, which has a mistake: λ has the shape `[B, 1, 1]` and the losses
`[B]`, whose product has the shape `[B, 1, B]`, so that every λ weights the losses of all samples.
Here each λ weights its own loss.

Partners are samples of the same process, candidates are samples of all processes. With two views,
mixtures come from the first and candidates from the second. A mixture of texts is as long as the
longer text.

Shapes: B samples, D width.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mezzotint import dist
from mezzotint.augment.mixing import beta_half, lerp_rows
from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.masked import dabs_head, need_patches
from mezzotint.methods.method import Method
from mezzotint.methods.siamese import collapse_signals
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.component import require_sizes
from mezzotint.types import Step, Views

Level = Literal["embedding", "input"]


def mixture_loss(
    mixed_BD: Tensor, z_BD: Tensor, partner: Tensor, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Compute the cross-entropy of finding both parts of each mixture among all samples.

    Args:
        mixed_BD: projections of the mixtures, not normalized.
        z_BD: projections of the samples, not normalized.
        partner: int64 `[B]`, the row of each mixture's other part, on this rank.
        weight: `[B]`, weight of the row's own sample.
        temperature: temperature of the softmax.

    Returns:
        The loss, and the fraction of mixtures nearest to their larger part (no gradient).
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        logits = (
            normalize(mixed_BD.float(), dim=1)
            @ dist.gather(normalize(z_BD.float(), dim=1)).T
            / temperature
        )
        first = dist.rank() * len(z_BD)
        own = first + torch.arange(len(z_BD), device=z_BD.device)
        losses = weight * cross_entropy(logits, own, reduction="none")
        losses = losses + (1.0 - weight) * cross_entropy(logits, first + partner, reduction="none")
        return losses.mean(), (logits.detach().argmax(dim=1) == own).float().mean()


class EMix(Method):
    """Contrast mixtures with the samples that they are made of.

    Args:
        encoder: network to train: a transformer over patches to mix embeddings, any to mix inputs.
        level: `embedding` (e-Mix), or `input` (i-Mix, not for tokens).
        dim: width of the projections.
        temperature: temperature of the softmax.
    """

    no_accumulation: ClassVar[str] = (
        "its candidates are the other samples of the batch, and micro-batches have fewer"
    )
    min_samples: ClassVar[int] = 2
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 2
    needs_patches: ClassVar[bool] = True
    asymmetric_views: ClassVar[bool] = True
    process_dependence: ClassVar[str] = "samples are mixed with others of their process"

    def __init__(
        self,
        encoder: Encoder,
        *,
        level: Level = "embedding",
        dim: int = 128,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(encoder)
        require_sizes("method", dim=dim)
        if level not in ("embedding", "input") or temperature <= 0.0:
            raise ValueError(
                "`method.level` must be embedding or input, and `method.temperature` positive, got "
                f"{level!r} and {temperature}. DABS uses embedding and 0.2."
            )
        if level == "input" and modality_of(encoder.input).has_tokens:
            raise ValueError(
                "`method.level` must be embedding for tokens, which cannot be mixed as inputs, "
                "got input."
            )
        if level == "embedding":
            need_patches(encoder)
        self.level, self.temperature = level, temperature
        self.head = dabs_head(encoder.dim, dim)

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        partner, weight = self._draw(views)
        mixed, features = self._features(views, partner, weight)
        mixed, z = self.head(mixed), self.head(features)
        loss, accuracy = mixture_loss(mixed, z, partner, weight, self.temperature)
        return Step(loss, {"accuracy": accuracy, **collapse_signals([mixed, z])})

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views) -> tuple[Tensor, Tensor]:
        """Draw partners and weights, outside the compiled graph, as the key changes each step."""
        draws = views.draws.fold("emix")
        weight = beta_half(draws)
        count = len(weight)
        further = 1 + draws.integers("partner", high=max(1, count - 1))
        return (torch.arange(count, device=weight.device) + further) % count, weight

    def _features(self, views: Views, partner: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features of mixtures and samples."""
        first, last = views.x[0], views.x[-1]
        if self.level == "input":
            return self.encoder(_mixed(first, partner, weight)), self.encoder(last)
        encoder = need_patches(self.encoder)
        embedded, where = encoder.embed(first)
        valid = encoder.valid_mask(first)
        either = None if valid is None else valid | valid[partner]
        mixed = encoder.pool(
            encoder.encode(_mixed(embedded, partner, weight), where, either), either
        )
        return mixed, encoder(last)


def _mixed(x: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Mix samples; partners get no gradient."""
    weights = weight.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return lerp_rows(x.detach(), partner, weight) + weights * (x - x.detach())
