"""Several augmentation policies per image (MASSRL, arXiv 2205.11772; MV-MA, Appl. Intell. 2023).

The paper and its code disagree, and both versions are here. The paper's diagram *samples*: each
view draws a policy. The code applies *all*: each crop goes through every policy, so two crops and
four policies give eight views, with crops that the policies share or with separate crops. MV-MA
adds local crops, and weighs pairs of global views against pairs with a local view.

Differs from the code: every view is normalized in the same way (its AutoAugment and RandAugment
views were not); local crops are compared with local crops (its indices were off by one); the number
of policies follows from their list, not from a second argument.
"""

import math
from typing import Literal

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import Choice, Policy
from mezzotint.augment.image.render import View
from mezzotint.augment.image.views import ImageViews
from mezzotint.augment.views import Pairing
from mezzotint.recipe.component import Component

_STEPS = ((0.3, 0.5), (0.9, 0.8), (1.0, 1.0))
"""Weights of the step schedule, each with the fraction of training at which it ends."""


class LocalLoss(Component):
    """Weigh the pairs with local crops against the pairs of global views.

    The loss is a · (global pairs) + (1 − a) · (pairs with a local crop).

    Args:
        compare: `"local_global"`: local crops predict global targets; `"local_local"`: they predict
            each other.
        weight: a, at the start of training.
        schedule: `"constant"` keeps a; `"cosine"` lowers it to 0 along half a cosine; `"step"` has
            0.5 until 30 % of training, 0.8 until 90 %, then 1.
    """

    def __init__(
        self,
        *,
        compare: Literal["local_global", "local_local"] = "local_global",
        weight: float = 0.5,
        schedule: Literal["constant", "step", "cosine"] = "constant",
    ) -> None:
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"`weight` must be 0 to 1, got {weight}. Try 0.5, as published.")
        if schedule == "step" and weight != 0.5:
            raise ValueError(
                f"`weight` must be 0.5 with schedule='step', got {weight}. "
                "Remove `weight`, or use the constant schedule."
            )
        self.compare, self.weight, self.schedule = compare, weight, schedule

    def weight_at(self, progress: float) -> float:
        """Return the weight of the global pairs at a fraction of training."""
        if self.schedule == "constant":
            return self.weight
        if self.schedule == "cosine":
            return self.weight * (1.0 + math.cos(math.pi * progress)) / 2.0
        return next(weight for until, weight in _STEPS if progress < until or until == 1.0)


class MultiAugment(ImageViews):
    """Make views by several augmentation policies.

    `mode: all` gives one view per crop and policy, crop by crop; `sampled` gives one per crop.
    Global crops come first.

    Args:
        policies: augmentation policies; in a recipe a list such as `[{kind: simclr}, {kind:
            rand_augment}]`.
        mode: `"all"`: each crop goes through every policy; `"sampled"`: each crop draws one.
        crops: `"shared"`: all policies get the same crop and flip; `"separate"`: each has its own.
            Only with `mode: all`, where shared is the default.
        num_global: number of large crops.
        num_local: number of small crops.
        crop: crop of the global views.
        local_crop: crop of the local views.
        flip: probability that a crop is mirrored.
        local_loss: weights of pairs with local crops; `None` weighs all pairs equally.
    """

    def __init__(
        self,
        *,
        policies: list[Policy],
        mode: Literal["all", "sampled"] = "all",
        crops: Literal["shared", "separate"] | None = None,
        num_global: int = 2,
        num_local: int = 0,
        crop: RandomResizedCrop = RandomResizedCrop(),
        local_crop: RandomResizedCrop = RandomResizedCrop(size=96, scale=(0.1, 0.3)),
        flip: float = 0.5,
        local_loss: LocalLoss | None = None,
    ) -> None:
        if not policies:
            raise ValueError(
                "`policies` must have one entry or more, got none. Try [{kind: simclr}]."
            )
        if mode == "sampled" and crops is not None:
            raise ValueError(
                f"`crops` must be null with mode='sampled', where each crop has one view, got "
                f"{crops!r}. Remove `crops`, or set `mode: all`."
            )
        views_per_crop = 1 if mode == "sampled" else len(policies)
        if num_global < 1 or num_local < 0 or (num_global + num_local) * views_per_crop < 2:
            raise ValueError(
                "`num_global` must be 1 or more, `num_local` 0 or more, and the number of views 2 "
                f"or more, got {num_global} and {num_local} with {views_per_crop} views per crop. "
                "Try 2 and 0."
            )
        if local_loss is not None and num_local == 0:
            raise ValueError(
                "`num_local` must be 1 or more with `local_loss`, got 0. "
                "Set `num_local`, or remove `local_loss`."
            )
        own: list[Policy] = [Choice(policies=policies)] if mode == "sampled" else list(policies)
        self.policies, self.local_loss = own, local_loss
        self.views = []
        for number in range(num_global + num_local):
            is_global = number < num_global
            first = len(self.views)
            for index, policy in enumerate(own):
                shared = first if index and crops != "separate" else None
                tag = "global" if mode == "sampled" else _tag(own, index)
                self.views.append(
                    View(
                        tag if is_global else "local",
                        crop if is_global else local_crop,
                        flip,
                        policy,
                        crop_of=shared,
                    )
                )

    def pairing(self, progress: float) -> tuple[Pairing, list[float] | None]:
        """Return all pairs equally weighted, or the pairs of the local loss with their weights."""
        if self.local_loss is None:
            return (), None
        local_views = [i for i, view in enumerate(self.views) if view.tag == "local"]
        global_views = [i for i, view in enumerate(self.views) if view.tag != "local"]
        targets = local_views if self.local_loss.compare == "local_local" else global_views
        global_pairs = tuple((p, t) for t in global_views for p in global_views if p != t)
        local_pairs = tuple((p, t) for t in targets for p in local_views if p != t)
        weight = self.local_loss.weight_at(progress)
        weights = [weight] * len(global_pairs) + [1.0 - weight] * len(local_pairs)
        return global_pairs + local_pairs, weights


def _tag(policies: list[Policy], index: int) -> str:
    """Return the policy's kind, with a number if several policies have this kind."""
    kinds = [str(policy.config["kind"]) for policy in policies]
    kind = kinds[index]
    return f"{kind}.{kinds[:index].count(kind) + 1}" if kinds.count(kind) > 1 else kind
