"""One bit: the sign, with a gradient where the value is small.

BNN (Courbariaux et al. 2016, arXiv 1602.02830) with the scale of XNOR-Net (Rastegari et al. 2016, arXiv 1603.05279).
SSQL's source clips the latent weights in place; here the gradient's mask alone keeps them from running away, since a
parameter that changes in a forward pass cannot be shared with other widths.
"""

from typing import ClassVar

import torch
from torch import Tensor

from mezzotint.quant.fake import Layout, Rangeless
from mezzotint.quant.grid import SMALLEST, Grid
from mezzotint.quant.ste import sign_ste


class Binary(Rangeless):
    """−s or s, where s is the mean magnitude of each output channel. It runs at 1 bit alone.

    Values beyond ±1 get no gradient through the sign, and all get their part through s. A layer that is to keep more
    bits must have another quantizer: name it in the policy's `skip`.

    Args:
        layout: which values share a scale.
        scaled: whether s is the mean magnitude (weights) or 1 (activations, whose scale must not depend on the batch).
        fixed_bits: 1, or `None` to follow `quant.bits`.
    """

    widths: ClassVar[range] = range(1, 2)

    def __init__(self, layout: Layout | None = None, *, scaled: bool = True, fixed_bits: int | None = None) -> None:
        super().__init__(layout or Layout("channel" if scaled else "tensor"), "symmetric", fixed_bits=fixed_bits)
        self.scaled = scaled

    def grid_of(self, weight: Tensor) -> Grid:
        """Codes 0 and 1 for −s and s."""
        rows = self.layout.rows(weight)
        scale = rows.abs().mean(1, keepdim=True).clamp_min(SMALLEST) if self.scaled else torch.ones_like(rows[:, :1])
        return Grid(2.0 * scale, torch.full_like(scale, 0.5), torch.zeros_like(self.bits), torch.ones_like(self.bits))

    def codes(self, weight: Tensor) -> Tensor:
        """1 where the value is 0 or above: int16 `[R, N]`."""
        return (self.layout.rows(weight) >= 0.0).to(torch.int16)

    def quantize(self, x: Tensor) -> Tensor:
        """Signs times scales."""
        if not self.scaled:
            return sign_ste(x)
        rows = self.layout.rows(x)
        return self.layout.unrows(sign_ste(rows) * rows.abs().mean(1, keepdim=True), x.shape)
