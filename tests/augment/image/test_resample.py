"""Crop and resize: the two implementations agree, in every memory format."""

import pytest
import torch

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.resample import by_matrices, one_by_one
from mezzotint.seeding import Draws

DRAWS = Draws(torch.arange(48), 3)


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return x if dtype == torch.float32 else (x * 255.999).to(dtype)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_two_ways_to_crop_agree(interpolation: str) -> None:
    x = pictures(48, 3, 29, 37)
    crop = RandomResizedCrop(scale=(0.05, 1.0))
    boxes = crop.boxes(crop.draw(x.shape, DRAWS), 29, 37)
    for size in [(24, 24), (50, 40), (1, 3)]:
        each = one_by_one(x, boxes, size, interpolation)  # type: ignore[arg-type]
        torch.testing.assert_close(
            by_matrices(x, boxes, size, interpolation),  # type: ignore[arg-type]
            each,
            atol=1e-5,
            rtol=0,
        )


def test_the_two_ways_to_crop_agree_within_two_levels() -> None:
    x = pictures(48, 3, 29, 37, dtype=torch.uint8)
    crop = RandomResizedCrop(scale=(0.05, 1.0))
    boxes = crop.boxes(crop.draw(x.shape, DRAWS), 29, 37)
    each, together = (
        way(x, boxes, (24, 24), "bilinear").int() for way in (one_by_one, by_matrices)
    )
    assert 0 < (each - together).abs().max() <= 2


def test_crop_of_channels_last_images_is_the_same() -> None:
    x = pictures(48, 3, 29, 37, dtype=torch.uint8)
    crop = RandomResizedCrop(size=24)
    params = crop.draw(x.shape, DRAWS)
    turned = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(crop.apply(x, params), crop.apply(turned, params))
    assert torch.equal(
        crop.apply(x[5:], {k: v[5:] for k, v in params.items()}), crop.apply(x, params)[5:]
    )


def test_crop_of_no_images() -> None:
    x = torch.empty(0, 3, 20, 30)
    assert RandomResizedCrop(size=8)(x, Draws(torch.arange(0), 1)).shape == (0, 3, 8, 8)
