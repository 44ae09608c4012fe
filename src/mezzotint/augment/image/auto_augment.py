"""AutoAugment and Fast AutoAugment: for each sample a sub-policy, each operation of it with a probability.

AutoAugment (Cubuk et al. 2018, arXiv 1805.09501) found 25 sub-policies of two operations for each
of three data sets; they stand as plain data in `augment/policy_files/`. Fast AutoAugment (Lim et
al. 2019, arXiv 1905.00397) finds them by matching densities, in hours instead of thousands of them,
and its magnitudes are levels in [0, 1] of wider ranges; a policy is a file, and
`mezzotint.evaluation.policy_search` makes one.

Sub-policies as plain data: what AutoAugment and Fast AutoAugment found, or a search of one's own.

A file is YAML or JSON:

    name: mine
    levels: 10                # magnitudes are bins of 0 to 9; without it, levels of 0 to 1
    sub_policies:
    - [[posterize, 0.4, 8], [rotate, 0.6, 9]]
    - [[equalize, 0.8], [invert, 0.2]]

A sub-policy lists operations in order, each with its probability and, where it has one, its
magnitude.
"""

import json
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from mezzotint.augment.image.operations import IDENTITY, OPERATIONS
from mezzotint.augment.image.rand_augment import (
    EXTRA,
    RAND_AUGMENT,
    Range,
    Space,
    Strategy,
    check_names,
    magnitudes,
)
from mezzotint.augment.image.resample import Sampling
from mezzotint.files import write_text
from mezzotint.recipe.schema import nearest
from mezzotint.seeding import Draws

_FIELDS = ("name", "source", "levels", "sub_policies")
FOLDER = Path(__file__).parent / "policy_files"


@dataclass(frozen=True)
class SubPolicyStep:
    """One operation of a sub-policy: its name, its probability, and its level in [0, 1]."""

    name: str
    p: float
    level: float


@dataclass(frozen=True)
class SubPolicies:
    """The content of a file.

    Attributes:
        name: of the policy.
        steps: the operations of each sub-policy.
        source: where it comes from, in words.
    """

    name: str
    steps: tuple[tuple[SubPolicyStep, ...], ...]
    source: str = ""

    def as_lists(self) -> list[list[list[Any]]]:
        """The sub-policies as plain data."""
        return [[[step.name, step.p, step.level] for step in steps] for steps in self.steps]


def read_sub_policies(path: str | Path) -> SubPolicies:
    """Read and check a file of sub-policies.

    Raises:
        ValueError: for a file that is missing or not as described above, naming the place.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        raise ValueError(
            f"got the policy file {str(path)!r}; allowed is an existing .yaml or .json file: check the path, or write "
            "one as docs/augmentation-policies.md shows"
        )
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: got text that cannot be read ({reason}); allowed is YAML or JSON in UTF-8: mend it"
        ) from None
    return as_sub_policies(data, str(path))


def write_sub_policies(policies: SubPolicies, path: str | Path) -> Path:
    """Write a YAML file that `read_sub_policies` reads back; one sub-policy a line. An older one is replaced whole.

    Raises:
        ValueError: for a name that does not end like a YAML file's.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        raise ValueError(
            f"got the policy file {str(path)!r} to write; allowed is a .yaml file: change its name"
        )
    lines = [
        f"name: {json.dumps(policies.name)}",
        f"source: {json.dumps(policies.source)}",
        "sub_policies:",
    ]
    for steps in policies.steps:
        lines.append(
            "- "
            + json.dumps([[step.name, round(step.p, 4), round(step.level, 4)] for step in steps])
        )
    write_text(Path(path), "\n".join(lines) + "\n")
    return Path(path)


