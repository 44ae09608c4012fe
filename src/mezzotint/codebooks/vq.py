"""Vector quantization: each vector is encoded by the nearest of K codes.

VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937) with codes that follow their vectors by moving
averages. With `metric="cosine"` vectors and codes have length 1, as in BEiT v2 (Peng et al. 2022,
arXiv 2208.06366), BEATs (Chen et al. 2022, arXiv 2212.09058) and BRIDLE. BEATs has `VQ(dim=256,
num_codes=1024, ema=EMA(rule="norm"), commitment=1.0)`. The loss is only the commitment term: the
other term of VQ-VAE has no gradient when codes are averages.
"""

from typing import Literal

from mezzotint.codebooks.ema import EMA, Init
from mezzotint.codebooks.gradient import Gradient
from mezzotint.codebooks.learned import LearnedCodebook, one_of

_EMA = EMA()


class VQ(LearnedCodebook):
    """Quantize each vector to the nearest of K learned codes.

    Args:
        dim: dimensions of the vectors.
        num_codes: number of codes, 2 or more.
        metric: `cosine`, nearest by angle with quantized vectors of length 1, or `euclidean`.
        init: `kmeans` or `data` (random vectors) of the first batch, which must have at least one
            vector per code; `uniform_sphere`, random directions; or `uniform`, values in [0, 1),
            for which a number gives another upper end, as in BRIDLE's source.
        ema: moving averages of the codes, and replacement of unused codes.
        commitment: weight of the loss that pulls vectors to their codes.
        gradient: `straight_through`, or the `rotation` trick.
        seed: seed of all draws.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        num_codes: int = 1024,
        metric: Literal["cosine", "euclidean"] = "cosine",
        init: Init | float = "kmeans",
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
