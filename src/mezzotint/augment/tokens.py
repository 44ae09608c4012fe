"""Views of tokens `[B, L]`: masking, dropping, swapping of neighbors, crops.

The deletions and swaps of EDA (Wei and Zou 2019, arXiv 1901.11196) and the masks of BERT (Devlin et
al. 2019, arXiv 1810.04805), batched, with parameters for each sample. All of them handle padding
(`PADDING`, at the end of a sample): it is never masked, moved into the text or swapped with it, and
a crop is a crop of the text.

Token ids have no order, so they cannot be quantized; randomized quantization works on token
embeddings (`methods/masked.py`).
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from mezzotint.augment.transform import BatchLayout, Params, Transform, most, with_low
from mezzotint.modality.tokens import MASK, PADDING
from mezzotint.seeding import Draws

TOKENS = BatchLayout("tokens", ("B", "L"))


class TokenMask(Transform):
    """Replace some tokens by `MASK`.

    Args:
        p: probability that a token is masked.
    """

    layouts = (TOKENS,)
    scaled = {"p": most}

    def __init__(self, *, p: float = 0.15) -> None:
        self.p = _fraction(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `hidden`, the masked tokens, bool `[B, L]`."""
        return {"hidden": draws.uniform("hidden", shape[1]) < self.p}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_tokens(x)
        return x.masked_fill(params["hidden"] & (x != PADDING), MASK)


class TokenDrop(Transform):
    """Remove some tokens, move the others up and pad the end. At least one token of a text stays.

    Args:
        p: probability that a token is removed.
    """

    layouts = (TOKENS,)
    scaled = {"p": most}

    def __init__(self, *, p: float = 0.1) -> None:
        self.p = _fraction(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `chance` `[B, L]`, uniform; a token is removed if its chance is below `p`."""
        return {"chance": draws.uniform("chance", shape[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_tokens(x)
        padded = x == PADDING
        chance = params["chance"].masked_fill(padded, -1.0)
        # The token with the largest chance stays, so a text never becomes empty.
        removed = (chance < self.p).scatter(1, chance.argmax(dim=1, keepdim=True), False) | padded
        order = removed.to(torch.uint8).argsort(dim=1, stable=True)
        return x.masked_fill(removed, PADDING).gather(1, order)


class TokenSwap(Transform):
    """Swap some neighboring tokens.

    Args:
        p: probability that a pair is swapped; a token belongs to one pair only.
    """

    layouts = (TOKENS,)
    scaled = {"p": most}

    def __init__(self, *, p: float = 0.1) -> None:
        self.p = _fraction(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `swapped`, bool `[B, L]`: the token is swapped with the next; never two in a row."""
        length = shape[1]
        odd = draws.integers("odd", 1, high=2)
        first = (torch.arange(length, device=odd.device) + odd) % 2 == 0
        return {"swapped": (draws.uniform("swapped", length) < self.p) & first}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_tokens(x)
        swapped = params["swapped"][:, :-1] & (x[:, 1:] != PADDING)
        right, left = x[:, 1:], x[:, :-1]
        y = x.clone()
        y[:, :-1] = torch.where(swapped, right, y[:, :-1])
        y[:, 1:] = torch.where(swapped, left, y[:, 1:])
        return y


class TokenCrop(Transform):
    """Keep a contiguous part of the text and pad the rest.

    Args:
        low: smallest fraction of the text that is kept.
        high: largest fraction of the text that is kept.
        length: number of tokens of the view, by default as many as the sample has; a longer part
            is cut to it.
    """

    layouts = (TOKENS,)

    def __init__(self, *, low: float = 0.5, high: float = 1.0, length: int | None = None) -> None:
        if not 0.0 < low <= high <= 1.0 or (length is not None and length < 1):
            raise ValueError(
                "`low` and `high` must be fractions with 0 < low <= high <= 1, and `length` 1 or "
                f"more, got {low}, {high} and {length}. Try 0.5 and 1, to keep at least half."
            )
        self.low, self.high, self.length = low, high, length

    def at_strength(self, strength: float) -> Self:
        return with_low(self, strength)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw `part` `[B]`, the fraction to keep, and `start` `[B]`, a fraction of the rest."""
        return {
            "part": draws.uniform("part", low=self.low, high=self.high),
            "start": draws.uniform("start"),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        _check_tokens(x)
        target = self.length or x.shape[1]
        count = (x != PADDING).sum(dim=1)
        number = (count * params["part"]).ceil().long().clamp(max=target)
        # `start` is below 1, so the largest start is count − number.
        start = ((count - number + 1) * params["start"]).long()
        steps = torch.arange(target, device=x.device)
        index = (start.unsqueeze(1) + steps).clamp(max=x.shape[1] - 1)
        return x.gather(1, index).masked_fill(steps >= number.unsqueeze(1), PADDING)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], self.length or shape[1])


def _check_tokens(x: Tensor) -> None:
    if x.is_floating_point():
        raise ValueError(
            f"Transforms of tokens take integers [B, L], got {x.dtype} {list(x.shape)}. "
            "Choose transforms of the data's modality."
        )


def _fraction(p: float) -> float:
    if not 0.0 <= p < 1.0:
        raise ValueError(f"`p` must be 0 or more and below 1, got {p}. Try 0.1.")
    return p
