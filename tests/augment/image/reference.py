"""Draws, and magnitudes of ours and of torchvision, for the tests of random policies."""

from typing import Any

import pytest
import torch

from mezzotint.augment.image.operations import NAMES
from mezzotint.augment.image.rand_augment import (
    RandomPolicy,
)
from mezzotint.seeding import Draws

MANY = Draws(torch.arange(20_000), 5)


SHAPE = (20_000, 3, 64, 96)


def snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def drawn(policy: RandomPolicy) -> dict[str, set[float]]:
    """The magnitudes that each operation is drawn with."""
    op, magnitude = policy.operations(SHAPE, MANY)
    found: dict[str, set[float]] = {}
    for number in sorted(set(op.flatten().tolist())):
        found[NAMES[number]] = set(magnitude[op == number].tolist())
    return found


def theirs(space: dict[str, Any], bins: int, chosen: list[int]) -> dict[str, set[float]]:
    """What torchvision's space says for the same image size."""
    found: dict[str, set[float]] = {}
    for name, (values, signed) in space.items():
        magnitudes = values(bins, *SHAPE[2:])
        sizes = {0.0} if magnitudes is None else {float(magnitudes[i]) for i in chosen}
        found[snake(name)] = sizes | {-size for size in sizes} if signed else sizes
    return found


def assert_same(ours: dict[str, set[float]], expected: dict[str, set[float]]) -> None:
    assert ours.keys() == expected.keys()
    for name, values in expected.items():
        assert sorted(ours[name]) == pytest.approx(sorted(values), abs=2e-5), name
