import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image.geometry import HorizontalFlip, Normalize, RandomResizedCrop
from mezzotint.seeding import Draws

DRAWS = Draws(torch.arange(48), 3)


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    return x if dtype == torch.float32 else (x * 255.999).to(dtype)


def naive_box(
    crop: RandomResizedCrop, params: dict[str, list[float]], height: int, width: int
) -> tuple[int, int, int, int]:
    """Torchvision's loop, fed with the drawn fractions."""
    for area, ratio, top, left in zip(
        *(params[k] for k in ("area", "ratio", "top", "left")), strict=True
    ):
        w = round(math.sqrt(area * height * width * ratio))
        h = round(math.sqrt(area * height * width / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    h, w = height, width
    if width / height < crop.ratio[0]:
        h = round(width / crop.ratio[0])
    elif width / height > crop.ratio[1]:
        w = round(height * crop.ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("size", [(32, 32), (33, 20), (11, 140), (140, 11), (1, 1)])
def test_boxes_are_those_of_the_loop_with_ten_tries(size: tuple[int, int]) -> None:
    crop = RandomResizedCrop(scale=(0.05, 1.0))
    params = crop.draw((48,), DRAWS)
    boxes = crop.boxes(params, *size)
    expected = [
        naive_box(crop, {k: v[i].tolist() for k, v in params.items()}, *size) for i in range(48)
    ]
    assert [tuple(box) for box in boxes.tolist()] == expected


def test_long_images_get_the_largest_centered_box() -> None:
    crop = RandomResizedCrop(scale=(0.9, 1.0))
    boxes = crop.boxes(crop.draw((48,), DRAWS), 10, 100)
    assert boxes.tolist() == [[0, 43, 10, 13]] * 48


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    ids = Draws(torch.arange(4000), 1)
    crop, theirs = RandomResizedCrop(scale=(0.2, 1.0)), v2.RandomResizedCrop(8, scale=(0.2, 1.0))
    ours = crop.boxes(crop.draw((4000,), ids), 60, 80).double()
    torch.manual_seed(0)
    image = torch.empty(3, 60, 80)
    drawn = [theirs.make_params([image]) for _ in range(4000)]
    expected = torch.tensor(
        [[p["top"], p["left"], p["height"], p["width"]] for p in drawn], dtype=torch.float64
    )
    for ours_column, expected_column in zip(ours.unbind(1), expected.unbind(1), strict=True):
        points = torch.linspace(0, 80, 81, dtype=torch.float64)
        distance = torch.stack(
            [
                (column <= points[:, None]).double().mean(1)
                for column in (ours_column, expected_column)
            ]
        )
        # Kolmogorov and Smirnov: two samples of 4000 from one distribution differ by more with
        # probability 1e-5.
        assert (distance[0] - distance[1]).abs().max() < 2.47 * math.sqrt(2 / 4000)


def test_draws_do_not_depend_on_the_image() -> None:
    crop = RandomResizedCrop()
    first, second = crop.draw((48, 3, 8, 8), DRAWS), crop.draw((48, 1, 500, 20), DRAWS)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_equals_torchvision(interpolation: str, dtype: torch.dtype, channels: int) -> None:
    x = pictures(48, channels, 29, 37, dtype=dtype)
    crop = RandomResizedCrop(size=24, scale=(0.05, 1.0), interpolation=interpolation)  # type: ignore[arg-type]
    params = crop.draw(x.shape, DRAWS)
    mode = v2.InterpolationMode[interpolation.upper()]
    boxes = crop.boxes(params, 29, 37).tolist()
    expected = [
        F.resized_crop(image, *box, [24, 24], mode, antialias=True)
        for image, box in zip(x, boxes, strict=True)
    ]
    assert torch.equal(crop.apply(x, params), torch.stack(expected))


def test_crop_keeps_the_size_of_the_image_unless_told() -> None:
    x = pictures(48, 3, 20, 30)
    assert RandomResizedCrop()(x, DRAWS).shape == (48, 3, 20, 30)
    assert RandomResizedCrop(size=7)(x, DRAWS).shape == (48, 3, 7, 7)
    whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    square = pictures(48, 3, 20, 20)
    assert torch.equal(whole(square, DRAWS), square)


def test_flip_mirrors_the_chosen_and_no_others() -> None:
    x = pictures(48, 3, 6, 7)
    before, flip = x.clone(), HorizontalFlip(p=0.5)
    params = flip.draw(x.shape, DRAWS)
    y = flip.apply(x, params)
    assert 0 < params["chosen"].sum() < 48
    for image, result, chosen in zip(x, y, params["chosen"], strict=True):
        assert torch.equal(result, F.horizontal_flip(image) if chosen else image)
    assert torch.equal(x, before)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_flip_of_none_and_of_all(p: float) -> None:
    x = pictures(48, 3, 6, 7)
    assert torch.equal(HorizontalFlip(p=p)(x, DRAWS), x.flip(-1) if p else x)


def test_normalize_equals_torchvision() -> None:
    x = pictures(48, 3, 6, 7)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    y = Normalize(mean=mean, std=std)(x, DRAWS)
    torch.testing.assert_close(y, F.normalize(x, mean, std), atol=1e-6, rtol=0)


def test_normalize_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match=r"with the 2 channels .*, got \[.*\]\. Give"):
        Normalize(mean=[0.5, 0.5], std=[1.0, 1.0])(pictures(48, 1, 4, 4), DRAWS)


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandomResizedCrop(size=0),
        lambda: RandomResizedCrop(scale=(0.0, 1.0)),
        lambda: RandomResizedCrop(scale=(0.5, 0.2)),
        lambda: RandomResizedCrop(ratio=(0.0, 1.0)),
        lambda: RandomResizedCrop(interpolation="nearest"),  # type: ignore[arg-type]
        lambda: HorizontalFlip(p=1.5),
        lambda: Normalize(mean=[0.5], std=[0.0]),
        lambda: Normalize(mean=[0.5], std=[1.0, 1.0]),
    ],
)
def test_bad_arguments_are_refused_in_three_parts(build: object) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*\.$"):
        build()  # type: ignore[operator]
