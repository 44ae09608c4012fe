"""Mixing samples with one another, which needs no knowledge of what they are.

- *mixup* (Zhang et al. 2018, arXiv 1710.09412): a weighted mean of two samples; i-Mix (Lee et al.
  2021, arXiv 2010.08887) and e-Mix (Tamkin et al. 2021) contrast it with both, see
  `methods/emix.py`.
- DACL (Verma et al. 2021, arXiv 2011.04419) takes what is mostly one sample for a view of that: its
  linear, geometric and binary mixup are `dacl_mixup`, for any method that contrasts views.

The partner is another sample of the batch. Unlike other draws it depends on the batch; a batch of
one stays as it is.

Samples blended with others of their batch, and their targets with them.

Mixup (Zhang et al. 2017, arXiv 1710.09412) and CutMix (Yun et al. 2019, arXiv 1905.04899), either
of the whole batch by one weight, or as audio has it: of a share of the samples, each by a weight of
its own (AST, Gong et al. 2021, arXiv 2104.01778). A weight or a box of a step is a function of its
key alone, and so equal on all ranks; what a sample draws for itself is keyed by its id. Partners
are drawn within a rank's rows and, under accumulation, within a micro-batch.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mezzotint.augment.transform import Params, Transform
from mezzotint.recipe.component import Component
from mezzotint.seeding import Draws, key_of

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
        mixture: `linear`; `geometric`, a weighted product, for values that are not negative;
            `binary`, each value from one of the two.
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
            params["own"] = draws.uniform("own", *shape[1:]) < params["share"].view(
                -1, *(1 for _ in shape[1:])
            )
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
            raise ValueError(
                "got negative values; allowed with mixture=geometric is 0 or more: choose linear"
            )
        return lerp_rows(x.log(), partner, params["share"]).exp()


class Mixing(Component):
    """Blend samples and targets.

    Args:
        mixup: α of Beta(α, α), from which the weight of a blend is drawn; 0 for none.
        cutmix: α of the share of the image that is kept; 0 for none. With both, each step takes one
            of them.
        p: probability that a sample is blended; the others stay as they are.
        each: draw a weight for each sample, rather than one for the step; of mixup alone.
    """

    def __init__(
        self, *, mixup: float = 0.0, cutmix: float = 0.0, p: float = 1.0, each: bool = False
    ) -> None:
        if mixup < 0.0 or cutmix < 0.0 or mixup == cutmix == 0.0:
            raise ValueError(
                f"got mixup={mixup}, cutmix={cutmix}; allowed is 0 or more, one of them above: 0.8 and 1.0"
            )
        if not 0.0 < p <= 1.0 or (each and cutmix > 0.0):
            raise ValueError(
                f"got p={p}, each={each}, cutmix={cutmix}; allowed is a probability in (0, 1], and weights of each "
                "sample for mixup alone: leave cutmix out, or each"
            )
        self.mixup, self.cutmix, self.p, self.each = mixup, cutmix, p, each

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: Tensor, target: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Blend.

        Args:
            x: `[B, …]`.
            target: float `[B, C]`.
            draws: of the step.
        """
        order = draws.bits("partner").argsort(stable=True)
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # a cycle through all rows: none is mixed with itself
        rng = np.random.default_rng(key_of(draws.key, "weight"))
        cut = self.cutmix > 0.0 and (self.mixup == 0.0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        weight = float(rng.beta(alpha, alpha))
        chosen = draws.chance("mixed", self.p)
        if not cut:
            keep = torch.where(
                chosen, _beta(draws.uniform("weight"), alpha) if self.each else weight, 1.0
            )
            return lerp_rows(x, partner, keep), lerp_rows(target, partner, keep)
        inside, kept = _box(x, weight, rng)
        rows = chosen.view(-1, *(1 for _ in x.shape[1:]))
        return torch.where(inside & rows, x[partner], x), lerp_rows(
            target, partner, torch.where(chosen, kept, 1.0)
        )


def _beta(unit: Tensor, alpha: float) -> Tensor:
    """Uniform numbers `[B]` as those of Beta(α, α), by its inverse distribution function."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, unit.double().cpu().numpy())).to(unit)


def _box(x: Tensor, keep: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """A box of images, bool `[H, W]`, and the share outside it, which clipping makes more than was asked for."""
    if x.ndim != 4:
        raise ValueError(
            f"cutmix cuts boxes out of [B, C, H, W], got {list(x.shape)}; set cutmix: 0, or take mixup"
        )
    height, width = x.shape[2:]
    side = (1.0 - keep) ** 0.5
    rows, columns = int(height * side), int(width * side)
    top, left = int(rng.integers(height)) - rows // 2, int(rng.integers(width)) - columns // 2
    up, down, start, stop = (
        max(0, top),
        min(height, top + rows),
        max(0, left),
        min(width, left + columns),
    )
    inside = torch.zeros(height, width, dtype=torch.bool, device=x.device)
    inside[up:down, start:stop] = True
    return inside, 1.0 - (down - up) * (stop - start) / (height * width)
