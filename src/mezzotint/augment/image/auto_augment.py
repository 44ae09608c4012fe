"""AutoAugment and Fast AutoAugment: a random sub-policy per sample, its operations by probability.

AutoAugment (Cubuk et al. 2018, arXiv 1805.09501) found 25 sub-policies of two operations for each
of three data sets; they are plain data in `augment/image/policy_files/`. Fast AutoAugment (Lim et
al. 2019, arXiv 1905.00397) finds them by density matching, in hours instead of thousands of hours,
and its magnitudes are levels in [0, 1] of wider ranges. A policy is a file;
`mezzotint.evaluation.policy_search` writes one.

A file of sub-policies is YAML or JSON:

    name: mine
    levels: 10                # magnitudes are bins of 0 to 9; without it, levels of 0 to 1
    sub_policies:
    - [[posterize, 0.4, 8], [rotate, 0.6, 9]]
    - [[equalize, 0.8], [invert, 0.2]]

A sub-policy lists operations in order, each with its probability and its magnitude, if it has one.
"""

import json
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mezzotint.augment.image.operations import IDENTITY, OPERATIONS
from mezzotint.augment.image.rand_augment import (
    EXTRA,
    RAND_AUGMENT,
    RandomPolicy,
    Range,
    Space,
    check_names,
    magnitudes,
)
from mezzotint.augment.image.resample import Sampling
from mezzotint.files import write_text
from mezzotint.recipe.reading import read_yaml
from mezzotint.recipe.schema import nearest
from mezzotint.seeding import Draws

_FIELDS = ("name", "source", "levels", "sub_policies")
_MAX_BYTES = 1 << 20
_DOCS = "See docs/augmentation-policies.md."
FOLDER = Path(__file__).parent / "policy_files"


@dataclass(frozen=True)
class SubPolicyStep:
    """One operation of a sub-policy: its name, its probability, and its level in [0, 1]."""

    name: str
    p: float
    level: float


@dataclass(frozen=True)
class SubPolicies:
    """The sub-policies of a file.

    Attributes:
        name: name of the policy.
        steps: operations of each sub-policy.
        source: description of the policy's origin.
    """

    name: str
    steps: tuple[tuple[SubPolicyStep, ...], ...]
    source: str = ""

    def as_lists(self) -> list[list[list[Any]]]:
        """Return the sub-policies as plain data."""
        return [[[step.name, step.p, step.level] for step in steps] for steps in self.steps]


