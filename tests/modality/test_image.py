"""Images: they are their own pictures, and large ones are averaged as a baseline."""

import pytest
import torch

from mezzotint.modality.image import pooled_pixels
from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.types import Input

INPUT = Input((3, 32, 48), (0.5,) * 3, (0.25,) * 3)


def test_stored_bytes_become_normalized_floats() -> None:
    x = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(INPUT.normalize(INPUT.as_float(x)), (x / 255 - 0.5) / 0.25)


def test_default_patches_are_of_16_pixels() -> None:
    patches = modality_of(INPUT).patches(INPUT, 12, PatchSize())
    assert patches.grid == (2, 3) and patches.num_values == 3 * 16 * 16


def test_an_image_is_its_own_picture() -> None:
    x = torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8)
    modality = modality_of(INPUT)
    assert modality.picture(x, INPUT) is x and modality.is_picture
    assert modality.frames(x) is None and modality.coordinates(x) is None
    assert modality.sound(x, None) == ""


@pytest.mark.parametrize(("size", "features"), [(64, 64 * 64), (65, 32 * 32), (96, 32 * 32)])
def test_large_images_are_averaged_over_areas(size: int, features: int) -> None:
    x = torch.randn(2, 3, size, size)
    pooled = pooled_pixels(x)
    assert pooled.shape == (2, 3 * features)
    if size == 96:
        areas = x.view(2, 3, 32, 3, 32, 3).mean(dim=(3, 5))
        torch.testing.assert_close(pooled, areas.flatten(1), atol=1e-5, rtol=1e-5)
