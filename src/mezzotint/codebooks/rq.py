"""Residual quantization: each level encodes what the levels before have left.

With `residual="plain"` (Lee et al. 2022, arXiv 2203.01941) a level takes the nearest code by
Euclidean distance, so that with k-means books the energy that is left falls with every level, and
the codes go from coarse to fine.

`residual="bridle"` is what BRIDLE (Nguyen et al. 2025, arXiv 2502.02118) does: a level scales what
is left to length 1, takes the nearest of K directions, and subtracts that direction, of length 1,
from what was left as it was. For vectors much longer than 1 the levels are then S clusterings of
nearly the same vector, and for vectors shorter than 1 the energy rises. Its books are not kept at
length 1 by its source: `EMA(rule="norm", renormalize=False)` is that.

Where this differs from that source: starts and revived codes are the same on all ranks, frozen
books are never written, the loss is the commitment term alone (the other has no gradient), and
several codes a level are the nearest ones.
"""

from typing import Literal

from mezzotint.codebooks.books import EMA, Init
from mezzotint.codebooks.gradient import Gradient
from mezzotint.codebooks.learned import LearnedCodebook, one_of

_EMA = EMA()


class RQ(LearnedCodebook):
    """S levels of K codes.

    Args:
        dim: width of the vectors.
        num_codes: codes of each level, 2 or more.
        num_levels: codes that stand for one vector.
        residual: `plain`, nearest by Euclidean distance, or `bridle`, nearest by angle at each
            level.
        shared: one book for all levels, or one each.
        init: `kmeans` or `data` (vectors drawn at random) of the first batch, which must have a
            vector for each code; or `uniform_sphere`, random directions.
        ema: how codes follow their vectors, and when those that nothing uses are moved.
        commitment: weight of the loss that draws vectors to the codes of every level.
        gradient: `straight_through`, or the `rotation` trick.
        seed: of all draws.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 256,
        num_levels: int = 4,
        residual: Literal["plain", "bridle"] = "plain",
        shared: bool = False,
        init: Init = "kmeans",
        ema: EMA = _EMA,
        commitment: float = 0.25,
        gradient: Gradient = "straight_through",
        seed: int = 0,
    ) -> None:
        one_of("residual", residual, "plain", "bridle")
        super().__init__(
            dim=dim,
            num_codes=num_codes,
            num_levels=num_levels,
            shared=shared,
            compared="vectors" if residual == "plain" else "directions_left",
            init=init,
            ema=ema,
            commitment=commitment,
            gradient=gradient,
            seed=seed,
        )
