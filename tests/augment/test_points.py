"""Views of point clouds against references for one point cloud at a time."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.augment.points import PointCrop, PointDrop, PointJitter, PointRotation, PointScale
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Transform
from mezzotint.augment.views import Transformed, ViewContext
from mezzotint.seeding import Draws
from mezzotint.types import Batch, Input

ALL: list[Transform] = [
    PointRotation(tilt=20.0), PointScale(mirror=0.5), PointJitter(shift=0.1),
    PointDrop(points=20), PointCrop(),
]  # fmt: skip


def point_clouds(batch: int = 6, points: int = 40) -> Tensor:
    return torch.randn(batch, 3, points, generator=torch.Generator().manual_seed(0))


def draws(batch: int = 6, start: int = 0) -> Draws:
    return Draws(torch.arange(start, start + batch), 7)


def as_set(points: Tensor) -> set[tuple[float, ...]]:
    return {tuple(point) for point in points.T.tolist()}


def test_rotation_is_that_of_each_cloud_about_its_own_angle() -> None:
    x, transform = point_clouds(), PointRotation(axis="z")
    params = transform.draw(x.shape, draws())
    assert params["angles"][:, :2].abs().max() == 0 and params["angles"][:, 2].std() > 0.5
    y = transform.apply(x, params)
    for points, turned, angle in zip(x, y, params["angles"][:, 2].tolist(), strict=True):
        c, s = math.cos(angle), math.sin(angle)
        expected = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ points
        torch.testing.assert_close(turned, expected, atol=1e-6, rtol=1e-5)


def test_a_tilted_rotation_keeps_lengths_and_handedness() -> None:
    x, transform = point_clouds(), PointRotation(axis="y", tilt=30.0)
    y = transform(x, draws())
    torch.testing.assert_close(x.norm(dim=1), y.norm(dim=1))
    frame = torch.linalg.det(y[:, :, :3]) / torch.linalg.det(x[:, :, :3])
    torch.testing.assert_close(frame, torch.ones(6), atol=1e-4, rtol=1e-4)
    assert (y[:, 1] - x[:, 1]).abs().max() > 0.05


def test_scale_is_in_its_range_for_each_axis_and_mirrors_the_first() -> None:
    x = torch.ones(400, 3, 5)
    y = PointScale(low=0.5, high=2.0, mirror=0.5)(x, draws(400))
    factors = y[:, :, 0]
    assert torch.equal(y, factors.unsqueeze(2).expand_as(y))
    assert 0.5 <= factors.abs().min() < 0.52 and 1.9 < factors.abs().max() <= 2.0
    assert 0.4 < (factors[:, 0] < 0).float().mean() < 0.6 and (factors[:, 1:] > 0).all()
    assert abs(np.corrcoef(factors.abs().T.numpy())[0, 1]) < 0.15


def test_jitter_has_its_spread_and_its_limit() -> None:
    x = torch.zeros(50, 3, 200)
    y = PointJitter(std=0.02, clip=0.03)(x, draws(50))
    assert y.abs().max() <= 0.03 and abs(y.mean().item()) < 1e-3
    inside = y[y.abs() < 0.0299]
    assert 0.8 < y.std().item() / 0.02 < 1.0 and len(set(inside.flatten().tolist())) > 20_000
    shifted = PointJitter(std=0.0, shift=0.5)(x, draws(50))
    assert (
        torch.equal(shifted, shifted[:, :, :1].expand_as(shifted))
        and 0.4 < shifted.abs().max() <= 0.5
    )


def test_drop_keeps_the_share_it_drew_and_repeats_it() -> None:
    x, transform = point_clouds(30), PointDrop(low=0.2, high=0.9, points=64)
    params = transform.draw(x.shape, draws(30))
    y = transform.apply(x, params)
    assert y.shape == transform.output_shape((30, 3, 40)) == (30, 3, 64)
    for points, view, order, kept in zip(
        x, y, params["order"], params["kept"].tolist(), strict=True
    ):
        assert 8 <= kept <= 36
        expected = torch.stack([points[:, order[i % kept]] for i in range(64)], dim=1)
        assert torch.equal(view, expected) and len(as_set(view)) == kept
    assert len({tuple(order.tolist()) for order in params["order"]}) == 30


def test_crop_keeps_the_nearest_points() -> None:
    x, transform = point_clouds(30), PointCrop(low=0.3, high=0.8, points=50)
    params = transform.draw(x.shape, draws(30))
    y = transform.apply(x, params)
    assert y.shape == (30, 3, 50)
    for points, view, anchor, kept in zip(
        x, y, params["anchor"].tolist(), params["kept"].tolist(), strict=True
    ):
        nearest = sorted(
            range(40), key=lambda i: float((points[:, i] - points[:, anchor]).square().sum())
        )[:kept]
        assert as_set(view) == as_set(points[:, nearest])
        counts = Counter(map(tuple, view.T.tolist())).values()
        assert max(counts) - min(counts) <= 1
    centered = PointCrop(low=0.3, high=0.8, points=50, center=True).apply(x, params)
    torch.testing.assert_close(centered, y - y.mean(dim=2, keepdim=True))


@pytest.mark.parametrize("transform", ALL, ids=lambda t: str(t.config["kind"]))
def test_a_view_depends_on_its_sample_alone_and_x_stays(transform: Transform) -> None:
    x = point_clouds()
    before = x.clone()
    whole = transform(x, draws())
    assert torch.equal(x, before) and not torch.equal(whole, x)
    torch.testing.assert_close(whole[2:4], transform(x[2:4], draws(2, 2)))
    assert torch.equal(whole, transform(x, draws()))


def test_quantization_has_a_row_of_levels_for_each_axis_of_each_cloud() -> None:
    y = RandomizedQuantization(bins=4, channel_dim=1)(point_clouds(6, 500), draws())
    levels = [[len(set(row.tolist())) for row in points] for points in y]
    assert max(max(counts) for counts in levels) <= 4 and len(set(y.flatten().tolist())) > 40


def test_a_chain_ends_in_normalized_views_of_the_asked_size() -> None:
    input = Input((3, 40), (0.0,) * 3, (0.5,) * 3, "points")
    views = Transformed(transforms=[PointCrop(points=16), PointRotation()])
    stored = point_clouds().half()
    a, b = views.render(Batch((stored,), torch.arange(6)), ViewContext(input, 0, 0))
    assert a.shape == b.shape == (6, 3, 16) and a.dtype == torch.float32 and not torch.equal(a, b)
    assert 1.5 < a.std().item() < 2.5


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: PointRotation(axis="w"), "`axis` must be x, y or z, got 'w'. Name"),  # type: ignore[arg-type]
        (lambda: PointRotation(degrees=400.0), "`degrees` must be 0 to 180, got 400.0. "),
        (lambda: PointScale(low=0.0), "0 < low <= high"),
        (lambda: PointDrop(low=0.9, high=0.5), "0 < low <= high <= 1"),
        (lambda: PointCrop(points=0), "`points` must be 1 or more, got 0. Leave"),
        (lambda: PointJitter(std=-1.0), "`std`, .* must be 0 or more, got -1.0, 0.05 and 0.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()  # type: ignore[operator]
