"""Many augmentation strategies for one image (MASSRL, arXiv 2205.11772; MV-MA, Applied Intelligence 2023).

The paper and its code disagree, and both ways are here. The paper's figure *samples*: each view
draws a strategy. The code applies *all*: each crop goes through every strategy, so that two crops
and four strategies give eight views, on crops that the strategies share or that each has of its
own. MV-MA adds local crops, and weighs the pairs of global views against those with a local one.

Differs from the code: every view is normalized alike (its AutoAugment and RandAugment views were
not); the local crops that are compared are the local crops (its indices were off by one); and what
a list says is not said again by a number that has to agree with it.
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
"""Until which share of training the step schedule has which weight."""


class LocalLoss(Component):
    """Which pairs local crops are part of, and how much the other pairs weigh.

    The loss is a · (global pairs) + (1 − a) · (pairs with a local crop).

    Args:
        compare: `"local_global"`: local crops predict global targets; `"local_local"`: they predict
            each other.
        weight: a, at the start.
        schedule: `"constant"` keeps it; `"cosine"` lowers it to 0 along half a cosine; `"step"` has
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
            raise ValueError(f"got weight={weight}; allowed is 0 to 1: 0.4 and 0.5 are published")
        if schedule == "step" and weight != 0.5:
            raise ValueError(
                f"got weight={weight} with schedule='step', which begins with 0.5; allowed is one of the two: leave "
                "the weight out, or take the constant schedule"
            )
        self.compare, self.weight, self.schedule = compare, weight, schedule

    def weight_at(self, progress: float) -> float:
        """The weight of the global pairs after a share of training."""
        if self.schedule == "constant":
            return self.weight
        if self.schedule == "cosine":
            return self.weight * (1.0 + math.cos(math.pi * progress)) / 2.0
        return next(weight for until, weight in _STEPS if progress < until or until == 1.0)


class MultiAugment(ImageViews):
    """Views by several strategies.

    With `mode: all` there is a view for each crop and strategy, crop by crop; with `sampled` one
    for each crop. Global crops come first.

    Args:
        strategies: the policies; in a recipe a list such as `[{kind: simclr}, {kind:
            rand_augment}]`.
        mode: `"all"`: each crop goes through every strategy; `"sampled"`: each draws one.
        crops: `"shared"`: all strategies see the same crop and flip; `"separate"`: each has its
            own. With `mode: all` alone, where the default is shared.
        num_global: large crops.
        num_local: small crops.
        crop: the box of the large crops.
        local_crop: the box of the small ones.
        flip: share of the crops that are mirrored.
        local_loss: how pairs with local crops count; `None` as any other pair.
    """

    def __init__(
        self,
        *,
        strategies: list[Policy],
        mode: Literal["all", "sampled"] = "all",
        crops: Literal["shared", "separate"] | None = None,
        num_global: int = 2,
        num_local: int = 0,
        crop: RandomResizedCrop = RandomResizedCrop(),
        local_crop: RandomResizedCrop = RandomResizedCrop(size=96, scale=(0.1, 0.3)),
        flip: float = 0.5,
        local_loss: LocalLoss | None = None,
    ) -> None:
        if not strategies:
            raise ValueError(
                "got no strategies; allowed is one or more: give a list such as [{kind: simclr}]"
            )
        if mode == "sampled" and crops is not None:
            raise ValueError(
                f"got crops={crops!r} with mode='sampled', where each crop has a single view; allowed with it is none: "
                "leave crops out, or take mode: all"
            )
        each = 1 if mode == "sampled" else len(strategies)
        if num_global < 1 or num_local < 0 or (num_global + num_local) * each < 2:
            raise ValueError(
                f"got num_global={num_global} and num_local={num_local} with {each} views a crop; allowed are at least "
                "one global crop and two views in all: give for example 2 and 0"
            )
        if local_loss is not None and num_local == 0:
            raise ValueError(
                "got local_loss without local crops; allowed is either both or none: set num_local"
            )
        chosen: list[Policy] = (
            [Choice(policies=strategies)] if mode == "sampled" else list(strategies)
        )
        self.strategies, self.local_loss = chosen, local_loss
        self.views = []
        for number in range(num_global + num_local):
            box = crop if number < num_global else local_crop
            first = len(self.views)
            for place, policy in enumerate(chosen):
                shared = first if place and crops != "separate" else None
                tag = (
                    "local"
                    if number >= num_global
                    else "global"
                    if mode == "sampled"
                    else _tag(chosen, place)
                )
                self.views.append(View(tag, box, flip, policy, crop_of=shared))

    def pairing(self, progress: float) -> tuple[Pairing, list[float] | None]:
        """All pairs alike, or those that the local loss asks for, with their weights."""
        if self.local_loss is None:
            return (), None
        places = {
            local: [p for p, v in enumerate(self.views) if (v.tag == "local") == local]
            for local in (0, 1)
        }
        targets = places[1] if self.local_loss.compare == "local_local" else places[0]
        among = tuple((p, t) for t in places[0] for p in places[0] if p != t)
        beside = tuple((p, t) for t in targets for p in places[1] if p != t)
        weight = self.local_loss.weight_at(progress)
        return among + beside, [weight] * len(among) + [1.0 - weight] * len(beside)


def _tag(policies: list[Policy], place: int) -> str:
    """The strategy's kind; with a number when there are several of it."""
    kinds = [str(policy.config["kind"]) for policy in policies]
    before = kinds[:place].count(kinds[place])
    return f"{kinds[place]}.{before + 1}" if kinds.count(kinds[place]) > 1 else kinds[place]
