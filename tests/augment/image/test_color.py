import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image import color
from mezzotint.augment.image.color import ColorJitter, Grayscale
from mezzotint.augment.transform import Params
from mezzotint.seeding import Draws

COUNT = 72
DRAWS = Draws(torch.arange(COUNT), 3)
THEIRS: list[tuple[str, Callable[[Tensor, float], Tensor]]] = [
    ("brightness", F.adjust_brightness),
    ("contrast", F.adjust_contrast),
    ("saturation", F.adjust_saturation),
    ("hue", F.adjust_hue),
]


def pictures(channels: int = 3, height: int = 20, width: int = 23, count: int = COUNT) -> Tensor:
    x = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))
    if count > 4:
        x[0], x[1], x[2] = 0.3, 0.0, 1.0
        x[3] = (x[3] * 3).floor() / 3  # many equal channels, where the hue has its corners
    return x


def one_by_one(x: Tensor, params: Params) -> Tensor:
    """Torchvision, sample by sample."""
    results = []
    for row, image in enumerate(x):
        for op in params["order"][row].tolist() if params["chosen"][row] else []:
            name, change = THEIRS[op]
            image = change(image, params[name][row].item())
        results.append(image)
    return torch.stack(results)


@pytest.mark.parametrize(
    "cached", [1, 20 * 23 * 3 * 2, 2**18], ids=["large images", "two at a time", "together"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_equals_torchvision_in_all_24_orders(
    monkeypatch: pytest.MonkeyPatch, cached: int, channels: int
) -> None:
    monkeypatch.setattr(color, "_CACHED_VALUES", cached)
    x = pictures(channels)
    before, jitter = x.clone(), ColorJitter(hue=0.5, p=0.9)
    params = jitter.draw(x.shape, DRAWS)
    params["order"][:24] = torch.tensor(list(itertools.permutations(range(4))))
    params["chosen"][:24] = True
    torch.testing.assert_close(jitter.apply(x, params), one_by_one(x, params), atol=1e-5, rtol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_each_operation_alone(name: str) -> None:
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, name: 0.5}
    x, jitter = pictures(), ColorJitter(**strengths, p=1.0)
    params = jitter.draw(x.shape, DRAWS)
    change = dict(THEIRS)[name]
    expected = torch.stack(
        [change(image, factor.item()) for image, factor in zip(x, params[name], strict=True)]
    )
    torch.testing.assert_close(jitter.apply(x, params), expected, atol=5e-6, rtol=0)
    assert not torch.equal(expected, x)


@pytest.mark.parametrize("turn", [-0.5, -1 / 3, 0.0, 1 / 6, 0.5])
def test_hue_at_the_corners_of_the_circle(turn: float) -> None:
    levels = torch.linspace(0, 1, 6)
    x = torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 18, 12).contiguous()
    jitter = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0.5, p=1.0)
    params = jitter.draw(x.shape, Draws(torch.arange(1), 0)) | {"hue": torch.tensor([turn])}
    torch.testing.assert_close(jitter.apply(x, params), F.adjust_hue(x, turn), atol=2e-6, rtol=0)


def test_ranges_are_torchvisions() -> None:
    draws = Draws(torch.arange(20_000), 5)
    for strength in (0.4, 1.5):
        theirs = v2.ColorJitter(strength, strength, strength, 0.4)
        params = ColorJitter(
            brightness=strength, contrast=strength, saturation=strength, hue=0.4
        ).draw((20_000,), draws)
        for name, _ in THEIRS:
            low, high = getattr(theirs, name)
            assert low <= params[name].min() < low + 1e-3 * (high - low)
            assert high - 1e-3 * (high - low) < params[name].max() <= high


def test_orders_are_uniform() -> None:
    params = ColorJitter().draw((24_000,), Draws(torch.arange(24_000), 5))
    counts = torch.bincount((params["order"] * torch.tensor([64, 16, 4, 1])).sum(dim=1))
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert ((counts - 1000.0) ** 2 / 1000.0).sum() < 60  # chi-square, 23 degrees: 4e-5
    assert abs(params["chosen"].float().mean() - 0.8) < 0.012


@pytest.mark.parametrize("size", [(7, 9), (33, 35), (224, 224)])
def test_a_row_does_not_depend_on_its_batch(size: tuple[int, int]) -> None:
    x = pictures(3, *size, count=9)
    draws = Draws(torch.arange(9), 3)
    jitter = ColorJitter(hue=0.5)
    whole = jitter(x, draws)
    for row in range(9):
        assert torch.equal(
            jitter(x[row : row + 1], Draws(torch.tensor([row]), 3)), whole[row : row + 1]
        )


def test_nothing_chosen_and_nothing_to_do() -> None:
    x = pictures()
    assert torch.equal(ColorJitter(p=0.0)(x, DRAWS), x)
    assert torch.equal(
        ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, p=1.0)(x, DRAWS), x
    )
    empty = torch.empty(0, 3, 4, 4)
    assert ColorJitter()(empty, Draws(torch.arange(0), 1)).shape == (0, 3, 4, 4)
    assert Grayscale()(empty, Draws(torch.arange(0), 1)).shape == (0, 3, 4, 4)


def test_grayscale_equals_torchvision() -> None:
    x, gray = pictures(), Grayscale(p=0.5)
    params = gray.draw(x.shape, DRAWS)
    y = gray.apply(x, params)
    for image, result, chosen in zip(x, y, params["chosen"], strict=True):
        expected = F.rgb_to_grayscale(image, num_output_channels=3) if chosen else image
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    single = pictures(1)
    assert torch.equal(Grayscale(p=1.0)(single, DRAWS), single)


@pytest.mark.parametrize("transform", [ColorJitter(p=1.0), Grayscale(p=1.0)])
def test_other_channels_are_refused(transform: ColorJitter | Grayscale) -> None:
    with pytest.raises(ValueError, match=r"got 4 channels\. Use `policy: .kind: native"):
        transform(pictures(4), DRAWS)


@pytest.mark.parametrize(
    "build",
    [lambda: ColorJitter(brightness=-0.1), lambda: ColorJitter(hue=0.6), lambda: Grayscale(p=2.0)],
)
def test_bad_arguments_are_refused_in_three_parts(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*\.$"):
        build()
