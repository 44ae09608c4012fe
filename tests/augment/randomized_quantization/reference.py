"""Randomized quantization with a seed, and samples of every dtype, for its tests."""

from typing import Any

import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import (
    randomized_quantize as _randomized_quantize,
)


def randomized_quantize(x: Tensor, *args: Any, seed: int | None = None, **keywords: Any) -> Tensor:
    """The function under test with a seed instead of a generator; returns one tensor."""
    if seed is not None:
        keywords["generator"] = torch.Generator().manual_seed(seed)
    y = _randomized_quantize(x, *args, **keywords)
    assert isinstance(y, Tensor)
    return y


def with_codes(x: Tensor, *args: Any, seed: int = 0, **keywords: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = _randomized_quantize(x, *args, generator=generator, return_codes=True, **keywords)
    assert isinstance(result, tuple)
    return result


FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def sample(dtype: torch.dtype, *shape: int, scale: float = 50.0, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return (
        (x.abs() if dtype == torch.uint8 else x)
        .clamp(-120, 255 if dtype == torch.uint8 else 120)
        .to(dtype)
    )
