"""Views of tokens `[B, L]`: masking, dropping, swapping of neighbors, crops.

The deletions and swaps of Wei and Zou 2019 (EDA, arXiv 1901.11196), the masks of BERT (Devlin et
al. 2019, arXiv 1810.04805), for a whole batch with parameters of its own for each sample. All of
them know padding (`PADDING`, at the end of a sample): it is never masked, dropped into the text or
swapped with it, and a crop is one of the text.

Tokens have no order of size, so there is nothing to quantize in them; randomized quantization is
for what they are embedded as (`methods/masked.py`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.modality.tokens import MASK, PADDING
from mezzotint.seeding import Draws


class TokenMask(Transform):
    """Hide some tokens: `MASK` stands in their place.

    Args:
        p: probability of each token.
    """

    modalities = frozenset({"tokens"})

    def __init__(self, *, p: float = 0.15) -> None:
        self.p = _share(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`hidden`, bool `[B, L]`."""
        return {"hidden": draws.uniform("hidden", shape[1]) < self.p}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Hide the tokens that are there."""
        return x.masked_fill(params["hidden"] & (x != PADDING), MASK)


class TokenDrop(Transform):
    """Take some tokens out; the others move up, and padding fills the end. Of a text one token stays at least.

    Args:
        p: probability of each token.
    """

    modalities = frozenset({"tokens"})

    def __init__(self, *, p: float = 0.1) -> None:
        self.p = _share(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`chance` `[B, L]`, uniform; a token goes when its own is below `p`."""
        return {"chance": draws.uniform("chance", shape[1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Close the gaps."""
        there = x != PADDING
        chance = params["chance"].masked_fill(~there, -1.0)
        gone = (chance < self.p).scatter(1, chance.argmax(dim=1, keepdim=True), False) | ~there
        order = gone.to(torch.uint8).argsort(dim=1, stable=True)
        return x.masked_fill(gone, PADDING).gather(1, order)


class TokenSwap(Transform):
    """Exchange some neighbors.

    Args:
        p: probability of each pair of neighbors, of which every second is looked at.
    """

    modalities = frozenset({"tokens"})

    def __init__(self, *, p: float = 0.1) -> None:
        self.p = _share(p)

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`swapped`, bool `[B, L]`: a token changes places with the next; never two in a row."""
        length = shape[1]
        odd = draws.integers("odd", 1, high=2)
        first = (torch.arange(length, device=odd.device) + odd) % 2 == 0
        return {"swapped": (draws.uniform("swapped", length) < self.p) & first}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Exchange the tokens that both are there."""
        swapped = params["swapped"][:, :-1] & (x[:, 1:] != PADDING)
        right, left = x[:, 1:], x[:, :-1]
        y = x.clone()
        y[:, :-1] = torch.where(swapped, right, y[:, :-1])
        y[:, 1:] = torch.where(swapped, left, y[:, 1:])
        return y


class TokenCrop(Transform):
    """Keep a stretch of the text; padding fills the rest.

    Args:
        low: smallest part of the text that is kept.
        high: largest.
        length: tokens of the view, which are also the most that are kept; by default those of the
            sample.
    """

    modalities = frozenset({"tokens"})

    def __init__(self, *, low: float = 0.5, high: float = 1.0, length: int | None = None) -> None:
        if not 0.0 < low <= high <= 1.0 or (length is not None and length < 1):
            raise ValueError(
                f"got low={low}, high={high}, length={length}; allowed is 0 < low <= high <= 1, and 1 token or more: "
                "0.5 and 1 keep half at least"
            )
        self.low, self.high, self.length = low, high, length

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`part` `[B]`, and `start` `[B]`, of what is left over."""
        return {
            "part": draws.uniform("part", low=self.low, high=self.high),
            "start": draws.uniform("start"),
        }

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Cut, and move to the beginning."""
        wanted = self.length or x.shape[1]
        there = (x != PADDING).sum(dim=1)
        kept = (there * params["part"]).ceil().long().clamp(max=wanted)
        # `start` is below 1, so the last start is there − kept itself.
        start = ((there - kept + 1) * params["start"]).long()
        steps = torch.arange(wanted, device=x.device)
        places = (start.unsqueeze(1) + steps).clamp(max=x.shape[1] - 1)
        return x.gather(1, places).masked_fill(steps >= kept.unsqueeze(1), PADDING)

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """With the length asked for."""
        return (shape[0], self.length or shape[1])


def _share(p: float) -> float:
    if not 0.0 <= p < 1.0:
        raise ValueError(f"got p={p}; allowed is 0 to less than 1: 0.1 changes a tenth")
    return p
