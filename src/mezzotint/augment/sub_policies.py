"""Sub-policies as plain data: what AutoAugment and Fast AutoAugment found, or a search of one's own.

A file is YAML or JSON:

    name: mine
    levels: 10                # magnitudes are bins of 0 to 9; without it, levels of 0 to 1
    sub_policies:
    - [[posterize, 0.4, 8], [rotate, 0.6, 9]]
    - [[equalize, 0.8], [invert, 0.2]]

A sub-policy lists operations in order, each with its probability and, where it has one, its magnitude.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mezzotint.augment.operations import OPERATIONS
from mezzotint.files import write_text
from mezzotint.schema import nearest

_FIELDS = ("name", "source", "levels", "sub_policies")
FOLDER = Path(__file__).parent / "policy_files"


@dataclass(frozen=True)
class Step:
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
    steps: tuple[tuple[Step, ...], ...]
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
        raise ValueError(f"got the policy file {str(path)!r} to write; allowed is a .yaml file: change its name")
    lines = [f"name: {json.dumps(policies.name)}", f"source: {json.dumps(policies.source)}", "sub_policies:"]
    for steps in policies.steps:
        lines.append("- " + json.dumps([[step.name, round(step.p, 4), round(step.level, 4)] for step in steps]))
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
        raise ValueError(f"{path}: got a {type(data).__name__}; allowed is a mapping with sub_policies: see the docs")
    wrong = next((str(key) for key in data if key not in _FIELDS), None)
    if wrong is not None:
        raise ValueError(f"{path}: got the field {wrong!r}; allowed: {', '.join(_FIELDS)}{nearest(wrong, _FIELDS)}")
    levels = data.get("levels")
    if levels is not None and (not isinstance(levels, int) or levels < 2):
        raise ValueError(f"{path}: levels: got {levels!r}; allowed is a number of bins from 2 on: AutoAugment has 10")
    lists = data.get("sub_policies")
    if not isinstance(lists, list) or not lists or not all(isinstance(steps, list) and steps for steps in lists):
        raise ValueError(f"{path}: sub_policies: got {lists!r:.60}; allowed is a list of lists: see the docs")
    steps = tuple(
        tuple(_step(step, levels, f"{path}: sub_policies.{row}.{place}") for place, step in enumerate(steps))
        for row, steps in enumerate(lists)
    )
    return SubPolicies(str(data.get("name", "")), steps, str(data.get("source", "")))


def _step(step: Any, levels: int | None, where: str) -> Step:
    if not isinstance(step, (list, tuple)) or len(step) not in (2, 3) or not isinstance(step[0], str):
        raise ValueError(f"{where}: got {step!r}; allowed is [operation, probability, magnitude]: see the docs")
    name, p, magnitude = step[0], step[1], step[2] if len(step) == 3 else None
    if name not in OPERATIONS:
        raise ValueError(f"{where}: got {name!r}; allowed: {', '.join(OPERATIONS)}{nearest(name, OPERATIONS)}")
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0.0 <= p <= 1.0:
        raise ValueError(f"{where}: got the probability {p!r}; allowed is 0 to 1: it stands after the operation")
    if magnitude is None:
        if OPERATIONS[name].magnitude:
            raise ValueError(f"{where}: got {name} without a magnitude; allowed is one with it: add a third value")
        return Step(name, float(p), 0.0)
    number = isinstance(magnitude, (int, float)) and not isinstance(magnitude, bool)
    most = 1.0 if levels is None else float(levels - 1)
    if not number or not 0.0 <= magnitude <= most:
        what = "a level of 0 to 1" if levels is None else f"a bin of 0 to {levels - 1}"
        raise ValueError(f"{where}: got the magnitude {magnitude!r} of {name}; allowed is {what}: change it, or levels")
    return Step(name, float(p), float(magnitude) / most)
