"""Images with text: float32 `[4, H, W]`, three color channels and one channel of token ids.

Colors are in [0, 1]. The fourth channel holds the text's tokens row by row from its first value on,
then 0 (padding). `pack` and `unpack` are inverses; `Input.text` is the number of tokens. For a
transformer a sample is one sequence: the patches of the image, then the tokens of its text, as DABS
does with several inputs (Tamkin et al. 2021, arXiv 2111.12062).

Shapes: B samples, L patches and tokens, P values of a patch, D width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.modality.image import image_statistics, pooled_pixels
from mezzotint.modality.modality import PICTURE_SIZE, Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize, grid_positions
from mezzotint.modality.tokens import (
    BYTES,
    PADDING,
    TokenPatches,
    ngram_fractions,
    printed_text,
    token_fractions,
)

if TYPE_CHECKING:
    from mezzotint.types import Input

_NO_TOKEN = -1.0


def pack(images: Tensor, tokens: Tensor) -> Tensor:
    """Combine images uint8 `[B, 3, H, W]` and tokens `[B, L]` to samples float32 `[B, 4, H, W]`."""
    # Float tokens are exact up to 2 ** 24, more than any vocabulary has.
    plane = torch.zeros(len(images), images.shape[-2] * images.shape[-1])
    plane[:, : tokens.shape[1]] = tokens.float()
    return torch.cat([images.float() / 255.0, plane.view(-1, 1, *images.shape[-2:])], dim=1)


def unpack(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Split samples `[B, 4, H, W]` into colors `[B, 3, H, W]` and tokens, int64 `[B, length]`."""
    return x[:, :3], x[:, 3].flatten(1)[:, :length].long()


class ImageTextModality(Modality):
    """Pictures, each with a text that belongs to it."""

    plural = "images with text"
    axes = ("4", "height", "width")
    has_tokens = True
    thumbnails = True
    handmade = "color statistics, gradient orientations and frequencies of tokens"
    recipe = "dabs/image_text"
    sizes = (
        ("data.tokenizer=bytes",),
        (
            "data.tokenizer=bytes",
            "data.size=64",
            "encoder={kind: domain_agnostic, width: 64, depth: 3, heads: 4, patch: 16}",
        ),
    )
    example = Example(
        data={"kind": "emoji_names"},
        encoder={"kind": "vit", "width": 8, "depth": 1, "heads": 2, "patch": 16},
        patches={"patch": 16},
        transforms=[
            {
                "kind": "image_and_text",
                "image": [{"kind": "randomized_quantization", "bins": 4, "p": 0.5}],
                "text": [{"kind": "token_mask"}],
            }
        ],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return ImageTextPatches(input, size.sides((16, 16)), dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        """Concatenate the features of the image and of the text."""
        image, tokens = unpack(x, input.text)
        return torch.cat([pooled_pixels(image), token_fractions(tokens, input.vocabulary)], dim=1)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        """Concatenate the statistics of the image and of the text."""
        image, tokens = unpack(x, input.text)
        text = ngram_fractions(tokens, input.vocabulary)
        return torch.cat([image_statistics(image), text], dim=1)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Show the image, and to its right its text if the tokens are bytes."""
        image, tokens = unpack(x.detach().float().cpu().unsqueeze(0), input.text)
        colors = image.mul(255.0).round().clamp(0, 255).to(torch.uint8)
        if input.vocabulary != BYTES:
            return colors[0]
        text = torch.from_numpy(printed_text(tokens[0].tolist()).copy()).permute(2, 0, 1)
        return torch.cat([interpolate(colors, size=(PICTURE_SIZE, PICTURE_SIZE))[0], text], dim=2)


class ImageTextPatches(Patches):
    """A linear layer for the patches of the image, an embedding for the tokens after them.

    Args:
        input: of images with text.
        side: side of a patch along height and width.
        dim: D.
    """

    def __init__(self, input: "Input", side: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.image = GridPatches((3, *input.shape[1:]), side, dim)
        self.text = TokenPatches((input.text,), input.vocabulary, dim)
        self.grid = (self.image.count + input.text,)
        self.num_values = self.image.num_values + self.text.num_values

    def valid_mask(self, x: Tensor) -> Tensor:
        """True for all patches of the image and for every token but `PADDING`."""
        _, tokens = unpack(x, self.text.count)
        image = torch.ones(x.shape[0], self.image.count, dtype=torch.bool, device=x.device)
        return torch.cat([image, tokens != PADDING], dim=1)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 4, H, W]` → `[B, L, P + 1]` and positions `[1, L, 1]`.

        The last value is the id of a token, whose other values are 0, or −1 for a patch.
        """
        colors, tokens = unpack(x, self.text.count)
        values, _ = self.image.split(colors)
        patches = torch.cat([values, values.new_full((*values.shape[:2], 1), _NO_TOKEN)], dim=2)
        words = values.new_zeros(x.shape[0], self.text.count, self.image.num_values + 1)
        words[..., -1] = tokens.to(values.dtype)
        return torch.cat([patches, words], dim=1), grid_positions(self.grid, x.device)

    def embed(self, values: Tensor) -> Tensor:
        """`[B, L', P + 1]` → `[B, L', D]`."""
        token = values[..., -1].long()
        # Both embeddings at all positions: a selection by mask would make shapes depend on data.
        patches, words = self.image.embed(values[..., :-1]), self.text.embed(token.clamp(min=0))
        return torch.where((token < 0).unsqueeze(-1), patches, words.to(patches.dtype))

    def vectors(self, values: Tensor) -> Tensor:
        """The values of a patch, then a one-hot vector of the token; each is 0 for the other."""
        token = values[..., -1].long()
        words = self.text.vectors(token.clamp(min=0)) * (token >= 0).unsqueeze(-1)
        return torch.cat([values[..., :-1], words.to(values.dtype)], dim=-1)
