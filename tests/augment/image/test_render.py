"""Rendering of views against one sample at a time; chunks and shared crops change nothing."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from mezzotint.augment.image import render
from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.policies import byol, simclr
from mezzotint.augment.image.render import View, render_views, rows_of
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params
from mezzotint.seeding import Draws
from mezzotint.types import Input

INPUT = Input((3, 12, 12), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
VIEW = View("global", RandomResizedCrop(), 0.5, simclr(), RandomizedQuantization(bins=4))


def images(rows: int = 5) -> Tensor:
    return Draws(torch.arange(rows), 1).integers("x", 3, 20, 18, high=256).to(torch.uint8)


def drawn(view: View, key: int = 2, earlier: Sequence[dict[str, Params]] = ()) -> dict[str, Params]:
    return view.draw(INPUT, Draws(torch.arange(5), key), earlier)


def rendered(view: View, params: dict[str, Params], **keywords: bool) -> Tensor:
    options = {"cropped": False, "normalized": True, **keywords}
    (x,) = render_views([view], images(), [params], input=INPUT, **options)
    return x


def naive(view: View, params: dict[str, Params], *, normalized: bool) -> Tensor:
    """Crop, flip, policy, quantization and normalization, each for one sample."""
    boxes = view.crop.boxes(params["crop"], 20, 18)
    rows = []
    for row, image in enumerate(images()):
        x = view.crop.cut(image[None], boxes[row : row + 1], view.size(INPUT)).float() / 255.0
        for name, transform in view.steps.items():
            x = transform.apply(x, rows_of(params[name], slice(row, row + 1)))
        rows.append(INPUT.normalize(x) if normalized else x)
    return torch.cat(rows)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_view_is_the_naive_pipeline(normalized: bool) -> None:
    params = drawn(VIEW)
    expected = naive(VIEW, params, normalized=normalized)
    torch.testing.assert_close(
        rendered(VIEW, params, normalized=normalized), expected, atol=1e-5, rtol=1e-5
    )


def test_chunks_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    params = drawn(VIEW)
    whole = rendered(VIEW, params)
    monkeypatch.setattr(render, "_CACHED_VALUES", 2 * 3 * 12 * 12)
    assert torch.equal(rendered(VIEW, params), whole)
    monkeypatch.setattr(render, "_LARGE", 1)
    assert torch.equal(rendered(VIEW, params), whole)


def test_views_of_a_shared_crop_equal_views_alone() -> None:
    second = View("global", RandomResizedCrop(), 0.5, byol(), crop_of=0)
    params = [drawn(VIEW)]
    params.append(drawn(second, key=3, earlier=params))
    assert all(params[1][name] is params[0][name] for name in ("crop", "flip"))
    together = render_views(
        [VIEW, second], images(), params, input=INPUT, cropped=False, normalized=True
    )
    assert torch.equal(together[0], rendered(VIEW, params[0]))
    assert torch.equal(together[1], rendered(second, params[1]))


def test_cropped_images_are_not_cropped_again() -> None:
    params = drawn(VIEW)
    boxes = VIEW.crop.boxes(params["crop"], 20, 18)
    crops = VIEW.crop.cut(images(), boxes, (12, 12))
    (x,) = render_views([VIEW], crops, [params], input=INPUT, cropped=True, normalized=True)
    assert torch.equal(x, rendered(VIEW, params))


def test_the_size_is_the_crop_s_or_the_encoder_s() -> None:
    assert VIEW.size(INPUT) == (12, 12)
    local = View("local", RandomResizedCrop(size=7), 0.5, simclr())
    assert local.size(INPUT) == (7, 7)
    assert list(local.steps) == ["flip", "policy"]
    assert list(VIEW.steps) == ["flip", "policy", "randomized_quantization"]
