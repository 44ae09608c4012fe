"""Mixing samples with one another, which needs no knowledge of what they are.

- *mixup* (Zhang et al. 2018, arXiv 1710.09412): a weighted mean of two samples; i-Mix (Lee et al. 2021, arXiv
  2010.08887) and e-Mix (Tamkin et al. 2021) contrast it with both, see `methods/emix.py`.
- DACL (Verma et al. 2021, arXiv 2011.04419) takes what is mostly one sample for a view of that: its linear, geometric
  and binary mixup are `dacl_mixup`, for any method that contrasts views.

The partner is another sample of the batch. Unlike other draws it depends on the batch; a batch of one stays as it is.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.seeding import Draws

Mixture = Literal["linear", "geometric", "binary"]


def lerp_rows(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """The weighted mean of samples: `share · x + (1 − share) · x[partner]`.

    Args:
        x: `[B, …]`, floating point.
        partner: int64 `[B]`, rows.
        share: `[B]`, of a row's own sample.
    """
    own = share.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return torch.lerp(x.index_select(0, partner), x, own)


def beta_half(draws: Draws) -> Tensor:
    """Shares drawn from Beta(1, 1), which is uniform, and folded to one half or more: the sample itself prevails."""
    share = draws.uniform("share")
    return torch.maximum(share, 1.0 - share)


class DACLMixup(Transform):
    """Mix a little of another sample into each: DACL's views.

    Args:
        low: smallest share of the sample itself; it is drawn between this and 1.
        mixture: `linear`; `geometric`, a weighted product, for values that are not negative; `binary`, each value from
            one of the two.
    """

    def __init__(self, *, low: float = 0.9, mixture: Mixture = "linear") -> None:
        if not 0.0 <= low < 1.0 or mixture not in ("linear", "geometric", "binary"):
            raise ValueError(
                f"got low={low}, mixture={mixture!r}; allowed are 0 to less than 1, and linear, geometric or binary: "
                "DACL has 0.9 for images"
            )
        self.low, self.mixture = low, mixture

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """`share` of the sample itself, `[B]`; `partner`, rows further round the batch; for `binary`, `own`."""
        params = {
            "share": draws.uniform("share", low=self.low, high=1.0),
            "partner": 1 + draws.integers("partner", high=max(1, shape[0] - 1)),
        }
        if self.mixture == "binary":
            params["own"] = draws.uniform("own", *shape[1:]) < params["share"].view(-1, *(1 for _ in shape[1:]))
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Mix.

        Raises:
            ValueError: for negative values with the geometric mixture.
        """
        if len(x) < 2:
            return x
        partner = (torch.arange(len(x), device=x.device) + params["partner"]) % len(x)
        if self.mixture == "binary":
            return torch.where(params["own"], x, x.index_select(0, partner))
        if self.mixture == "linear":
            return lerp_rows(x, partner, params["share"])
        if bool((x < 0).any()):
            raise ValueError("got negative values; allowed with mixture=geometric is 0 or more: choose linear")
        return lerp_rows(x.log(), partner, params["share"]).exp()