def read_sub_policies(path: str | Path) -> SubPolicies:
    """Read and check a file of sub-policies.

    Raises:
        ValueError: for a missing or invalid file, with the position of the error.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        raise ValueError(
            f"`file` must be an existing .yaml or .json file of sub-policies, got {str(path)!r}. "
            "Check the path, or write a file as docs/augmentation-policies.md shows."
        )
    if path.suffix != ".json":
        return as_sub_policies(read_yaml(path), str(path))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"more than {_MAX_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be YAML or JSON in UTF-8, got a file that does not parse ({reason}). "
            "Fix the syntax."
        ) from None
    return as_sub_policies(data, str(path))


def write_sub_policies(policies: SubPolicies, path: str | Path) -> Path:
    """Write a YAML file that `read_sub_policies` reads; an existing file is replaced.

    Raises:
        ValueError: for a name that does not end in .yaml or .yml.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        raise ValueError(
            f"A policy file to write must be a .yaml file, got {str(path)!r}. Change its name."
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
    """Return sub-policies from the plain data of a file, after checking them.

    Args:
        data: plain data.
        path: path of the file, for messages.

    Raises:
        ValueError: for invalid data, with the position of the error.
    """
    if not isinstance(data, Mapping):
        raise ValueError(
            f"{path} must be a mapping with `sub_policies`, got a {type(data).__name__}. {_DOCS}"
        )
    unknown = next((str(key) for key in data if key not in _FIELDS), None)
    if unknown is not None:
        raise ValueError(
            f"Fields of {path} must be among {', '.join(_FIELDS)}, got {unknown!r}."
            f"{nearest(unknown, _FIELDS) or ' ' + _DOCS}"
        )
    levels = data.get("levels")
    if levels is not None and (not isinstance(levels, int) or levels < 2):
        raise ValueError(
            f"`levels` of {path} must be a number of bins, 2 or more, got {levels!r}. "
            "Try 10, as AutoAugment has."
        )
    lists = data.get("sub_policies")
    if (
        not isinstance(lists, list)
        or not lists
        or not all(isinstance(steps, list) and steps for steps in lists)
    ):
        raise ValueError(
            f"`sub_policies` of {path} must be a list of lists, got {lists!r:.60}. {_DOCS}"
        )
    steps = tuple(
        tuple(
            _step(step, levels, f"`sub_policies.{row}.{index}` of {path}")
            for index, step in enumerate(steps)
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
            f"{where} must be [operation, probability, magnitude], got {step!r}. {_DOCS}"
        )
    name, p, magnitude = step[0], step[1], step[2] if len(step) == 3 else None
    if name not in OPERATIONS:
        raise ValueError(
            f"The operation of {where} must be among {', '.join(OPERATIONS)}, got {name!r}."
            f"{nearest(name, OPERATIONS) or ' Choose from this list.'}"
        )
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0.0 <= p <= 1.0:
        raise ValueError(
            f"The probability of {where} must be 0 to 1, got {p!r}. "
            "It is the second value, after the operation."
        )
    if magnitude is None:
        if OPERATIONS[name].magnitude:
            raise ValueError(
                f"{where} must have a magnitude, got {name} without one. Add it as the third value."
            )
        return SubPolicyStep(name, float(p), 0.0)
    number = isinstance(magnitude, (int, float)) and not isinstance(magnitude, bool)
    largest = 1.0 if levels is None else float(levels - 1)
    if not number or not 0.0 <= magnitude <= largest:
        accepted = "a level of 0 to 1" if levels is None else f"a bin of 0 to {levels - 1}"
        raise ValueError(
            f"The magnitude of {where} must be {accepted}, got {magnitude!r} for {name}. "
            "Change it, or `levels`."
        )
    return SubPolicyStep(name, float(p), float(magnitude) / largest)


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
"""The ranges of Fast AutoAugment; identity and SimCLR's operations are added."""


class _SubPolicyTable(RandomPolicy, ABC, abstract=True):
    """Draw from a table of sub-policies; the base of the two classes below."""

    def tabulate(self, policies: SubPolicies, space: Space) -> None:
        """Store operations, probabilities and levels as tables `[sub-policies, operations]`."""
        check_names([step.name for steps in policies.steps for step in steps], space)
        self.space, self.policies = space, policies
        longest = max(len(steps) for steps in policies.steps)
        count = len(policies.steps)
        names = list(space)
        # Identity with probability 0 fills short sub-policies.
        self.which = torch.full((count, longest), names.index("identity"))
        self.p = torch.zeros(count, longest)
        self.level = torch.zeros(count, longest, dtype=torch.float64)
        for row, steps in enumerate(policies.steps):
            for column, step in enumerate(steps):
                self.which[row, column] = names.index(step.name)
                self.p[row, column] = step.p
                self.level[row, column] = step.level

    def operations(self, shape: Sequence[int], draws: Draws) -> tuple[Tensor, Tensor]:
        """Draw the operations of one sub-policy, each applied with its probability."""
        drawn = draws.integers("sub_policy", high=len(self.which))
        which = self.which[drawn]
        op, magnitude = magnitudes(
            self.space, list(self.space), which, self.level[drawn], draws, shape
        )
        skipped = draws.uniform("applied", which.shape[1]) >= self.p[drawn]
        return op.masked_fill(skipped, IDENTITY), magnitude.masked_fill(skipped, 0.0)


class AutoAugment(_SubPolicyTable):
    """Apply one of 25 published sub-policies of two operations: AutoAugment (Cubuk et al. 2018).

    Equal to torchvision's for the same draws.

    Args:
        policy: data set that the sub-policies were found on.
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image, 0 to 255.
    """

    def __init__(
        self, *, policy: Published = "imagenet", interpolation: Sampling = "nearest", fill: int = 0
    ) -> None:
        super().__init__(interpolation=interpolation, fill=fill)
        if policy not in ("imagenet", "cifar10", "svhn"):
            raise ValueError(
                f"`policy` must be imagenet, cifar10 or svhn, got {policy!r}. Try imagenet."
            )
        self.tabulate(read_sub_policies(FOLDER / f"{policy}.yaml"), RAND_AUGMENT)


class FastAutoAugment(_SubPolicyTable):
    """Apply one of the sub-policies of a file: Fast AutoAugment (Lim et al. 2019).

    A run's recipe stores the sub-policies instead of the file's name, so it does not depend on a
    file that may move.

    Args:
        file: YAML or JSON file of sub-policies; `None` for the result of a search on the embedded
            emoji.
        sub_policies: sub-policies instead of a file; each is a list of operations with probability
            and level in [0, 1].
        interpolation: interpolation of shears, translations and rotations.
        fill: level of pixels from outside the image and of cutouts, 0 to 255.
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
                "Either `file` or `sub_policies` must be null, got values for both. Remove one."
            )
        if sub_policies is None:
            policies = read_sub_policies(FOLDER / "emoji.yaml" if file is None else file)
        else:
            policies = as_sub_policies({"sub_policies": sub_policies}, "fast_auto_augment")
        if file is not None:
            self.config = {**self.config, "file": None, "sub_policies": policies.as_lists()}
        self.tabulate(policies, FAST_AUTO_AUGMENT)
