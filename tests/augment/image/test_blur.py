from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image import blur
from mezzotint.augment.image.blur import GaussianBlur
from mezzotint.seeding import Draws


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("size", "kernel"), [((20, 27), 3), ((33, 31), 9), ((64, 48), 23)])
@pytest.mark.parametrize("channels", [1, 3])
def test_blur_equals_torchvision(
    monkeypatch: pytest.MonkeyPatch, alone: bool, size: tuple[int, int], kernel: int, channels: int
) -> None:
    monkeypatch.setattr(blur, "_LARGE", 0 if alone else 2**40)
    x = pictures(24, channels, *size)
    before, transform = x.clone(), GaussianBlur(kernel=kernel, p=0.7)
    params = transform.draw(x.shape, Draws(torch.arange(24), 3))
    params["sigma"][:2] = torch.tensor([0.1, 2.0])
    y = transform.apply(x, params)
    for image, result, chosen, sigma in zip(
        x, y, params["chosen"], params["sigma"].tolist(), strict=True
    ):
        expected = F.gaussian_blur(image, [kernel, kernel], [sigma, sigma]) if chosen else image
        torch.testing.assert_close(result, expected, atol=2e-6, rtol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize(("height", "kernel"), [(224, 23), (96, 9), (32, 3)])
def test_the_kernel_is_a_tenth_of_the_height(height: int, kernel: int) -> None:
    spike = torch.zeros(1, 1, height, height)
    spike[0, 0, height // 2, height // 2] = 1.0
    y = GaussianBlur(sigma=(2.0, 2.0), p=1.0)(spike, Draws(torch.arange(1), 0))
    assert (y[0, 0].amax(dim=0) > 0).sum() == kernel


def test_small_images_are_left_as_they_are() -> None:
    x = pictures(8, 3, 19, 19)
    assert torch.equal(GaussianBlur(p=1.0)(x, Draws(torch.arange(8), 0)), x)


@pytest.mark.parametrize("size", [(32, 32), (33, 35), (160, 130)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_row_does_not_depend_on_its_batch(size: tuple[int, int], channels: int) -> None:
    x, transform = pictures(7, channels, *size), GaussianBlur(p=1.0)
    whole = transform(x, Draws(torch.arange(7), 3))
    for row in range(7):
        assert torch.equal(
            transform(x[row : row + 1], Draws(torch.tensor([row]), 3)), whole[row : row + 1]
        )


def test_sigma_and_share_are_as_asked() -> None:
    params = GaussianBlur().draw((20_000,), Draws(torch.arange(20_000), 2))
    assert 0.1 <= params["sigma"].min() < 0.102
    assert 1.998 < params["sigma"].max() <= 2.0
    assert abs(params["chosen"].float().mean() - 0.5) < 0.015


def test_no_images() -> None:
    assert GaussianBlur()(torch.empty(0, 3, 40, 40), Draws(torch.arange(0), 1)).shape == (
        0,
        3,
        40,
        40,
    )


def test_a_kernel_too_wide_for_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`kernel` must be less than .*got 23 pixels .*\. Use"):
        GaussianBlur(kernel=23, p=1.0)(pictures(2, 3, 30, 11), Draws(torch.arange(2), 0))


@pytest.mark.parametrize(
    "build",
    [
        lambda: GaussianBlur(kernel=4),
        lambda: GaussianBlur(sigma=(0.0, 1.0)),
        lambda: GaussianBlur(p=3.0),
    ],
)
def test_bad_arguments_are_refused_in_three_parts(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*\.$"):
        build()
