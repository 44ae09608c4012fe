"""Point clouds: groups of nearest points, a picture, and coordinates to turn around."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from mezzotint.modality.modality import modality_of
from mezzotint.modality.patches import PatchSize
from mezzotint.modality.points import PointPatches, farthest_points, shape_statistics
from mezzotint.types import Input

INPUT = Input((3, 50), (0.0,) * 3, (1.0,) * 3, "points")


def ink(x: torch.Tensor) -> torch.Tensor:
    return 255.0 - x.float().mean(dim=0)


def test_groups_are_the_nearest_points_of_their_center() -> None:
    patches = modality_of(INPUT).patches(INPUT, 24, PatchSize(groups=6, group_size=5))
    assert isinstance(patches, PointPatches) and patches.axes == 3
    x = torch.randn(2, 3, 50)
    values, centers = patches.split(x)
    for row in range(2):
        for group in range(6):
            distance = (x[row].T - centers[row, group]).norm(dim=1).sort().values[:5]
            torch.testing.assert_close(values[row, group].norm(dim=1), distance)
    shuffled = patches.embed(patches.split(x[:, :, torch.randperm(50)])[0])
    torch.testing.assert_close(shuffled, patches.embed(values), atol=1e-5, rtol=1e-4)


def test_centers_are_farthest_points() -> None:
    points = torch.randn(2, 50, 3)
    chosen = farthest_points(points, 6)
    for row in range(2):
        mean = points[row].mean(dim=0)
        assert (points[row] - mean).norm(dim=1).argmax() == chosen[row, 0]
        for number in range(1, 6):
            apart = torch.cdist(points[row], points[row][chosen[row, :number]]).amin(dim=1)
            assert apart.argmax() == chosen[row, number]


def test_a_cloud_is_drawn_upright_wherever_it_is_and_however_large() -> None:
    upright = torch.stack([torch.zeros(200), torch.linspace(0, 1, 200), torch.zeros(200)])
    shown = ink(modality_of(INPUT).picture(upright, INPUT))
    rows, columns = (shown > 0).nonzero(as_tuple=True)
    assert rows.min() < 8 and rows.max() > 87 and int(columns.min()) == int(columns.max())
    torch.testing.assert_close(ink(modality_of(INPUT).picture(upright * 7 + 3, INPUT)), shown)


def test_coordinates_fill_a_cube_and_are_at_most_512() -> None:
    x = torch.randn(3, 2000) * 5 + 100
    found = modality_of(INPUT).coordinates(x)
    assert found is not None and found.dtype == torch.int8 and found.shape == (500, 3)
    centered = x[:, ::4] - (x[:, ::4].amax(1, keepdim=True) + x[:, ::4].amin(1, keepdim=True)) / 2
    scaled = centered.T / centered.norm(dim=0).max() * 127
    assert (found.float() - scaled).abs().max() <= 0.51


def test_handmade_features_are_moments_and_histograms_of_the_shape() -> None:
    x = torch.randn(2, 3, 300, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 3.0, 0.2]).view(3, 1) + 5.0
    found = shape_statistics(x).numpy()
    assert found.shape == (2, 13 + 4 * 16)
    for row, cloud in zip(found, x.double().numpy(), strict=True):
        centered = cloud - cloud.mean(axis=1, keepdims=True)
        radius = np.sqrt((centered**2).sum(axis=0).mean())
        points = centered / radius
        moments: list[Any] = [[np.log1p(radius)], np.linalg.eigvalsh(np.cov(points, bias=True))]
        moments += [points.std(axis=1), stats.skew(points, axis=1), np.ptp(points, axis=1)]
        np.testing.assert_allclose(row[:13], np.concatenate(moments) / np.sqrt(13), atol=1e-4)
        distances = [pdist(points[:, ::3].T), np.linalg.norm(points, axis=0)]
        distances += [np.hypot(points[0], points[2]), points[1] + 1.5]
        for number, values in enumerate(distances):
            counts, _ = np.histogram(values.clip(0, 2.9999), bins=16, range=(0, 3))
            expected = np.sqrt(counts / len(values))
            start = 13 + 16 * number
            # A distance at the edge of two bins may fall on either side in float32.
            np.testing.assert_allclose(row[start : start + 16], expected, atol=0.01)


def test_shape_does_not_depend_on_place_and_size_on_one_number_alone() -> None:
    x = torch.randn(1, 3, 100)
    found, moved = shape_statistics(x), shape_statistics(4.0 * x + 7.0)
    torch.testing.assert_close(moved[:, 1:], found[:, 1:], atol=2e-2, rtol=1e-3)
    assert float(moved[0, 0]) > float(found[0, 0])


@pytest.mark.parametrize("count", [1, 2, 128, 129])
def test_clouds_of_any_number_of_points_have_features_of_one_number(count: int) -> None:
    for x in (torch.randn(2, 3, count), torch.ones(2, 3, count)):
        found = shape_statistics(x)
        assert found.shape == (2, 77) and found.isfinite().all()