def as_sub_policies(data: Any, path: str) -> SubPolicies:
    """Check what a file holds.

    Args:
        data: as plain data.
        path: of the file, for messages.

    Raises:
        ValueError: as `read_sub_policies`.
    """
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{path}: got a {type(data).__name__}; allowed is a mapping with sub_policies: see the docs"
        )
    wrong = next((str(key) for key in data if key not in _FIELDS), None)
    if wrong is not None:
        raise ValueError(
            f"{path}: got the field {wrong!r}; allowed: {', '.join(_FIELDS)}.{nearest(wrong, _FIELDS)}"
        )
    levels = data.get("levels")
    if levels is not None and (not isinstance(levels, int) or levels < 2):
        raise ValueError(
            f"{path}: levels: got {levels!r}; allowed is a number of bins from 2 on: AutoAugment has 10"
        )
    lists = data.get("sub_policies")
    if (
        not isinstance(lists, list)
        or not lists
        or not all(isinstance(steps, list) and steps for steps in lists)
    ):
        raise ValueError(
            f"{path}: sub_policies: got {lists!r:.60}; allowed is a list of lists: see the docs"
        )
    steps = tuple(
        tuple(
            _step(step, levels, f"{path}: sub_policies.{row}.{place}")
            for place, step in enumerate(steps)
        )
        for row, steps in enumerate(lists)
    )
    return SubPolicies(str(data.get("name", "")), steps, str(data.get("source", "")))


def _step(step: Any, levels: int | None, where: str) -> SubPolicyStep:
    if (
        not isinstance(step, (list, tuple))
        or len(step) not in (2, 3)
        or not isinstance(step[0], str)
    ):
        raise ValueError(
            f"{where}: got {step!r}; allowed is [operation, probability, magnitude]: see the docs"
        )
    name, p, magnitude = step[0], step[1], step[2] if len(step) == 3 else None
    if name not in OPERATIONS:
        raise ValueError(
            f"{where}: got {name!r}; allowed: {', '.join(OPERATIONS)}.{nearest(name, OPERATIONS)}"
        )
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0.0 <= p <= 1.0:
        raise ValueError(
            f"{where}: got the probability {p!r}; allowed is 0 to 1: it stands after the operation"
        )
    if magnitude is None:
        if OPERATIONS[name].magnitude:
            raise ValueError(
                f"{where}: got {name} without a magnitude; allowed is one with it: add a third value"
            )
        return SubPolicyStep(name, float(p), 0.0)
    number = isinstance(magnitude, (int, float)) and not isinstance(magnitude, bool)
    most = 1.0 if levels is None else float(levels - 1)
    if not number or not 0.0 <= magnitude <= most:
        what = "a level of 0 to 1" if levels is None else f"a bin of 0 to {levels - 1}"
        raise ValueError(
            f"{where}: got the magnitude {magnitude!r} of {name}; allowed is {what}: change it, or levels"
        )
    return SubPolicyStep(name, float(p), float(magnitude) / most)


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


class _Drawn(Strategy, ABC, abstract=True):
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
        op, magnitude = magnitudes(
            self.space, list(self.space), which, self.level[drawn], draws, shape
        )
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

    def __init__(
        self, *, policy: Published = "imagenet", interpolation: Sampling = "nearest", fill: int = 0
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if policy not in ("imagenet", "cifar10", "svhn"):
            raise ValueError(
                f"got policy={policy!r}; allowed are imagenet, cifar10 and svhn: choose one"
            )
        self.tabulate(read_sub_policies(FOLDER / f"{policy}.yaml"), RAND_AUGMENT)


class FastAutoAugment(_Drawn):
    """Fast AutoAugment (Lim et al. 2019): one of the sub-policies of a file.

    Its recipe holds the sub-policies and not the file's name, so that a run does not depend on a
    file that moves.

    Args:
        file: of sub-policies, YAML or JSON; `None` for those that a search found on the embedded
            emoji.
        sub_policies: instead of a file, each a list of operations with probability and level in [0,
            1].
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
            raise ValueError(
                "got a file and sub_policies; allowed is one of the two: leave the other out"
            )
        if sub_policies is None:
            found = read_sub_policies(FOLDER / "emoji.yaml" if file is None else file)
        else:
            found = as_sub_policies({"sub_policies": sub_policies}, "fast_auto_augment")
        if file is not None:
            self.config = {**self.config, "file": None, "sub_policies": found.as_lists()}
        self.tabulate(found, FAST_AUTO_AUGMENT)
