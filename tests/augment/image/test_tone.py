from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image.tone import Equalize, Posterize, Solarize
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
