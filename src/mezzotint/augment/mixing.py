"""Mixing samples of a batch, for any modality.

- *mixup* (Zhang et al. 2018, arXiv 1710.09412): a weighted mean of two samples. i-Mix (Lee et al.
  2021, arXiv 2010.08887) and e-Mix (Tamkin et al. 2021) contrast it with both, see
  `methods/emix.py`.
- DACL (Verma et al. 2021, arXiv 2011.04419) uses a mixture of mostly one sample as a view of this
  sample: `DACLMixup` has its linear, geometric and binary mixup, for any contrastive method.
- `Mixing` mixes targets too, for supervised training: mixup and CutMix (Yun et al. 2019, arXiv
  1905.04899), either with one weight for the batch, or as for audio: only some of the samples,
  each with its own weight (AST, Gong et al. 2021, arXiv 2104.01778).

The partner is another sample of the batch, so unlike other draws it depends on the batch; a batch
of one sample stays unchanged. Partners are drawn among a rank's rows and, with accumulation, within
a micro-batch. A weight or box of a step is a function of the step's key, so it is equal on all
ranks; a sample's own draws are keyed by its id.
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


def lerp_rows(x: Tensor, partner: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of samples: `weight · x + (1 − weight) · x[partner]`.

    Args:
        x: samples `[B, …]`, floating point.
        partner: rows of the partners, int64 `[B]`.
        weight: weights `[B]` of a row's own sample.
    """
    own = weight.to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
    return torch.lerp(x.index_select(0, partner), x, own)


def beta_half(draws: Draws) -> Tensor:
    """Draw weights from Beta(1, 1), which is uniform, folded to 0.5 and more."""
    weight = draws.uniform("share")
    return torch.maximum(weight, 1.0 - weight)


class DACLMixup(Transform, kind="dacl_mixup"):
    """Mix a small part of another sample into each sample, as in DACL.

    Args:
        low: smallest weight of the sample itself; weights are uniform on [low, 1).
        mixture: `linear`; `geometric`, a weighted product, for values of 0 or more; `binary`, each
            value from one of the two.
    """

    mixes_samples = True

    def __init__(self, *, low: float = 0.9, mixture: Mixture = "linear") -> None:
        if not 0.0 <= low < 1.0 or mixture not in ("linear", "geometric", "binary"):
            raise ValueError(
                "`low` must be 0 or more and below 1, and `mixture` linear, geometric or binary, "
                f"got {low} and {mixture!r}. Try 0.9 and linear."
            )
        self.low, self.mixture = low, mixture

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """Draw the sample's own `weight` `[B]`, `partner`, its distance in rows, and `own` values.

        `own`, bool `[B, …]`, is drawn for `binary` only.
        """
        params = {
            "weight": draws.uniform("share", low=self.low, high=1.0),
            "partner": 1 + draws.integers("partner", high=max(1, shape[0] - 1)),
        }
        if self.mixture == "binary":
            params["own"] = draws.uniform("own", *shape[1:]) < params["weight"].view(
                -1, *(1 for _ in shape[1:])
            )
        return params

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Mix each sample with its partner.

        Raises:
            ValueError: for negative values with the geometric mixture, and for token ids with any
                but the binary one.
        """
        if not x.is_floating_point() and self.mixture != "binary":
            raise ValueError(
                f"`mixture` must be binary for token ids, which have no mean, got {self.mixture}. "
                "Set mixture=binary."
            )
        if len(x) < 2:
            return x
        partner = (torch.arange(len(x), device=x.device) + params["partner"]) % len(x)
        if self.mixture == "binary":
            return torch.where(params["own"], x, x.index_select(0, partner))
        if self.mixture == "linear":
            return lerp_rows(x, partner, params["weight"])
        # Elsewhere the host would wait for the device: the logarithm is NaN, which a run refuses.
        if x.device.type == "cpu" and bool((x < 0).any()):
            raise ValueError(
                "Values must be 0 or more with mixture=geometric, got negative values. "
                "Use mixture=linear."
            )
        return lerp_rows(x.log(), partner, params["weight"]).exp()


class Mixing(Component):
    """Mix samples and their targets, for supervised training.

    Args:
        mixup: α of Beta(α, α), the distribution of a mixup's weight; 0 for no mixup.
        cutmix: α of the fraction of the image that is kept; 0 for no CutMix. If both are set, each
            step uses one of them.
        p: probability that a sample is mixed.
        per_sample: draw a weight for each sample instead of one per step; for mixup without CutMix.
    """

    def __init__(
        self, *, mixup: float = 0.0, cutmix: float = 0.0, p: float = 1.0, per_sample: bool = False
    ) -> None:
        if mixup < 0.0 or cutmix < 0.0 or mixup == cutmix == 0.0:
            raise ValueError(
                "`mixup` and `cutmix` must be 0 or more, and one of them above 0, "
                f"got {mixup} and {cutmix}. Try 0.8 and 1.0."
            )
        if not 0.0 < p <= 1.0:
            raise ValueError(f"`p` must be above 0 and at most 1, got {p}. Try 1.0.")
        if per_sample and cutmix > 0.0:
            raise ValueError(
                f"`cutmix` must be 0 with `per_sample`, got {cutmix}. "
                "Remove `cutmix`, or set `per_sample: false`."
            )
        self.mixup, self.cutmix, self.p, self.per_sample = mixup, cutmix, p, per_sample

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: Tensor, target: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return mixed samples and targets.

        Args:
            x: samples `[B, …]`.
            target: targets, float `[B, C]`.
            draws: draws of the step.
        """
        order = draws.bits("partner").argsort(stable=True)
        partner = torch.empty_like(order)
        partner[order] = order.roll(1)  # a cycle through all rows: no sample is its own partner
        rng = np.random.default_rng(key_of(draws.key, "weight"))
        cut = self.cutmix > 0.0 and (self.mixup == 0.0 or rng.random() < 0.5)
        alpha = self.cutmix if cut else self.mixup
        weight = float(rng.beta(alpha, alpha))
        chosen = draws.chance("mixed", self.p)
        if not cut:
            keep = torch.where(
                chosen,
                beta_quantile(draws.uniform("weight"), alpha) if self.per_sample else weight,
                1.0,
            )
            return lerp_rows(x, partner, keep), lerp_rows(target, partner, keep)
        inside, kept = _box(x, weight, rng)
        rows = chosen.view(-1, *(1 for _ in x.shape[1:]))
        return torch.where(inside & rows, x[partner], x), lerp_rows(
            target, partner, torch.where(chosen, kept, 1.0)
        )


def beta_quantile(unit: Tensor, alpha: float) -> Tensor:
    """Map uniform numbers `[B]` to Beta(α, α) by its inverse distribution function."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, unit.double().cpu().numpy())).to(unit)


def _box(x: Tensor, keep: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Draw a box, bool `[H, W]`, and return the fraction of the image outside it.

    The box is clipped at the border, so the fraction can be larger than `keep`.
    """
    if x.ndim != 4:
        raise ValueError(
            f"CutMix takes images [B, C, H, W], got {list(x.shape)}. "
            "Set `cutmix: 0` and use `mixup`."
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
