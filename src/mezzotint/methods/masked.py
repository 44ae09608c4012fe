"""What masked prediction shares: mask patches, encode the visible ones, predict the masked ones.

Also what the methods of DABS share (Tamkin et al. 2021, arXiv 2111.12062): their head, and the
padding mask.
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
    """A method that predicts masked patches from visible ones.

    Args:
        encoder: ViT, to be trained.
        mask: rule by which patches are masked.
        decoder: size of the network that predicts.
        outputs: number of values predicted per patch.
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
        """Draw the visible and the masked patches of the view, int64 `[B, V]` and `[B, M]`.

        Outside the compiled graph, since the key changes with every step; so it comes before
        everything that has a gradient.
        """
        self.require_views(views)
        return self.mask.draw(self.encoder.patches.grid_of(views.x[0]), views.draws)

    def predict(self, x: Tensor, keep: Tensor, hidden: Tensor, where: Tensor) -> Tensor:
        """Predict values of masked patches, `[B, M, outputs]`.

        Args:
            x: view, `[B, …]`.
            keep: int64 `[B, V]`, the visible patches.
            hidden: int64 `[B, M]`, the masked patches.
            where: positions of all patches.
        """
        visible = self.encoder.tokens(x, keep)
        outputs: Tensor = self.decoder(
            visible, keep, hidden, where, self.encoder.patches.grid_of(x)
        )
        return outputs


def need_patches(encoder: Encoder) -> ViT:
    """Return the encoder if it is a transformer over patches.

    Raises:
        ValueError: for another encoder.
    """
    if not isinstance(encoder, ViT):
        kind = encoder.config["kind"] if hasattr(encoder, "config") else type(encoder).__name__
        raise ValueError(
            f"The encoder {kind} has no patches, which the method needs. Choose encoder.kind=vit."
        )
    return encoder


def dabs_head(width: int, dim: int) -> nn.Module:
    """Build the projector: a LayerNorm and a linear layer."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))


def real_tokens(encoder: ViT, x: Tensor, embedded: Tensor) -> Tensor:
    """Return the valid mask, bool `[B, L]`: false for padding."""
    valid = encoder.patches.valid_mask(x)
    if valid is None:
        return torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    return valid
