"""e-Mix and i-Mix: find out which two samples a mixture is made of, and to what shares.

i-Mix (Lee et al. 2021, arXiv 2010.08887) mixes inputs; e-Mix (Tamkin et al. 2021, DABS, arXiv
2111.12062) mixes what they are embedded as, before the transformer, so that text and anything else
can be mixed. Each mixture is an anchor, and the samples of the batch are its candidates: the
cross-entropy of finding the own sample counts λ, that of finding the partner 1 − λ. λ is uniform
and folded to one half or more; the partner has no gradient through the mixture.

Differs from DABS's published code in a mistake there: λ had the shape `[B, 1, 1]` and the losses
`[B]`, whose product has `[B, 1, B]`, so that every λ weighed the losses of all samples. Here each
weighs its own.

Partners are samples of the same process, candidates those of all. With two views, mixtures are of
the first and candidates from the second; with one, of the same. A mixture of texts is as long as
the longer of the two.

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
from mezzotint.types import Step, Views

Level = Literal["embedding", "input"]


def mixture_loss(
    mixed_BD: Tensor, z_BD: Tensor, partner: Tensor, share: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of finding both parts of each mixture among all samples of all ranks.

    Args:
        mixed_BD: projections of the mixtures, not normalized.
        z_BD: projections of the samples, not normalized.
        partner: int64 `[B]`, the row of each mixture's other part, on this rank.
        share: `[B]`, of its own part.
        temperature: of the softmax.

    Returns:
        The loss, and the share of mixtures whose nearest sample is their larger part (no gradient).
    """
    with torch.autocast(z_BD.device.type, enabled=False):
        logits = (
            normalize(mixed_BD.float(), dim=1)
            @ dist.gather(normalize(z_BD.float(), dim=1)).T
            / temperature
        )
        first = dist.rank() * len(z_BD)
        own = first + torch.arange(len(z_BD), device=z_BD.device)
        losses = share * cross_entropy(logits, own, reduction="none")
        losses = losses + (1.0 - share) * cross_entropy(logits, first + partner, reduction="none")
        return losses.mean(), (logits.detach().argmax(dim=1) == own).float().mean()


class EMix(Method):
    """Contrast mixtures with what they are made of.

    Args:
        encoder: a transformer over patches, where embeddings are mixed; any, where inputs are.
        level: what is mixed: `embedding` (e-Mix) or `input` (i-Mix, not for tokens).
        dim: width of the projections.
        temperature: of the softmax.
    """

    no_accumulation: ClassVar[str] = (
        "its candidates are the other samples of the batch, and micro-batches would have fewer of them"
    )
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
        if level not in ("embedding", "input") or temperature <= 0.0:
            raise ValueError(
                f"got level={level!r}, temperature={temperature}; allowed are embedding or input, and more than 0: "
                "DABS has embedding and 0.2"
            )
        if level == "input" and modality_of(encoder.input).has_tokens:
            raise ValueError(
                "got level=input for tokens, which are no numbers to mix; allowed is level=embedding"
            )
        if level == "embedding":
            need_patches(encoder)
        self.level, self.temperature = level, temperature
        self.head = dabs_head(encoder.dim, dim)

    def forward(self, views: Views) -> Step:
        """The loss on one view, or on two."""
        self.require_views(views)
        partner, share = self._draw(views)
        mixed, features = self._features(views, partner, share)
        mixed, z = self.head(mixed), self.head(features)
        loss, accuracy = mixture_loss(mixed, z, partner, share, self.temperature)
        return Step(loss, {"accuracy": accuracy, **collapse_signals([mixed, z])})

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views) -> tuple[Tensor, Tensor]:
        """Partners and shares; outside the compiled graph, as the key changes with every step."""
        draws = views.draws.fold("emix")
        share = beta_half(draws)
        count = len(share)
        further = 1 + draws.integers("partner", high=max(1, count - 1))
        return (torch.arange(count, device=share.device) + further) % count, share

    def _features(self, views: Views, partner: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the mixtures and of the samples."""
        first, last = views.x[0], views.x[-1]
        if self.level == "input":
            return self.encoder(_mixed(first, partner, share)), self.encoder(last)
        encoder = need_patches(self.encoder)
        embedded, where = encoder.embed(first)
        there = encoder.valid_mask(first)
        either = None if there is None else there | there[partner]
        mixed = encoder.pool(
            encoder.encode(_mixed(embedded, partner, share), where, either), either
        )
        return mixed, encoder(last)


def _mixed(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """The mixtures, whose partners have no gradient."""
    shares = share.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return lerp_rows(x.detach(), partner, share) + shares * (x - x.detach())
