"""Randomized quantization equals its published code, draw for draw."""

import pytest
import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import (
    RandomizedQuantization,
    randomized_quantize,
)
from tests.golden.values import draw, stored

EXPECTED = stored("randquant")
VALUES = {"inside_random": "random", "middle": "middle"}
CHAINS = [key for key in EXPECTED if "/" in key]


def input_with_ties() -> Tensor:
    x = draw(1, 2, 3, 4, 5)
    x[1] = (x[1] * 4).round() / 4
    return x


def numbers(key: str) -> Tensor:
    return torch.tensor(EXPECTED[key], dtype=torch.float64).float()


@pytest.mark.parametrize("key", CHAINS)
def test_every_number_with_the_same_draws(key: str) -> None:
    bins, spacing, value = key.split("/")
    torch.manual_seed(7)
    y = randomized_quantize(
        input_with_ties(),
        int(bins),
        spacing=spacing,  # type: ignore[arg-type]
        reproduction=VALUES[value],  # type: ignore[arg-type]
        reference=True,
    )
    assert isinstance(y, Tensor) and torch.equal(y, numbers(key))


@pytest.mark.parametrize("key", CHAINS)
def test_default_mode_differs_by_the_end_of_the_last_bin_alone(key: str) -> None:
    """The published code ends it at max + 1e-6, ours at max."""
    bins, spacing, value = key.split("/")
    x = input_with_ties()
    torch.manual_seed(7)
    y = randomized_quantize(
        x,
        int(bins),
        spacing=spacing,  # type: ignore[arg-type]
        reproduction=VALUES[value],  # type: ignore[arg-type]
    )
    assert isinstance(y, Tensor)
    assert float((y - numbers(key)).abs().max()) < 2e-6


def test_probability_draws_one_number_for_each_sample() -> None:
    x = draw(2, 6, 3, 4, 4)
    torch.manual_seed(7)
    y = randomized_quantize(x, 8, p=0.5, reference=True)
    assert isinstance(y, Tensor) and torch.equal(y, numbers("p=0.5"))
    changed = (y != x).flatten(1).any(dim=1)
    assert changed.any() and not changed.all()


def test_single_image_as_in_a_torchvision_pipeline() -> None:
    torch.manual_seed(7)
    y = RandomizedQuantization(bins=8, reference=True)(draw(3, 3, 6, 7))
    assert torch.equal(y, numbers("transforms_like"))
