"""Residual quantization: each level encodes the residual of the levels before.

With `residual="plain"` (Lee et al. 2022, arXiv 2203.01941) a level takes the nearest code by
Euclidean distance. With k-means codes the residual energy falls with every level, and codes go from
coarse to fine.

`residual="bridle"` follows BRIDLE (Nguyen et al. 2025, arXiv 2502.02118): a level scales the
residual to length 1, takes the nearest of K directions, and subtracts this direction, of length 1,
from the unscaled residual. For vectors much longer than 1 the levels are S clusterings of nearly
the same vector, and for vectors shorter than 1 the energy rises. BRIDLE's source does not keep its
codes at length 1: use `EMA(rule="norm", renormalize=False)` for this.

Differs from BRIDLE's source: initialized and replaced codes are the same on all ranks, frozen
codebooks never change, the loss is only the commitment term (the other has no gradient), and
`nearest` with several codes per level returns the nearest ones.
"""

from typing import Literal

from mezzotint.codebooks.ema import EMA, Init
from mezzotint.codebooks.gradient import Gradient
from mezzotint.codebooks.learned import LearnedCodebook, one_of

_EMA = EMA()


class RQ(LearnedCodebook):
    """Quantize each vector by S levels of K learned codes.

    Args:
        dim: dimensions of the vectors.
        num_codes: number of codes of each level, 2 or more.
        num_levels: number of codes of one vector.
        residual: `plain`, nearest by Euclidean distance, or `bridle`, nearest by angle at each
            level.
        shared: one codebook for all levels, instead of one per level.
        init: `kmeans` or `data` (random vectors) of the first batch, which must have at least one
            vector per code; `uniform_sphere`, random directions; or `uniform`, values in [0, 1),
            for which a number gives another upper end, as in BRIDLE's source.
        ema: moving averages of the codes, and replacement of unused codes.
        commitment: weight of the loss that pulls vectors to the codes of every level.
        gradient: `straight_through`, or the `rotation` trick.
        seed: seed of all draws.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 256,
        num_levels: int = 4,
        residual: Literal["plain", "bridle"] = "plain",
        shared: bool = False,
        init: Init | float = "kmeans",
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
            compared="vectors" if residual == "plain" else "residual_directions",
            init=init,
            ema=ema,
            commitment=commitment,
            gradient=gradient,
            seed=seed,
        )
