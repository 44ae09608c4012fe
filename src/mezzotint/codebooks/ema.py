"""How a book follows its vectors: moving averages, and new places for codes that nothing uses.

Two rules. `count` keeps moving averages of the number and of the sum of each code's vectors, and the code is their
quotient (van den Oord et al. 2017, appendix A.1): a code that 3 vectors chose moves less than one that 300 chose.
`norm` moves every code that was chosen by a fixed share towards the mean of the vectors that chose it, as BEiT-v2,
BEATs and BRIDLE do. Either way a code that no vector chose stays as it is, to the bit; so no smoothing of the counts
is needed, which would pull such codes to the origin.

A code is expired when its average count falls below a share of the mean of all codes. An absolute count, as the field
uses, resets whole books as soon as there are more codes than vectors. It is not put on a vector of the batch, as the
field does, but beside that vector's code, `1/√D` of the way to it; see `kmeans.beside` for why. It starts with the
count of an average code, and with the sum that belongs to it; with its old state the next step would move it back.
"""

from typing import Literal

from mezzotint.component import Component


class EMA(Component):
    """How codes follow the vectors that choose them.

    Args:
        rule: `count`, averages weighted by how many vectors chose a code, or `norm`, a fixed step to their mean.
        decay: weight of the past, from 0 to below 1.
        renormalise: keep the codes of length 1 where the vectors are (`cosine`, `bridle`); BRIDLE's source does not.
        expire_below: give a new place to codes used less than this share of the mean over codes; 0 for never.
        expire_every: steps between two looks for such codes.
    """

    def __init__(
        self,
        *,
        rule: Literal["count", "norm"] = "count",
        decay: float = 0.99,
        renormalise: bool = True,
        expire_below: float = 0.1,
        expire_every: int = 20,
    ) -> None:
        if rule not in ("count", "norm"):
            raise ValueError(f"got rule={rule!r}; allowed are 'count' and 'norm': choose 'norm' to follow BEATs")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"got decay={decay}; allowed is 0 to below 1: choose 0.99")
        if not 0.0 <= expire_below < 1.0:
            raise ValueError(
                f"got expire_below={expire_below}; allowed is 0 (never) to below 1, a share of the mean usage: "
                "choose 0.1"
            )
        if expire_every < 1:
            raise ValueError(f"got expire_every={expire_every}; allowed is 1 or more: expire_below=0 turns it off")
        self.rule: Literal["count", "norm"] = rule
        self.decay = decay
        self.renormalise = renormalise
        self.expire_below = expire_below
        self.expire_every = expire_every

    def expires_at(self, step: int) -> bool:
        """Whether dead codes are looked for at the end of this step (counted from 1)."""
        return self.expire_below > 0.0 and step % self.expire_every == 0
