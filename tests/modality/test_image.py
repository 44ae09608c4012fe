"""Images: they are their own pictures, and large ones are averaged as a baseline."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mezzotint.modality.image import histogram, image_statistics, orientations, pooled_pixels
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


def test_pictures_of_other_channels_show_three_and_say_which() -> None:
    given: dict[str, Any] = {"dtype": "uint16", "bits": 16}

    def of(count: int, *names: str) -> Input:
        stats, ends = (0.5,) * count, ((0.0, 9.0),) * count
        return Input((count, 8, 8), stats, stats, channels=names, range=ends, **given)

    x = torch.rand(4, 8, 8)
    modality = modality_of(INPUT)
    for input, shown, colors in (
        (of(4), [0, 1, 2], "channel 0, channel 1, channel 2"),
        (of(4, "blue", "green", "red", "near IR"), [2, 1, 0], "red, green, blue"),
        (of(2), [0, 1, 0], "channel 0, channel 1, channel 0"),
    ):
        count = input.shape[0]
        assert torch.equal(modality.picture(x[:count], input), x[:count][shown])
        assert modality.picture_note(input) == (
            f"Pictures show {colors} as red, green, blue, with values by the range that became "
            "0 … 1."
        )
    assert torch.equal(modality.picture(x[:1], of(1)), x[:1])
    assert modality.picture_note(of(1)) == "Pictures show values by the range that became 0 … 1."
    assert modality.picture_note(INPUT) == ""


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


def gradient_histograms(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Dalal and Triggs pixel by pixel, for `[C, H, W]` with sides that 8 divides: `[9, 8, 8]`."""
    channels, height, width = image.shape
    cells = np.zeros((9, 8, 8))
    for row in range(height):
        for column in range(width):
            best = (0.0, 0.0, 0.0)
            for c in range(channels):
                right, left = min(column + 1, width - 1), max(column - 1, 0)
                down, up = min(row + 1, height - 1), max(row - 1, 0)
                dx = float(image[c, row, right] - image[c, row, left])
                dy = float(image[c, down, column] - image[c, up, column])
                best = max(best, (math.hypot(dx, dy), dx, dy))
            strength, dx, dy = best
            angle = math.atan2(dy, dx) % math.pi / (math.pi / 9)
            cell = (row * 8 // height, column * 8 // width)
            cells[(int(angle) % 9, *cell)] += strength * (1.0 - angle % 1.0)
            cells[((int(angle) + 1) % 9, *cell)] += strength * (angle % 1.0)
    cells /= height * width / 64
    found = np.zeros_like(cells)
    for row in range(8):
        for column in range(8):
            for up in (row - 1, row):  # the four blocks of 2 × 2 cells that hold this one
                for left in (column - 1, column):
                    rows = [min(max(r, 0), 7) for r in (up, up + 1)]
                    columns = [min(max(c, 0), 7) for c in (left, left + 1)]
                    block = cells[:, rows][:, :, columns]
                    norm = math.sqrt(float((block**2).sum())) + 1e-6
                    found[:, row, column] += np.minimum(cells[:, row, column] / norm, 0.2) / 4
    return found


@pytest.mark.parametrize("shape", [(3, 16, 24), (1, 8, 8), (5, 24, 16)])
def test_gradient_orientations_are_dalal_and_triggs(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    expected = np.stack([gradient_histograms(image) for image in x.double().numpy()])
    np.testing.assert_allclose(orientations(x).numpy(), expected, atol=1e-5)


def test_edges_vote_for_their_own_direction() -> None:
    stripes = (torch.arange(32) // 4 % 2).float()
    upright = orientations(stripes.view(1, 1, 1, 32).expand(1, 1, 32, 32))
    level = orientations(stripes.view(1, 1, 32, 1).expand(1, 1, 32, 32))
    assert upright.sum(dim=(0, 2, 3)).argmax() == 0
    assert level.sum(dim=(0, 2, 3)).argmax() in (4, 5)  # half a turn lies between these two
    # The sides of an edge do not matter, nor does the contrast.
    torch.testing.assert_close(orientations(-9.0 * stripes.expand(1, 1, 32, 32)), upright)


def test_a_histogram_has_the_square_roots_of_fractions() -> None:
    x = torch.randn(3, 2, 500)
    x[0, 0, :2] = torch.tensor([-1e9, 1e9])  # in the outer bins
    for values, found in zip(
        x.flatten(0, 1), histogram(x, -2.0, 2.0, 8).flatten(0, 1), strict=True
    ):
        counts, _ = np.histogram(values.clamp(-1.999, 1.999).numpy(), bins=8, range=(-2, 2))
        np.testing.assert_allclose(found.numpy(), np.sqrt(counts / 500), atol=1e-6)


def test_colors_are_described_by_area_and_by_a_histogram() -> None:
    x = torch.randn(2, 3, 16, 24)
    layout, counts = image_statistics(x)[:, 576:].split([2 * 3 * 16, 3 * 8], dim=1)
    areas = x.view(2, 3, 4, 4, 4, 6).transpose(3, 4).flatten(4)
    expected = torch.cat([areas.mean(dim=4), areas.std(dim=4, correction=0)], dim=1).flatten(1)
    torch.testing.assert_close(layout, expected / math.sqrt(96), atol=1e-5, rtol=1e-4)
    expected = histogram(x.flatten(2), -2.5, 2.5, 8).flatten(1) / math.sqrt(3)
    torch.testing.assert_close(counts, expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 65, 7), (7, 13, 200), (2, 3, 3)])
def test_images_of_any_size_and_channels_have_features_of_one_number(
    shape: tuple[int, int, int],
) -> None:
    found = image_statistics(torch.randn(2, *shape))
    assert found.shape == (2, 576 + shape[0] * (2 * 16 + 8)) and found.isfinite().all()
    blank = image_statistics(torch.zeros(1, *shape))
    assert blank.isfinite().all() and not blank[:, :576].any()  # no gradient, no direction


def test_large_images_are_averaged_before_they_are_described() -> None:
    x = torch.randn(1, 2, 128, 192)
    small = x.view(1, 2, 64, 2, 64, 3).mean(dim=(3, 5))
    torch.testing.assert_close(image_statistics(x), image_statistics(small), atol=1e-4, rtol=1e-4)
