"""Inputs and weights from a seed, stored numbers, and how whole tensors are compared with them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def draw(seed: int, *shape: int) -> Tensor:
    """Draw float32 numbers of a normal distribution that no version of NumPy changes."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype("float32"))


def fill(tensors: Iterable[Tensor], seed: int, scale: float = 0.3) -> None:
    """Overwrite weights in order; the tensor with index i comes from `seed + i`."""
    with torch.no_grad():
        for index, tensor in enumerate(tensors):
            tensor.copy_(draw(seed + index, *tensor.shape) * scale)


def digest(tensors: Iterable[Tensor]) -> list[list[float]]:
    """Reduce each tensor to its product with fixed random numbers and its norm."""
    rows = []
    for index, tensor in enumerate(tensors):
        x = tensor.detach().double()
        direction = draw(9000 + index, *x.shape).double()
        rows.append([float((x * direction).sum()), float(x.norm())])
    return rows


def stored(name: str) -> dict[str, Any]:
    """Read the cases of a file; its header must say where the numbers come from."""
    content = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    assert {"repository", "commit", "files", "torch", "made"} <= content["source"].keys()
    cases: dict[str, Any] = content["cases"]
    return cases


def check(actual: Tensor, expected: Any, tolerance: float) -> None:
    """Compare numbers; the tolerance is relative to the largest of them."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    got = actual.detach().double()
    assert got.shape == wanted.shape, (got.shape, wanted.shape)
    difference = float((got - wanted).abs().max())
    assert difference <= tolerance * float(wanted.abs().max()), difference


def check_digest(tensors: Iterable[Tensor], expected: list[list[float]], tolerance: float) -> None:
    """Compare whole tensors by their digests, relative to their norms.

    The first number of a digest is off by about the norm of the difference. A gradient that is 0 in
    theory, such as that of a bias before a BatchNorm, is compared with the largest norm instead.
    """
    got = digest(tensors)
    smallest = 0.1 * max(norm for _, norm in expected)
    assert len(got) == len(expected), (len(got), len(expected))
    for index, (one, other) in enumerate(zip(got, expected, strict=True)):
        allowed = tolerance * max(other[1], smallest)
        assert abs(one[0] - other[0]) <= allowed, (index, one, other)
        assert abs(one[1] - other[1]) <= allowed, (index, one, other)
