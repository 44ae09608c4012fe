"""AutoAugment and Fast AutoAugment: for each sample a sub-policy, each operation of it with a probability.

AutoAugment (Cubuk et al. 2018, arXiv 1805.09501) found 25 sub-policies of two operations for each of three data sets;
they stand as plain data in `augment/policy_files/`. Fast AutoAugment (Lim et al. 2019, arXiv 1905.00397) finds them by
matching densities, in hours instead of thousands of them, and its magnitudes are levels in [0, 1] of wider ranges; a
policy is a file, and `mezzotint.evaluate.policy_search` makes one.
"""

from abc import ABC
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mezzotint.augment.operations import IDENTITY
from mezzotint.augment.resample import Sampling
from mezzotint.augment.strategies import EXTRA, RAND_AUGMENT, Range, Space, Strategy, check_names, magnitudes
from mezzotint.augment.sub_policies import FOLDER, SubPolicies, as_sub_policies, read_sub_policies
from mezzotint.seeding import Draws

Published = Literal["imagenet", "cifar10", "svhn"]

FAST_AUTO_AUGMENT: dict[str, Range] = {
    "shear_x": Range(-0.3, 0.3, signed=True),
    "shear_y": Range(-0.3, 0.3, signed=True),
    "translate_x": Range(-0.45, 0.45, signed=True, of="width"),
    "translate_y": Range(-0.45, 0.45, signed=True, of="height"),
    "rotate": Range(-30.0, 30.0, signed=True),
    "solarize": Range(0.0, 256.0 / 255.0),
    "posterize": Range(4.0, 8.0, whole="down"),
    "contrast": Range(-0.9, 0.9),
    "color": Range(-0.9, 0.9),
    "brightness": Range(-0.9, 0.9),
    "sharpness": Range(-0.9, 0.9),
    "cutout": Range(0.0, 0.2),
    "auto_contrast": Range(),
    "invert": Range(),
    "equalize": Range(),
    "identity": Range(),
    **EXTRA,
}
"""The ranges of Fast AutoAugment; identity and SimCLR's operations are ours."""


class _Drawn(Strategy, ABC):
    """What the two share: a table of sub-policies."""

    def tabulate(self, policies: SubPolicies, space: Space) -> None:
        """Keep places in the space, probabilities and levels as tables `[sub-policies, most operations]`."""
        check_names([step.name for steps in policies.steps for step in steps], space)
        self.space, self.policies = space, policies
        most = max(len(steps) for steps in policies.steps)
        count = len(policies.steps)
        names = list(space)
        self.which = torch.full((count, most), names.index("identity"))
        self.p = torch.zeros(count, most)
        self.level = torch.zeros(count, most, dtype=torch.float64)
        for row, steps in enumerate(policies.steps):
            for place, step in enumerate(steps):
                self.which[row, place] = names.index(step.name)
                self.p[row, place] = step.p
                self.level[row, place] = step.level

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """The operations of one sub-policy, each applied with its probability."""
        drawn = draws.integers("sub_policy", high=len(self.which))
        which = self.which[drawn]
        op, magnitude = magnitudes(self.space, list(self.space), which, self.level[drawn], draws, shape)
        left_out = draws.uniform("applied", which.shape[1]) >= self.p[drawn]
        return op.masked_fill(left_out, IDENTITY), magnitude.masked_fill(left_out, 0.0)


class AutoAugment(_Drawn):
    """AutoAugment (Cubuk et al. 2018): one of 25 published sub-policies of two operations.

    Equal to torchvision's for the same draws.

    Args:
        policy: the data set that it was found on.
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, 0 to 255.
    """

    def __init__(self, *, policy: Published = "imagenet", interpolation: Sampling = "nearest", fill: int = 0) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if policy not in ("imagenet", "cifar10", "svhn"):
            raise ValueError(f"got policy={policy!r}; allowed are imagenet, cifar10 and svhn: choose one")
        self.tabulate(read_sub_policies(FOLDER / f"{policy}.yaml"), RAND_AUGMENT)


class FastAutoAugment(_Drawn):
    """Fast AutoAugment (Lim et al. 2019): one of the sub-policies of a file.

    Its recipe holds the sub-policies and not the file's name, so that a run does not depend on a file that moves.

    Args:
        file: of sub-policies, YAML or JSON; `None` for those that a search found on the embedded emoji.
        sub_policies: instead of a file, each a list of operations with probability and level in [0, 1].
        interpolation: of shears, translations and rotations.
        fill: level of what they bring into the image, and of cutouts, 0 to 255.
    """

    def __init__(
        self,
        *,
        file: str | None = None,
        sub_policies: list[list[tuple[str, float, float]]] | None = None,
        interpolation: Sampling = "nearest",
        fill: int = 0,
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if file is not None and sub_policies is not None:
            raise ValueError("got a file and sub_policies; allowed is one of the two: leave the other out")
        if sub_policies is None:
            found = read_sub_policies(FOLDER / "emoji.yaml" if file is None else file)
        else:
            found = as_sub_policies({"sub_policies": sub_policies}, "fast_auto_augment")
        if file is not None:
            self.config = {**self.config, "file": None, "sub_policies": found.as_lists()}
        self.tabulate(found, FAST_AUTO_AUGMENT)
