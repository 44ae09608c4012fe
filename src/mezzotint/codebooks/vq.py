"""Vector quantization: each vector becomes the nearest of K codes.

VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) with codes that follow their vectors by moving
averages. With `metric="cosine"` vectors and codes have length 1, as in BEiT v2 (Peng et al. 2022,
arXiv 2208.06366), BEATs (Chen et al. 2022, arXiv 2212.09058) and BRIDLE: `VQ(dim=256,
num_codes=1024, ema=EMA(rule="norm"), commitment=1.0)` is that of BEATs. The loss is the commitment
term alone: the other term of VQ-VAE has no gradient when codes are averages.
"""

from typing import Literal

from mezzotint.codebooks.books import EMA, Init
from mezzotint.codebooks.gradient import Gradient
from mezzotint.codebooks.learned import LearnedCodebook, one_of

_EMA = EMA()


class VQ(LearnedCodebook):
    """One book.

    Args:
        dim: width of the vectors.
        num_codes: codes in the book, 2 or more.
        metric: the nearest by angle, with quantized vectors of length 1, or by Euclidean distance.
        init: `kmeans` or `data` (vectors drawn at random) of the first batch, which must have a
            vector for each code; or `uniform_sphere`, random directions.
        ema: how codes follow their vectors, and when those that nothing uses are moved.
        commitment: weight of the loss that draws vectors to their codes.
        gradient: `straight_through`, or the `rotation` trick.
        seed: of all draws.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 1024,
        metric: Literal["cosine", "euclidean"] = "cosine",
        init: Init = "kmeans",
        ema: EMA = _EMA,
        commitment: float = 0.25,
        gradient: Gradient = "straight_through",
        seed: int = 0,
    ) -> None:
        one_of("metric", metric, "cosine", "euclidean")
        super().__init__(
            dim=dim,
            num_codes=num_codes,
            num_levels=1,
            shared=False,
            compared="directions" if metric == "cosine" else "vectors",
            init=init,
            ema=ema,
            commitment=commitment,
            gradient=gradient,
            seed=seed,
        )
