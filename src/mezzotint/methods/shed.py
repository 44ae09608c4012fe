"""ShED, shuffled embedding detection (Tamkin et al. 2021, DABS, arXiv 2111.12062).

Like ELECTRA (Clark et al. 2020), which detects replaced words, but without a generator: 15 % of a
sample's embeddings, at least two, are drawn for each sample and step and rotated among their
positions, and a linear layer predicts for each token whether it moved. There is no prediction for
the class token. Differs from the paper: padding neither moves nor counts.

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
    """Detect which embeddings were shuffled.

    Args:
        encoder: transformer over patches, to be trained.
        ratio: fraction of the embeddings that are shuffled.
    """

    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 1
    needs_patches: ClassVar[bool] = True
    reports_collapse: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, *, ratio: float = 0.15) -> None:
        super().__init__(need_patches(encoder))
        if not 0.0 < ratio < 1.0:
            raise ValueError(f"`method.ratio` must be in (0, 1), got {ratio}. DABS uses 0.15.")
        self.ratio = ratio
        self.head = nn.Linear(encoder.dim, 2)

    def forward(self, views: Views) -> Step:
        self.require_views(views)
        encoder = need_patches(self.encoder)
        x = views.x[0]
        uniform = self._draw(views, math.prod(encoder.patches.grid_of(x)))
        embedded, where = encoder.embed(x)
        valid = real_tokens(encoder, x, embedded)
        order = uniform.masked_fill(~valid, 2.0).argsort(dim=1)  # padding comes last
        count = valid.sum(dim=1, keepdim=True)
        index, moved = shuffled(
            order, (count * self.ratio).round().long().clamp(min=2).minimum(count)
        )
        out = encoder.encode(
            embedded.gather(1, index.unsqueeze(2).expand_as(embedded)), where, encoder.valid_mask(x)
        )
        tokens = out if encoder.cls is None else out[:, 1:]
        logits = self.head(tokens).float()
        target = moved.long().masked_fill(~valid, -100)  # which cross_entropy leaves out
        loss = cross_entropy(logits.flatten(0, 1), target.flatten())
        with torch.no_grad():
            predicted = logits[..., 1] > logits[..., 0]
            logs = {
                "found": (predicted & moved).sum() / moved.sum().clamp(min=1),
                "false_alarms": (predicted & ~moved & valid).sum()
                / (~moved & valid).sum().clamp(min=1),
            }
        return Step(loss, logs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, views: Views, length: int) -> Tensor:
        """Draw uniform `[B, length]`, outside the compiled graph, as the key changes each step."""
        return views.draws.fold("shed").uniform("order", length)


def shuffled(order: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate some tokens: each moves to the position of the next.

    Args:
        order: int64 `[B, L]`, all tokens of each sample, those that move first.
        count: int64 `[B, 1]`, number of tokens that move; a single token does not.

    Returns:
        int64 `[B, L]`, the token at each position; and bool `[B, L]`, the positions whose token
        changed.
    """
    steps = torch.arange(order.shape[1], device=order.device).expand_as(order)
    count = count.where(count > 1, 0)
    chosen = steps < count
    source = order.gather(1, torch.where(chosen, (steps + 1) % count.clamp(min=1), steps))
    index = torch.empty_like(order).scatter_(1, order, source)
    moved = torch.zeros_like(chosen).scatter_(1, order, chosen)
    return index, moved
