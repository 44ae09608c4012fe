"""Every operation against torchvision's function on the uint8 image, over its magnitudes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image.operations import NAMES, OPERATIONS, apply_operations
from mezzotint.augment.image.resample import AFFINE

LEVELS = [0.0, 0.1, 0.3, 0.5, 0.9, 1.0]


def pictures(channels: int = 3, height: int = 25, width: int = 32) -> Tensor:
    noise = torch.rand(12, channels, 7, 9, generator=torch.Generator().manual_seed(0))
    x = (
        torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic")
        .mul(255)
        .clamp(0, 255)
    )
    x[0], x[1] = 0, 255
    x[2] = (x[2] > 99) * 255.0
    x[3] = x[3, :1]  # gray
    return x.byte()


def affine(
    x: Tensor, mode: str, *, shear: tuple[float, float] = (0, 0), move: tuple[int, int] = (0, 0)
) -> Tensor:
    degrees = [math.degrees(math.atan(s)) for s in shear]
    center = [0.0, 0.0] if any(shear) else None
    found: Tensor = F.affine(
        x, 0.0, list(move), 1.0, degrees, InterpolationMode(mode), center=center
    )
    return found


REFERENCE: dict[str, tuple[Callable[[float], float], Callable[[Tensor, float, str], Tensor]]] = {
    "shear_x": (lambda v: 0.3 * v, lambda x, m, mode: affine(x, mode, shear=(m, 0.0))),
    "shear_y": (lambda v: -0.99 * v, lambda x, m, mode: affine(x, mode, shear=(0.0, m))),
    "translate_x": (lambda v: 14.7 * v, lambda x, m, mode: affine(x, mode, move=(int(m), 0))),
    "translate_y": (lambda v: -11.2 * v, lambda x, m, mode: affine(x, mode, move=(0, int(m)))),
    "rotate": (lambda v: -135.0 * v, lambda x, m, mode: F.rotate(x, m, InterpolationMode(mode))),
    "brightness": (lambda v: 1.98 * v - 0.99, lambda x, m, mode: F.adjust_brightness(x, 1.0 + m)),
    "color": (lambda v: 1.98 * v - 0.99, lambda x, m, mode: F.adjust_saturation(x, 1.0 + m)),
    "contrast": (lambda v: 1.98 * v - 0.99, lambda x, m, mode: F.adjust_contrast(x, 1.0 + m)),
    "sharpness": (lambda v: 1.98 * v - 0.99, lambda x, m, mode: F.adjust_sharpness(x, 1.0 + m)),
    "posterize": (lambda v: round(8 * v), lambda x, m, mode: F.posterize(x, int(m))),
    "solarize": (lambda v: v, lambda x, m, mode: F.solarize(x, 255.0 * m)),
    "hue": (lambda v: v - 0.5, lambda x, m, mode: F.adjust_hue(x, m)),
    "gaussian_blur": (
        lambda v: 0.1 + 1.9 * v,
        lambda x, m, mode: F.gaussian_blur(x, [3, 3], [m, m]),
    ),
    "grayscale": (lambda v: 0.0, lambda x, m, mode: F.rgb_to_grayscale(x, 3)),
    "auto_contrast": (lambda v: 0.0, lambda x, m, mode: F.autocontrast(x)),
    "equalize": (lambda v: 0.0, lambda x, m, mode: F.equalize(x)),
    "invert": (lambda v: 0.0, lambda x, m, mode: F.invert(x)),
    "identity": (lambda v: 0.0, lambda x, m, mode: x),
}
EXACT = {
    "translate_x", "translate_y", "rotate", "brightness", "sharpness", "posterize", "solarize",
    "grayscale",
    "auto_contrast", "equalize", "invert", "identity",
}  # fmt: skip
CASES = [(name, "nearest") for name in REFERENCE] + [(name, "bilinear") for name in AFFINE]


def applied(
    x: Tensor, name: str, magnitude: float, mode: str = "nearest", fill: float = 0.0
) -> Tensor:
    op = torch.full((len(x), 1), NAMES.index(name))
    size, center = torch.full((len(x), 1), magnitude), torch.full((len(x), 1, 2), 0.4)
    return apply_operations(x / 255, op, size, center, interpolation=mode, fill=fill)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_equals_torchvision(name: str, mode: str) -> None:
    x = pictures()
    scale, reference = REFERENCE[name]
    for level in LEVELS:
        m = float(torch.tensor(scale(level)))  # both sides see the same float32
        expected = torch.stack([reference(image, m, mode) for image in x]).float()
        difference = (applied(x, name, m, mode) - expected).abs()
        if name in EXACT and mode == "nearest":
            assert difference.max() == 0
        elif name in ("shear_x", "shear_y") and mode == "nearest":
            # A coordinate half-way between two pixels goes to either, by the last bit of its
            # rounding.
            assert (difference > 0).float().mean() < 0.02
        else:
            assert difference.max() <= 1 and (difference > 0).float().mean() < 0.02


def test_every_operation_is_compared() -> None:
    assert set(REFERENCE) | {"cutout"} == set(OPERATIONS)


@pytest.mark.parametrize("fill", [0.0, 128.0])
def test_cutout_is_erase_of_a_square(fill: float) -> None:
    x = pictures()
    expected = torch.stack([F.erase(image, 6, 8, 8, 8, torch.tensor(fill)) for image in x]).float()
    # The center lies at 0.4 of 32 × 25 pixels, a side of a quarter of the width has 8.
    assert torch.equal(applied(x, "cutout", 0.25, fill=fill), expected)


@pytest.mark.parametrize("name", ["rotate", "translate_x"])
def test_what_comes_into_the_image_has_the_fill(name: str) -> None:
    x = pictures()
    mask = applied(torch.full_like(x, 255), name, 9.0)
    moved = applied(x, name, 9.0)
    assert torch.equal(
        applied(x, name, 9.0, fill=128.0), torch.where(mask == 0, torch.tensor(128.0), moved)
    )


@pytest.mark.parametrize("name", ["color", "hue", "grayscale"])
def test_gray_images_have_no_color_to_change(name: str) -> None:
    x = pictures(channels=1)
    assert torch.equal(applied(x, name, 0.2), x.float())


def test_each_sample_gets_its_own_operations_in_order() -> None:
    x = pictures()
    generator = torch.Generator().manual_seed(1)
    op = torch.randint(0, len(NAMES), (len(x), 3), generator=generator)
    magnitude = torch.rand(len(x), 3, generator=generator) * 0.4 + 0.1
    center = torch.rand(len(x), 3, 2, generator=generator)
    before = (x / 255).clone()
    y = apply_operations(before, op, magnitude, center, interpolation="nearest", fill=0.0)
    assert torch.equal(before, x / 255)
    for row in range(len(x)):
        alone = x[row : row + 1] / 255
        for stage in range(3):
            part = (slice(row, row + 1), slice(stage, stage + 1))
            step = (op[part], magnitude[part], center[part])
            alone = apply_operations(alone, *step, interpolation="nearest", fill=0.0) / 255
        assert torch.equal(y[row], (alone[0] * 255).round())


def test_no_images() -> None:
    empty = apply_operations(
        torch.empty(0, 3, 8, 8), torch.empty(0, 2, dtype=torch.int64), torch.empty(0, 2),
        torch.empty(0, 2, 2),
        interpolation="nearest", fill=0.0,
    )  # fmt: skip
    assert empty.shape == (0, 3, 8, 8)
