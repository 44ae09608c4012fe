"""ShED, shuffled embedding detection (Tamkin et al. 2021, DABS, arXiv 2111.12062): which embeddings are out of place?

As ELECTRA (Clark et al. 2020) tells replaced words from others, without a generator: 15 % of a
sample's embeddings, and two at least, chosen anew for each sample and step, move round among their
places, and a linear says of each token whether it moved. The class token is not asked. Differs in
that padding neither moves nor counts.

Shapes: B samples, L patches, D width.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mezzotint.encoders.encoder import Encoder
from mezzotint.methods.masked import need_patches, real_tokens
from mezzotint.methods.method import Method
from mezzotint.types import Step, Views


class ShED(Method):
    """Tell which embeddings have changed places.

    Args:
        encoder: a transformer over patches.
        share: of the embeddings that move.
    """

    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 1
    needs_patches: ClassVar[bool] = True
    reports_collapse: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, *, share: float = 0.15) -> None:
        super().__init__(need_patches(encoder))
        if not 0.0 < share < 1.0:
            raise ValueError(
                f"got share={share}; allowed is more than 0 and less than 1: DABS has 0.15"
            )
        self.share = share
        self.head = nn.Linear(encoder.dim, 2)

    def forward(self, views: Views) -> Step:
        """Cross-entropy of moved or not, over all tokens."""
        self.require_views(views)
        encoder = need_patches(self.encoder)
        x = views.x[0]
        drawn = self._draw(views, math.prod(encoder.patches.grid_of(x)))
        embedded, where = encoder.embed(x)
        there = real_tokens(encoder, x, embedded)
        order = drawn.masked_fill(~there, 2.0).argsort(dim=1)  # padding comes last
        count = there.sum(dim=1, keepdim=True)
        index, moved = shuffled(
            order, (count * self.share).round().long().clamp(min=2).minimum(count)
        )
        out = encoder.encode(
            embedded.gather(1, index.unsqueeze(2).expand_as(embedded)), where, encoder.valid_mask(x)
        )
        tokens = out if encoder.cls is None else out[:, 1:]
        logits = self.head(tokens).float()
        wanted = moved.long().masked_fill(~there, -100)  # which cross_entropy leaves out
        loss = cross_entropy(logits.flatten(0, 1), wanted.flatten())
        with torch.no_grad():
            said = logits[..., 1] > logits[..., 0]
            logs = {
                "found": (said & moved).sum() / moved.sum().clamp(min=1),
                "false_alarms": (said & ~moved & there).sum() / (~moved & there).sum().clamp(min=1),
            }
        return Step(loss, logs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views, length: int) -> Tensor:
        """Uniform `[B, length]`; outside the compiled graph, as the key changes with every step."""
        return views.draws.fold("shed").uniform("order", length)


def shuffled(order: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Move some tokens round: each to the place of the next.

    Args:
        order: int64 `[B, L]`, all tokens of each sample, those that move first.
        count: int64 `[B, 1]`, how many move; with one alone none does.

    Returns:
        int64 `[B, L]`, which token stands in each place; and bool `[B, L]`, which places have
        another than their own.
    """
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    count = count.where(count > 1, 0)
    chosen = steps < count
    source = order.gather(1, torch.where(chosen, (steps + 1) % count.clamp(min=1), steps))
    index = torch.empty_like(order).scatter_(1, order, source)
    moved = torch.zeros_like(chosen).scatter_(1, order, chosen)
    return index, moved
