"""Text and other token sequences: int64 ids `[L]`."""

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn.functional import one_hot

from mezzotint.modality.modality import PICTURE_SIZE, Example, Modality
from mezzotint.modality.patches import Patches, PatchSize, grid_positions

if TYPE_CHECKING:
    from mezzotint.types import Input

PADDING, MASK = 0, 1
"""Ids of padding and of masked tokens, whatever the tokenizer."""

FIRST_TOKEN = 2
"""Id of a tokenizer's token 0, after `PADDING` and `MASK`."""

BYTES = 256 + FIRST_TOKEN
"""Vocabulary of texts whose tokens are bytes."""

_BUCKETS = 1024  # columns of n-grams of one length
_MULTIPLIER = 2_654_435_761  # Knuth's, 2 ** 32 over the golden ratio

_LINE, _LETTERS = 12, 31  # height of a line in pixels, and letters that fit into it


class TokensModality(Modality):
    """Sequences of token ids; encoders ignore padding."""

    plural = "token sequences"
    axes = ("length",)
    has_tokens = True
    values = "token ids, as they are"
    handmade = "frequencies of tokens, pairs and triples"
    recipe = "tokens/folder_simclr"
    large_recipe = "tokens/folder_simclr_large"
    sizes = (
        (),
        ("encoder.width=768",),
        ("encoder.width=192",),
    )
    example = Example(
        data={"kind": "emails"},
        encoder={"kind": "vit", "width": 8, "depth": 1, "heads": 2},
        transforms=[{"kind": "token_mask"}],
    )

    def channels(self, input: "Input") -> int:
        """Return 0: ids are not normalized."""
        return 0

    def required_channels(self, input: "Input") -> int | None:
        """Return `None`: texts may have any length."""
        return None

    def blank(self, input: "Input", count: int) -> Tensor:
        """Make ids of the last word, so that nothing is padding."""
        return torch.full((count, *input.shape), input.vocabulary - 1, dtype=torch.int64)

    def as_float(self, x: Tensor) -> Tensor:
        """Return the ids as they are."""
        return x

    def normalize(self, x: Tensor, input: "Input") -> Tensor:
        """Return the ids as they are."""
        return x

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return TokenPatches(input.shape, input.vocabulary, dim)

    def raw_features(self, x: Tensor, input: "Input") -> Tensor:
        return token_fractions(x, input.vocabulary)

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        return ngram_fractions(x, input.vocabulary)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Print bytes as text; draw other tokens as squares, one color for each token."""
        draw = printed_text if input.vocabulary == BYTES else _squares
        return torch.from_numpy(np.ascontiguousarray(draw(x.tolist()).transpose(2, 0, 1)))


def token_fractions(x: Tensor, vocabulary: int) -> Tensor:
    """Return the fraction of each token in a text: `[B, L]` → float32 `[B, vocabulary]`.

    Padding does not count.
    """
    valid = (x != PADDING).float()
    counts = valid.new_zeros(x.shape[0], vocabulary).scatter_add_(1, x, valid)
    # An empty text has no tokens to divide by; its fractions are all 0.
    return counts / valid.sum(dim=1, keepdim=True).clamp(min=1.0)


def ngram_columns(vocabulary: int, longest: int = 3, buckets: int = _BUCKETS) -> list[int]:
    """Return the number of columns of each length of `ngram_fractions`, from single tokens on."""
    return [min(vocabulary, buckets), *[buckets] * (longest - 1)]


def ngram_fractions(
    x: Tensor, vocabulary: int, longest: int = 3, buckets: int = _BUCKETS
) -> Tensor:
    """Return square roots of the fractions of tokens, pairs and longer n-grams.

    Square roots weigh rare ones more (the distance of two texts is Hellinger's).

    Args:
        x: ids `[B, L]`; padding does not count.
        vocabulary: number of different ids.
        longest: tokens of the longest n-grams.
        buckets: columns of each length that n-grams are hashed to. Single tokens have a column each
            where the vocabulary is not larger.

    Returns:
        float32 `[B, F]`; F is the sum of `ngram_columns`.
    """
    x = x.long()
    key, valid, blocks = x, x != PADDING, []
    for size, columns in enumerate(ngram_columns(vocabulary, longest, buckets), 1):
        if size > 1:
            # `key` of the n-gram that ends at each token, from that of the one before it.
            key = (key[:, :-1] * _MULTIPLIER + x[:, size - 1 :]) % 2**32
            valid = valid[:, :-1] & (x[:, size - 1 :] != PADDING)
        is_id = size == 1 and columns == vocabulary
        index = key if is_id else key * _MULTIPLIER % 2**32 // 2**16 % columns
        counts = torch.zeros(x.shape[0], columns, device=x.device)
        counts.scatter_add_(1, index, valid.float())
        blocks.append((counts / valid.sum(dim=1, keepdim=True).clamp(min=1)).sqrt())
    return torch.cat(blocks, dim=1)


def printed_text(tokens: list[int]) -> npt.NDArray[np.uint8]:
    """Print bytes as lines of text, masked ones as underscores: `[96, 192, 3]`."""
    kept = [token for token in tokens if token != PADDING]
    codes = bytes(ord("_") if token == MASK else token - FIRST_TOKEN for token in kept)
    text = "".join(c if " " <= c <= "~" else " " for c in codes.decode("latin-1"))
    image = Image.new("RGB", (2 * PICTURE_SIZE, PICTURE_SIZE), "white")
    pen = ImageDraw.Draw(image)
    for number in range(PICTURE_SIZE // _LINE):
        line = text[number * _LETTERS : (number + 1) * _LETTERS]
        pen.text((3, 2 + number * _LINE), line, fill=(31, 41, 55))
    return np.asarray(image)


def _squares(tokens: list[int]) -> npt.NDArray[np.uint8]:
    """Draw tokens row by row as squares; padding is white, masked ones black."""
    across = math.ceil(math.sqrt(len(tokens)))
    colors = np.full((across * across, 3), 255, np.uint8)
    for position, token in enumerate(tokens):
        if token == MASK:
            colors[position] = 0
        elif token != PADDING:
            # Near ids get different colors, and an id the same color in every picture.
            colors[position] = [64 + (token * factor) % 160 for factor in (37, 91, 151)]
    side = max(1, PICTURE_SIZE // across)
    return colors.reshape(across, across, 3).repeat(side, axis=0).repeat(side, axis=1)


class TokenPatches(Patches):
    """Each token is a patch.

    The embedding starts standard normal, as in DABS (Tamkin et al. 2021, arXiv 2111.12062), on the
    scale of the positions that are added to it. With a standard deviation of 0.02, sines and
    cosines drown the tokens (`docs/tokens.md`).

    Args:
        shape: `(L,)`.
        vocabulary: number of different ids.
        dim: D.
    """

    def __init__(self, shape: tuple[int, ...], vocabulary: int, dim: int) -> None:
        super().__init__()
        if vocabulary < 2:
            raise ValueError(
                f"The vocabulary must have at least 2 ids, got {vocabulary}. Let the source set "
                "`Input.vocabulary`."
            )
        self.grid, self.num_values = shape, vocabulary
        self.table = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.table.weight)

    def grid_of(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1:])

    def valid_mask(self, x: Tensor) -> Tensor:
        return x != PADDING

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """int64 `[B, L]` as it is, and `[1, L, 1]`."""
        return x, grid_positions(x.shape[1:], x.device)

    def embed(self, values: Tensor) -> Tensor:
        """int64 `[B, L']` → `[B, L', D]`."""
        return self.table(values)  # type: ignore[no-any-return]

    def vectors(self, values: Tensor) -> Tensor:
        """One-hot vectors, `[B, L', vocabulary]`."""
        return one_hot(values, self.num_values).float()
