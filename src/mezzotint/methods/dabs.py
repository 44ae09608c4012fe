"""What the methods of DABS share (Tamkin et al. 2021, arXiv 2111.12062): their head, and what they know of padding."""

import torch
from torch import Tensor, nn

from mezzotint.encoders.vit import ViT


def dabs_head(width: int, dim: int) -> nn.Module:
    """The projector: a LayerNorm and a linear."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))


def real_tokens(encoder: ViT, x: Tensor, embedded: Tensor) -> Tensor:
    """Which patches are no padding: bool `[B, L]`."""
    there = encoder.patches.there(x)
    if there is None:
        return torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
    return there
