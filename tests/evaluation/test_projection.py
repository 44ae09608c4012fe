"""Features in the plane, and maps that can be compared with each other."""

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.evaluation.projection import (
    Layout,
    Points,
    components,
    lay_out,
    lay_out_all,
    require_layout,
    unit_square,
)
from mezzotint.recipe.schema import RecipeError

GROUPS = np.arange(60) // 15


def clustered(noise: float, seed: int) -> Tensor:
    """Four clusters of 15, the same for every seed but for the noise."""
    centers = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    around = torch.randn(60, 16, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(centers.repeat_interleave(15, 0) + noise * around, dim=1)


def centers_of(plane: Points) -> Points:
    return np.stack([plane[GROUPS == group].mean(axis=0) for group in range(4)])


@pytest.mark.parametrize("layout", ["tsne", "pca"])
def test_clusters_stay_together_and_it_repeats(layout: Layout) -> None:
    x = components(clustered(0.2, 0), 0)
    plane = unit_square(lay_out(x, layout, 0))
    assert (
        plane.min() >= 0.0
        and plane.max() <= 1.0
        and np.ptp(plane, axis=0).max() == pytest.approx(1.0)
    )
    distance = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 9 * np.eye(60)
    assert (GROUPS[distance.argmin(axis=1)] == GROUPS).all()
    assert np.array_equal(plane, unit_square(lay_out(x, layout, 0)))


@pytest.mark.parametrize(
    "features",
    [
        torch.ones(1, 4),
        torch.ones(2, 4),
        torch.eye(3),
        torch.ones(30, 8),
        torch.randn(30, 1),
        torch.eye(5),
    ],
)
def test_next_to_nothing_stays_inside(features: Tensor) -> None:
    plane = unit_square(lay_out(components(features, 0), "tsne", 0))
    assert plane.shape == (len(features), 2)
    assert np.isfinite(plane).all() and plane.min() >= 0.0 and plane.max() <= 1.0


def test_components_keep_the_distances() -> None:
    x = clustered(0.2, 0)
    found = torch.from_numpy(components(x, 0))
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(x.double(), x.double()))


def test_a_map_that_was_turned_and_mirrored_is_turned_back() -> None:
    x = components(clustered(0.2, 0), 0)
    turn = np.eye(x.shape[1])
    turn[:2, :2] = np.array(
        [[0.6, 0.8], [0.8, -0.6]]
    )  # a rotation and a reflection of the first two components
    first, second = lay_out_all([x, x @ turn], "pca", 0)
    assert np.allclose(first, second)
    assert not np.allclose(first, lay_out(x @ turn, "pca", 0), atol=0.1)


def test_maps_of_like_features_are_alike_by_t_sne() -> None:
    """Laid out alone, the clusters lie elsewhere each time."""
    parts = [components(clustered(0.3, seed), 0) for seed in (0, 1, 2)]
    together = [centers_of(unit_square(plane)) for plane in lay_out_all(parts, "tsne", 0)]
    alone = [centers_of(unit_square(lay_out(part, "tsne", 0))) for part in parts]

    def moved(centers: list[Points]) -> float:
        return max(
            float(np.linalg.norm(a - b, axis=1).mean())
            for a, b in zip(centers, centers[1:], strict=False)
        )

    assert moved(together) < 0.15 < 0.3 < moved(alone)


def test_umap_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(
        RecipeError, match=r"layout umap needs umap-learn.* Run pip install 'mezzotint\[umap\]', or"
    ):
        require_layout("umap")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_umap_lays_out_clusters_from_the_places_before() -> None:
    pytest.importorskip("umap")
    first, second = lay_out_all([components(clustered(0.2, seed), 0) for seed in (0, 1)], "umap", 0)
    for plane in (first, second):
        distance = np.linalg.norm(plane[:, None] - plane[None], axis=2) + 1e9 * np.eye(60)
        assert (GROUPS[distance.argmin(axis=1)] == GROUPS).mean() > 0.95
    assert (
        np.linalg.norm(
            centers_of(unit_square(first)) - centers_of(unit_square(second)), axis=1
        ).mean()
        < 0.3
    )
