"""Views of series against the same thing written for one series at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.series import (
    AxisRotation,
    ChannelDrop,
    SeriesCrop,
    SeriesJitter,
    SeriesScale,
    TimeWarp,
    read_at,
)  # fmt: skip
from mezzotint.augment.transform import Transform
from mezzotint.seeding import Draws

ALL: list[Transform] = [
    SeriesJitter(), SeriesScale(shift=0.1), TimeWarp(), SeriesCrop(steps=20), ChannelDrop(p=0.5),
    AxisRotation(),
]  # fmt: skip


def series(batch: int = 6, steps: int = 50) -> Tensor:
    return torch.randn(batch, 6, steps, generator=torch.Generator().manual_seed(0)).cumsum(dim=2)


def draws(batch: int = 6, start: int = 0) -> Draws:
    return Draws(torch.arange(start, start + batch), 7)


def read_by_numpy(x: Tensor, times: np.ndarray) -> Tensor:
    time = np.arange(x.shape[1])
    return torch.from_numpy(
        np.stack([np.interp(times, time, row) for row in x.double().numpy()])
    ).float()


def test_reading_between_steps_is_linear_and_stops_at_the_ends() -> None:
    x = series()
    times = torch.linspace(-3.0, 55.0, 70).repeat(6, 1)
    for one, got in zip(x, read_at(x, times), strict=True):
        torch.testing.assert_close(got, read_by_numpy(one, times[0].numpy()), atol=1e-4, rtol=1e-4)
    assert torch.equal(read_at(x, torch.arange(50.0).repeat(6, 1)), x)
    assert torch.equal(read_at(x[:, :, :1], torch.zeros(6, 4)), x[:, :, :1].expand(-1, -1, 4))


def test_crop_reads_its_stretch() -> None:
    x, transform = series(), SeriesCrop(low=0.3, high=0.7, steps=33)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    assert y.shape == transform.output_shape((6, 6, 50)) == (6, 6, 33)
    for one, got, part, start in zip(
        x, y, params["part"].tolist(), params["start"].tolist(), strict=True
    ):
        assert 0.3 <= part <= 0.7
        first = 49 * (1 - part) * start
        expected = read_by_numpy(one, np.linspace(first, first + 49 * part, 33))
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(SeriesCrop(low=1.0)(x, draws()), x, atol=1e-3, rtol=1e-4)


def test_warp_follows_a_rising_path_from_end_to_end() -> None:
    x, transform = series(), TimeWarp(knots=3, std=0.5)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    torch.testing.assert_close(y[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(y[:, :, -1], x[:, :, -1], atol=1e-4, rtol=1e-4)
    for one, got, speeds in zip(x, y, params["speeds"].tolist(), strict=True):
        assert min(speeds) > 0
        knots = np.concatenate([[0.0], np.cumsum(speeds)]) / sum(speeds) * 49
        path = np.interp(np.linspace(0, 3, 50), np.arange(4), knots)
        torch.testing.assert_close(got, read_by_numpy(one, path), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(TimeWarp(std=0.0)(x, draws()), x, atol=1e-4, rtol=1e-4)


def test_jitter_is_in_proportion_to_each_channel() -> None:
    x = torch.randn(20, 6, 500) * torch.tensor([0.0, 0.1, 1.0, 10.0, 100.0, 1.0]).view(1, 6, 1)
    noise = SeriesJitter(std=0.1)(x, draws(20)) - x
    assert noise[:, 0].abs().max() == 0
    ratio = noise[:, 1:].std(dim=2) / x[:, 1:].std(dim=2)
    assert ((0.08 < ratio) & (ratio < 0.12)).all()


def test_scale_multiplies_channels_apart_or_together() -> None:
    x = series()
    apart, together = (
        SeriesScale(std=0.3)(x, draws()) / x,
        SeriesScale(std=0.3, shared=True)(x, draws()) / x,
    )
    torch.testing.assert_close(apart, apart[:, :, :1].expand_as(apart), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        together, together[:, :1, :1].expand_as(together), atol=1e-4, rtol=1e-4
    )
    assert apart[:, :, 0].std(dim=1).min() > 0.02 and (apart > 0).all()
    shifted = SeriesScale(std=0.0, shift=0.5)(x, draws()) - x
    assert shifted.std(dim=2).max() < 1e-4 and shifted.abs().max() > 0.1


def test_dropped_channels_become_their_mean_and_one_stays() -> None:
    x, transform = series(200), ChannelDrop(p=0.9)
    y = transform(x, draws(200))
    flat = y.std(dim=2) < 1e-4
    assert 0.7 < flat.float().mean() < 0.95 and (~flat).any(dim=1).all()
    torch.testing.assert_close(y.mean(dim=2), x.mean(dim=2), atol=1e-4, rtol=1e-4)
    assert torch.equal(y[~flat], x[~flat]) and torch.equal(ChannelDrop(p=0.0)(x, draws(200)), x)


def test_axes_turn_by_their_angle_all_sensors_alike() -> None:
    x, transform = series(), AxisRotation(degrees=60.0)
    params = transform.draw(x.shape, draws())
    y = transform.apply(x, params)
    for one, got, axis, angle in zip(x, y, params["axis"], params["angle"].tolist(), strict=True):
        assert 0 <= angle <= math.pi / 3
        a, b, c = axis.tolist()
        generator = torch.tensor([[0.0, -c, b], [c, 0.0, -a], [-b, a, 0.0]])
        turn = torch.linalg.matrix_exp(angle * generator)
        expected = torch.cat([turn @ one[:3], turn @ one[3:]])
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="must have 9 channels with groups=3, got 6 channels. Set"):
        AxisRotation(groups=3)(x, draws())


@pytest.mark.parametrize("transform", ALL, ids=lambda t: str(t.config["kind"]))
def test_a_view_depends_on_its_sample_alone_and_x_stays(transform: Transform) -> None:
    x = series()
    before = x.clone()
    whole = transform(x, draws())
    assert torch.equal(x, before) and not torch.equal(whole, x)
    torch.testing.assert_close(whole[2:4], transform(x[2:4], draws(2, 2)))
    assert torch.equal(whole, transform(x, draws()))


def test_quantization_has_a_row_of_levels_for_each_sensor() -> None:
    y = RandomizedQuantization(bins=5, channel_dim=1)(series(6, 200), draws())
    assert max(len(row.unique()) for one in y for row in one) <= 5 and len(y.unique()) > 100


@pytest.mark.parametrize(
    "make",
    [
        lambda: SeriesJitter(std=-1.0), lambda: SeriesScale(std=-1.0), lambda: TimeWarp(knots=1),
        lambda: SeriesCrop(low=0.0), lambda: SeriesCrop(steps=1), lambda: ChannelDrop(p=1.0),
        lambda: AxisRotation(degrees=200.0),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
        make()  # type: ignore[operator]
