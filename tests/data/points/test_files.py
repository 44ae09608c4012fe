"""Meshes and point files: sampling by area, resampling, refusals."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.data.points.files import centered, read_mesh, resampled, sample_surface

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)


def test_points_are_spread_by_area() -> None:
    # Two triangles, one of three times the other's area.
    vertices = np.array(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 1, 5]], np.float64
    )
    points = sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 8000, "key")
    upper = points[points[:, 2] == 5]
    assert len(upper) / 8000 == pytest.approx(0.75, abs=0.02)
    # Uniform in a triangle: the mean is its centroid, and a quarter lies in each of its four
    # halves-by-side parts.
    np.testing.assert_allclose(upper.mean(axis=0), [1.0, 1 / 3, 5.0], atol=0.03)
    near = (upper[:, 0] / 3 + upper[:, 1] < 0.5).mean()
    assert (
        near == pytest.approx(0.25, abs=0.02) and (upper[:, 0] / 3 + upper[:, 1]).max() <= 1 + 1e-9
    )
    assert np.array_equal(
        points, sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 8000, "key")
    )
    assert not np.array_equal(
        points, sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 8000, "other")
    )


def test_a_mesh_without_area_or_with_wrong_triangles_is_refused() -> None:
    line = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2]], np.float64)
    with pytest.raises(ValueError, match="its 1 triangles have no area"):
        sample_surface(line, np.array([[0, 1, 2]]), 16, "key")
    with pytest.raises(ValueError, match="names vertex 9, but there are 3"):
        sample_surface(line, np.array([[0, 1, 9]]), 16, "key")
    broken = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [np.nan, 0, 0]])
    points = sample_surface(broken, np.array([[0, 1, 2], [0, 1, 3]]), 50, "key")
    assert np.isfinite(points).all() and (points[:, 2] == 0).all()


def test_resampling_repeats_evenly_and_leaves_out_what_is_not_finite() -> None:
    points = np.vstack([CUBE, [[np.nan, 0, 0], [0, np.inf, 0]]])
    found = resampled(points, 20, "key")
    values, counts = np.unique(found, axis=0, return_counts=True)
    assert len(values) == 8 and counts.min() == 2 and counts.max() == 3
    assert len(np.unique(resampled(points, 5, "key"), axis=0)) == 5
    with pytest.raises(ValueError, match="3 of its 4 points are finite, and 4 are needed"):
        resampled(np.vstack([CUBE[:3], [[np.nan] * 3]]), 8, "key")
    with pytest.raises(ValueError, match="all its points are identical"):
        centered(np.ones((5, 3)))
    unit = centered(CUBE * 7 + 3)
    assert (
        np.linalg.norm(unit, axis=1).max() == pytest.approx(1.0)
        and np.abs(unit.mean(axis=0)).max() < 1e-12
    )


@pytest.mark.parametrize("kind", ["off", "obj", "ply"])
def test_meshes_of_each_kind_are_the_same_surface(tmp_path: Path, kind: str) -> None:
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box(extents=(1, 2, 3))
    path = tmp_path / f"box.{kind}"
    box.export(path)
    vertices, faces = read_mesh(path)
    assert len(faces) == 12
    points = sample_surface(vertices, faces, 6000, "box")
    on_top = (np.abs(points[:, 2]) > 1.5 - 1e-6).mean()
    assert on_top == pytest.approx(2 * 1 * 2 / (2 * (2 + 3 + 6)), abs=0.02)
