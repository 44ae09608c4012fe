"""Patches of an image followed by the tokens of its text, as one sequence: what DABS does with several inputs.

Shapes: B samples, L patches and tokens, P values of a patch, D width.
"""

import torch
from torch import Tensor

from mezzotint.data.image_text import unpack
from mezzotint.encoders.patches import GridPatches, Patches, TokenPatches, grid_places
from mezzotint.types import PADDING, Input

_NO_TOKEN = -1.0


class ImageTextPatches(Patches):
    """A linear for the patches of the image, and a table for the tokens behind them; places are counted through both.

    Args:
        input: of images with text.
        side: of a patch along height and width.
        dim: D.
    """

    def __init__(self, input: Input, side: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.image = GridPatches((3, *input.shape[1:]), side, dim)
        self.text = TokenPatches((input.text,), input.vocabulary, dim)
        self.grid = (self.image.count + input.text,)
        self.num_values = self.image.num_values + self.text.num_values

    def there(self, x: Tensor) -> Tensor:
        """All patches of the image, and every token but `PADDING`."""
        _, tokens = unpack(x, self.text.count)
        image = torch.ones(len(x), self.image.count, dtype=torch.bool, device=x.device)
        return torch.cat([image, tokens != PADDING], dim=1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 4, H, W]` → the values of a patch, 0 of a token, and last its number or −1: `[B, L, P + 1]`."""
        colours, tokens = unpack(x, self.text.count)
        values, _ = self.image.split(colours)
        patches = torch.cat([values, values.new_full((*values.shape[:2], 1), _NO_TOKEN)], dim=2)
        words = values.new_zeros(len(x), self.text.count, self.image.num_values + 1)
        words[..., -1] = tokens.to(values.dtype)
        return torch.cat([patches, words], dim=1), grid_places(self.grid, x.device)

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', P + 1]` → `[B, L', D]`."""
        number = values[..., -1].long()
        patches, words = self.image.embed(values[..., :-1]), self.text.embed(number.clamp(min=0))
        return torch.where((number < 0).unsqueeze(-1), patches, words.to(patches.dtype))

    def vectors(self, values: Tensor) -> Tensor:
        """The values of a patch, then one 1 in as many places as there are tokens; each is 0 where the other is."""
        number = values[..., -1].long()
        words = self.text.vectors(number.clamp(min=0)) * (number >= 0).unsqueeze(-1)
        return torch.cat([values[..., :-1], words.to(values.dtype)], dim=-1)
