from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image.policies import native
from mezzotint.augment.image.tone import (
    ChannelDropout,
    Equalize,
    GainOffset,
    GaussianNoise,
    Posterize,
    Solarize,
)
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Transform
from mezzotint.seeding import Draws

DRAWS = Draws(torch.arange(40), 3)


def pictures(channels: int = 3) -> Tensor:
    x = torch.rand(40, channels, 21, 26, generator=torch.Generator().manual_seed(0))
    x[0], x[1], x[2] = 0.0, 1.0, 0.5
    x[3] = (x[3] > 0.7).float()
    x[4:12] = x[4:12] ** 3  # crowded at the dark end
    return x


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_equals_torchvision(threshold: float, channels: int) -> None:
    x = pictures(channels)
    y = Solarize(threshold=threshold, p=1.0)(x, DRAWS)
    torch.testing.assert_close(y, F.solarize(x, threshold), atol=1e-7, rtol=0)


def test_solarize_is_that_of_128_levels_on_the_grid() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    y = Solarize(p=1.0)(levels / 255, Draws(torch.arange(1), 0))
    torch.testing.assert_close(y * 255, F.solarize(levels, 128).float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_equals_torchvision(channels: int) -> None:
    x = pictures(channels)
    y = Equalize()(x, DRAWS)
    torch.testing.assert_close(
        y, torch.stack([F.equalize(image) for image in x]), atol=1e-7, rtol=0
    )


def test_posterize_keeps_the_high_bits_of_the_grid() -> None:
    x, posterize = pictures(), Posterize(bits=(0, 8))
    params = posterize.draw(x.shape, DRAWS)
    assert set(params["bits"].tolist()) == set(range(9))
    levels = F.to_dtype(x, torch.uint8, scale=True)
    expected = [
        F.posterize(image, bits)
        for image, bits in zip(levels, params["bits"].tolist(), strict=True)
    ]
    torch.testing.assert_close(
        posterize.apply(x, params), torch.stack(expected) / 255, atol=1e-7, rtol=0
    )


@pytest.mark.parametrize(
    "transform", [Solarize(p=0.5), Posterize(bits=(1, 3), p=0.5), Equalize(p=0.5)]
)
def test_only_the_chosen_change_and_the_input_stays(transform: Transform) -> None:
    x = pictures()[4:36]
    draws = Draws(torch.arange(32), 9)
    before, params = x.clone(), transform.draw(x.shape, draws)
    changed = (transform.apply(x, params) != x).flatten(1).any(dim=1)
    assert torch.equal(changed, params["chosen"])
    assert 0 < changed.sum() < 32
    assert torch.equal(x, before)


@pytest.mark.parametrize("transform", [Solarize(p=1.0), Posterize(), Equalize()])
def test_no_images(transform: Transform) -> None:
    assert transform(torch.empty(0, 3, 4, 4), Draws(torch.arange(0), 1)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize(
    "build",
    [lambda: Solarize(threshold=128), lambda: Posterize(bits=(4, 9)), lambda: Equalize(p=-0.1)],
)
def test_bad_arguments_are_refused_in_three_parts(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*\.$"):
        build()


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_gain_and_offset_of_each_channel(channels: int) -> None:
    x = 0.4 + 0.1 * pictures(channels)  # nothing is clipped
    transform = GainOffset(gain=0.5, offset=0.8, p=0.7)
    params = transform.draw(x.shape, DRAWS)
    y = transform.apply(x, params)
    for i in range(len(x)):
        for c in range(channels):
            if not params["chosen"][i]:
                assert torch.equal(y[i, c], x[i, c])
                continue
            mean, std = x[i, c].double().mean(), x[i, c].double().std(correction=0)
            gain, offset = float(params["gain"][i, c]), float(params["offset"][i, c])
            assert 0.5 <= gain <= 1.5 and -0.8 <= offset <= 0.8
            expected = mean + gain * (x[i, c] - mean) + offset * std
            torch.testing.assert_close(y[i, c].double(), expected.double(), atol=1e-6, rtol=0)
    assert channels == 1 or not torch.equal(params["gain"][:, 0], params["gain"][:, 1])


def test_noise_is_measured_in_each_channels_own_deviation() -> None:
    x = pictures(2) * torch.tensor([1.0, 0.01]).view(1, 2, 1, 1) * 0.2 + 0.4
    transform = GaussianNoise(std=(0.3, 0.3), p=1.0)
    added = transform(x, DRAWS) - x
    own = x[4:].std(dim=(2, 3)), added[4:].std(dim=(2, 3))
    torch.testing.assert_close(own[1] / own[0], torch.full((36, 2), 0.3), atol=0.04, rtol=0)
    assert float(added[2].abs().max()) < 1e-6  # a constant image has no noise


def test_dropped_channels_have_their_mean_and_one_is_kept() -> None:
    x = pictures(5)
    transform = ChannelDropout(p=0.6)
    params = transform.draw(x.shape, DRAWS)
    y, dropped = transform.apply(x, params), params["dropped"]
    assert bool((dropped.sum(dim=1) < 5).all()) and 0.4 < float(dropped.float().mean()) < 0.75
    torch.testing.assert_close(
        y[dropped], x.mean(dim=(2, 3))[dropped][:, None, None].expand_as(y[dropped])
    )
    assert torch.equal(y[~dropped], x[~dropped])
    everything = ChannelDropout(p=1.0)(x, DRAWS)
    assert bool((everything.std(dim=(2, 3)) > 0)[4:].sum(dim=1).le(1).all())
    assert torch.equal(ChannelDropout(p=1.0)(x[:, :1], DRAWS), x[:, :1])


def test_the_native_policy_and_quantization_keep_the_low_bits_of_16() -> None:
    """A class in the low 6 bits of 16-bit values: gone after a reduction to 8 bits."""
    generator = torch.Generator().manual_seed(0)
    stored = 1024 + torch.randint(0, 64, (40, 2, 12, 12), generator=generator)
    x = stored / 65535
    quantized = RandomizedQuantization(8)(x, DRAWS)
    levels = [len(row.unique()) for row in quantized.flatten(0, 1)]
    assert min(levels) >= 4 and max(levels) <= 8  # of the row's own range, 64 of 65,536 values
    reduced = (stored // 256) / 255
    assert len(reduced.unique()) == 1
    assert torch.equal(RandomizedQuantization(8)(reduced, DRAWS), reduced)
    view = native(dropout=0.0)(x, DRAWS)
    between = (view * 65535).unique()
    assert len(between) > 1000 and bool(((view - x).abs() * 65535 < 100).all())


def test_settings_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(ValueError, match="`gain` and `offset` must be 0 or more, got -1 and 0.4"):
        GainOffset(gain=-1)
    with pytest.raises(ValueError, match=r"`std` must be low and high .* got \[0.2, 0.1\]"):
        GaussianNoise(std=(0.2, 0.1))
