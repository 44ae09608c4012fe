"""What masked prediction shares: hide patches, encode the others, say something of the hidden ones.

What the methods of DABS share (Tamkin et al. 2021, arXiv 2111.12062): their head, and what they
know of padding.
"""

from abc import ABC
from typing import ClassVar

import torch
from torch import Tensor, nn

from mezzotint.augment.masking import Mask
from mezzotint.encoders.decoder import Decoder
from mezzotint.encoders.encoder import Encoder
from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import Method
from mezzotint.seeding import Draws
from mezzotint.types import Views


class Masked(Method, ABC, abstract=True):
    """A method that predicts hidden patches from the others.

    Args:
        encoder: a ViT.
        mask: which patches are hidden.
        decoder: size of the network that predicts.
        outputs: numbers that it says of a patch.
    """

    encoder: ViT
    min_views: ClassVar[int] = 1
    max_views: ClassVar[int | None] = 1
    needs_patches: ClassVar[bool] = True
    reports_collapse: ClassVar[bool] = False

    def __init__(self, encoder: Encoder, mask: Mask, decoder: Decoder, outputs: int) -> None:
        super().__init__(need_patches(encoder))
        self.mask = mask
        self.mask.draw(
            self.encoder.patches.grid, Draws(torch.zeros(1, dtype=torch.int64), 0)
        )  # refused here rather than in the first step
        self.decoder = decoder.build(self.encoder, outputs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def draw(self, views: Views) -> tuple[Tensor, Tensor]:
        """The patches of the view that are seen and those that are hidden, int64 `[B, V]` and `[B, M]`.

        Outside the compiled graph, since the key changes with every step; so it comes before all
        that has a gradient.
        """
        self.require_views(views)
        return self.mask.draw(self.encoder.patches.grid_of(views.x[0]), views.draws)

    def guess(self, x: Tensor, keep: Tensor, hidden: Tensor, where: Tensor) -> Tensor:
        """What the decoder says of hidden patches, `[B, M, outputs]`.

        Args:
            x: the view.
            keep: int64 `[B, V]`, the patches that are seen.
            hidden: int64 `[B, M]`, the others.
            where: all patches stand.
        """
        seen = self.encoder.tokens(x, keep)
        outputs: Tensor = self.decoder(seen, keep, hidden, where, self.encoder.patches.grid_of(x))
        return outputs


def need_patches(encoder: Encoder) -> ViT:
    """The encoder, if it has patches.

    Raises:
        ValueError: when it has none.
    """
    if not isinstance(encoder, ViT):
        kind = encoder.config["kind"] if hasattr(encoder, "config") else type(encoder).__name__
        raise ValueError(
            f"got the encoder {kind}, which has no patches to hide; allowed is vit: choose encoder.kind=vit"
        )
    return encoder


def dabs_head(width: int, dim: int) -> nn.Module:
    """The projector: a LayerNorm and a linear."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))


def real_tokens(encoder: ViT, x: Tensor, embedded: Tensor) -> Tensor:
    """Which patches are no padding: bool `[B, L]`."""
    there = encoder.patches.valid_mask(x)
    if there is None:
        return torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    return there
