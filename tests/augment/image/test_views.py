import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from mezzotint.augment.image import render as view_module
from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.multi_augment import MultiAugment
from mezzotint.augment.image.policies import (
    Chain,
    Policy,
    byol,
    identity,
    native,
    simclr,
    three_augment,
)
from mezzotint.augment.image.rand_augment import RandAugment
from mezzotint.augment.image.tone import Posterize
from mezzotint.augment.image.views import ImageViews, MultiCrop, OneView, TwoViews
from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.view_batch import view_batch
from mezzotint.seeding import key_of
from mezzotint.types import Batch, Input, Interpolation
from tests import ROOT

INPUT = Input((3, 24, 24), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def pictures(count: int = 12, channels: int = 3, height: int = 30, width: int = 40) -> Tensor:
    return torch.randint(
        0, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(0)
    ).byte()


def whole(count: int = 12, first: int = 0) -> Batch:
    return Batch((pictures(first + count)[first:],), torch.arange(first, first + count))


GENERATORS: list[ViewGenerator] = [
    TwoViews(),
    TwoViews(policy=byol(), second_policy=byol(blur_p=0.1, solarize_p=0.2), flip=0.2),
    TwoViews(policy=identity(), randomized_quantization=RandomizedQuantization(bins=8, p=0.5)),
    MultiCrop(local_crop=RandomResizedCrop(size=10, scale=(0.05, 0.2)), num_local=3),
    TwoViews(crop=RandomResizedCrop(interpolation="bicubic")),
    MultiCrop(
        crop=RandomResizedCrop(interpolation="bicubic"), local_crop=RandomResizedCrop(size=10)
    ),
]

GENERATOR_OF: dict[str, Callable[[RandomResizedCrop], ImageViews]] = {
    "two_views": lambda crop: TwoViews(crop=crop, policy=identity(), flip=0.0),
    "one_view": lambda crop: OneView(crop=crop, flip=0.0),
    "multi_crop": lambda crop: MultiCrop(local_crop=crop, policy=identity(), flip=0.0),
    "multi_augment": lambda crop: MultiAugment(
        policies=[simclr(), identity()], crop=crop, flip=0.0
    ),
}
"""Generators whose last view is this crop alone."""


@pytest.mark.parametrize("generator", GENERATORS)
def test_shapes_tags_and_normalization(generator: ViewGenerator) -> None:
    views = generator(whole(), ViewContext(INPUT, 1, 2), step=3)
    assert len(views.x) == len(views.tags) == generator.num_views
    assert views.tags[:2] == ("global", "global") and set(views.tags[2:]) <= {"local"}
    shown = generator.render(whole(), ViewContext(INPUT, 1, 2), normalized=False)
    for x, tag, plain in zip(views.x, views.tags, shown, strict=True):
        size = 24 if tag == "global" else 10
        assert x.shape == (12, 3, size, size) and x.dtype == torch.float32 and x.is_contiguous()
        assert 0 <= plain.min() and plain.max() <= 1
        torch.testing.assert_close(
            x, F.normalize(plain, list(INPUT.mean), list(INPUT.std)), atol=1e-5, rtol=0
        )


def test_a_view_is_crop_flip_policy_and_quantization_in_this_order() -> None:
    quantization = RandomizedQuantization(bins=5, p=0.7)
    generator = TwoViews(policy=simclr(), randomized_quantization=quantization)
    batch = whole()
    drawn = generator.draw(batch.ids, ViewContext(INPUT, 1, 2))
    shown = generator.render(batch, ViewContext(INPUT, 1, 2), normalized=False)
    for view, params, x in zip(generator.views, drawn, shown, strict=True):
        boxes = view.crop.boxes(params["crop"], 30, 40).tolist()
        crops = [
            F.resized_crop(image, *box, [24, 24])
            for image, box in zip(batch.x[0], boxes, strict=True)
        ]
        flips = params["flip"]["chosen"]
        crops = [
            F.horizontal_flip(crop) if flip else crop
            for crop, flip in zip(crops, flips, strict=True)
        ]
        expected = view.policy.apply(torch.stack(crops) / 255, params["policy"])
        expected = quantization.apply(expected, params["randomized_quantization"])
        torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("generator", GENERATORS)
def test_views_are_keyed_by_sample_epoch_seed_and_view(generator: ViewGenerator) -> None:
    def render(**changed: int) -> tuple[Tensor, ...]:
        return generator.render(whole(), ViewContext(INPUT, **({"seed": 1, "epoch": 2} | changed)))

    first = render()
    assert all(torch.equal(a, b) for a, b in zip(first, render(), strict=True))
    for other in (render(epoch=3), render(seed=2)):
        assert all((a != b).flatten(1).any(dim=1).all() for a, b in zip(first, other, strict=True))
    assert (first[0] != first[1]).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("generator", GENERATORS)
def test_a_sample_looks_the_same_in_any_batch(generator: ViewGenerator) -> None:
    together = generator.render(whole(), ViewContext(INPUT, 1, 2))
    for row in range(12):
        alone = generator.render(whole(1, first=row), ViewContext(INPUT, 1, 2))
        assert all(torch.equal(a[row : row + 1], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize("cached", [1, 24 * 24 * 3 * 5])
def test_views_do_not_depend_on_the_rows_made_at_a_time(
    monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    generator = GENERATORS[0]
    expected = generator.render(whole(), ViewContext(INPUT, 1, 2))
    monkeypatch.setattr(view_module, "_CACHED_VALUES", cached)
    monkeypatch.setattr(view_module, "_LARGE", cached)
    found = generator.render(whole(), ViewContext(INPUT, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("generator", GENERATORS)
def test_workers_cut_the_boxes_of_the_device(generator: ViewGenerator) -> None:
    batch = whole()
    crop_samplers = generator.crop_samplers(batch.ids, ViewContext(INPUT, 1, 2))
    rows = []
    for image, choose in zip(batch.x[0], crop_samplers, strict=True):
        chosen = pickle.loads(pickle.dumps(choose))(30, 40)
        rows.append(
            [
                F.resized_crop(
                    image, *box, [size, size], interpolation=F.InterpolationMode(filter_)
                )
                for box, size, filter_ in chosen
            ]
        )
    cropped = Batch(
        tuple(torch.stack(crops) for crops in zip(*rows, strict=True)), batch.ids, cropped=True
    )
    expected = generator.render(batch, ViewContext(INPUT, 1, 2))
    found = generator.render(cropped, ViewContext(INPUT, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("name", ["two_views", "one_view", "multi_crop", "multi_augment"])
@pytest.mark.parametrize("road", ["memory", "png", "jpeg"])
def test_the_filter_reaches_the_pixels_on_every_road(name: str, road: str, tmp_path: Path) -> None:
    """In memory and cut while a file is decoded: equal to torchvision's antialiased filters."""
    image = pictures(1, height=60, width=70)[0]
    path = tmp_path / f"a.{'jpg' if road == 'jpeg' else 'png'}"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    stored = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).contiguous()
    ids = torch.zeros(1, dtype=torch.int64)

    def view(interpolation: Interpolation) -> tuple[Tensor, list[int]]:
        views = GENERATOR_OF[name](
            RandomResizedCrop(size=40, scale=(0.8, 0.9), interpolation=interpolation)
        )
        context = ViewContext(INPUT, 4, 2)
        batch = Batch((stored[None],), ids)
        if road != "memory":
            source = ImageFolder(root=str(tmp_path), size=24)
            batch, _ = view_batch(source, views, ids, input=INPUT, seed=4, epoch=2)
        shown = views.render(batch, context, normalized=False)[-1]
        box = views.views[-1].crop.boxes(views.draw(ids, context)[-1]["crop"], 60, 70)
        return shown[0] * 255.0, box[0].tolist()

    filters: tuple[Interpolation, ...] = ("bilinear", "bicubic")
    found = {}
    for interpolation in filters:
        found[interpolation], box = view(interpolation)
        mode = F.InterpolationMode(interpolation)
        expected = F.resized_crop(stored, *box, [40, 40], interpolation=mode).float()
        assert (found[interpolation] - expected).abs().max() < 1.01
        rough = F.resized_crop(stored, *box, [40, 40], interpolation=mode, antialias=False).float()
        # Antialiased, as documented.
        assert (found[interpolation] - rough).abs().mean() > 3.0
    assert (found["bilinear"] - found["bicubic"]).abs().mean() > 2.0


def test_the_methods_draws_are_keyed_by_the_step() -> None:
    views = [TwoViews()(whole(), ViewContext(INPUT, 1, 2), step=step) for step in (7, 7, 8)]
    assert views[0].draws.key == key_of(1, 7, "method")
    assert torch.equal(views[0].draws.ids, torch.arange(12))
    assert torch.equal(views[0].draws.bits("codes", 4), views[1].draws.bits("codes", 4))
    assert not torch.equal(views[0].draws.bits("codes", 4), views[2].draws.bits("codes", 4))


def test_shares_of_the_samples() -> None:
    ids = torch.arange(20_000)
    (params, _) = TwoViews(policy=simclr(), flip=0.3).draw(ids, ViewContext(INPUT, 0, 0))
    policy = params["policy"]
    shares = {
        name: policy[name].float().mean().item() for name in policy if name.endswith("chosen")
    }
    assert params["flip"]["chosen"].float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert list(shares.values()) == pytest.approx([0.8, 0.2, 0.5, 0.0], abs=0.015)


def test_the_second_view_may_have_parts_of_its_own() -> None:
    first, second = RandomizedQuantization(bins=4), RandomizedQuantization(bins=8, p=0.0)
    views = TwoViews(policy=byol(), randomized_quantization=first).views
    assert views[0].policy is views[1].policy and views[1].randomized_quantization is first
    other = byol(blur_p=0.1, solarize_p=0.2)
    views = TwoViews(
        second_policy=other, randomized_quantization=first, second_randomized_quantization=second
    ).views
    assert views[1].policy is other and views[1].randomized_quantization is second


@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 16, 40)])
def test_gray_images_and_oblong_views(shape: tuple[int, int, int]) -> None:
    input = Input(shape, (0.5,) * shape[0], (0.25,) * shape[0])
    batch = Batch((pictures(channels=shape[0]),), torch.arange(12))
    views = TwoViews()(batch, ViewContext(input, 0, 0), step=0)
    assert all(x.shape == (12, *shape) and x.isfinite().all() for x in views.x)


def test_no_samples() -> None:
    views = TwoViews()(Batch((pictures()[:0],), torch.arange(0)), ViewContext(INPUT, 0, 0), step=0)
    assert [tuple(x.shape) for x in views.x] == [(0, 3, 24, 24)] * 2


def test_quantization_is_drawn_for_each_branch() -> None:
    """The README's third usage: q1, q2, k1, k2 of two crops, each quantized on its own."""
    quantization = RandomizedQuantization(bins=2)
    views = TwoViews(policy=byol(), randomized_quantization=quantization, per_branch=True)
    context = ViewContext(INPUT, 1, 2)
    drawn = views.draw(torch.arange(4), context)
    for own, key in ((0, 2), (1, 3)):
        for step in ("crop", "flip", "policy"):
            pairs = zip(_leaves(drawn[own][step]), _leaves(drawn[key][step]), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    edges = [d["randomized_quantization"]["edges"] for d in drawn]
    assert all(not torch.equal(edges[i], edges[j]) for i in range(4) for j in range(i))
    # Without the quantization both branches would see the same picture.
    plain = TwoViews(policy=byol())(whole(), context, step=0)
    made = views(whole(), context, step=0)
    assert len(made.x) == len(made.target_x) == 2 and made.tags == ("global", "global")
    for online, target, raw in zip(made.x, made.target_x, plain.x, strict=True):
        assert not torch.equal(online, target)
        for row in range(len(raw)):  # as many levels as bins, at the same places' order
            assert torch.unique(online[row, 0]).numel() <= 2 >= torch.unique(target[row, 0]).numel()
            top = raw[row, 0] == raw[row, 0].max()
            assert (target[row, 0][top] == target[row, 0].max()).all()
    assert made.for_targets().x is made.target_x and plain.for_targets() is plain
    with pytest.raises(
        ValueError, match="`views.per_branch` needs `views.randomized_quantization`"
    ):
        TwoViews(per_branch=True)


def _leaves(params: Any) -> list[torch.Tensor]:
    if isinstance(params, dict):
        return [leaf for value in params.values() for leaf in _leaves(value)]
    return [params]


def test_configs() -> None:
    generator = TwoViews(crop=RandomResizedCrop(scale=(0.3, 1.0)), flip=0.4)
    assert generator.config == {
        "kind": "two_views",
        "crop": {"kind": "random_resized_crop", "scale": [0.3, 1.0]},
        "flip": 0.4,
    }
    assert MultiCrop(num_local=2).config == {"kind": "multi_crop", "num_local": 2}


def test_the_documented_snippet_draws_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "views.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    with Image.open(tmp_path / "views.png") as picture:
        assert picture.size == (18 * 34 + 2, 9 * 34 + 2)


@pytest.mark.gpu
def test_views_on_cuda_equal_those_on_the_cpu() -> None:
    batch, input = whole(), INPUT
    there = TwoViews(policy=byol(), second_policy=byol(blur_p=0.5, solarize_p=0.0))
    shown = [
        there.render(batch, ViewContext(input, 1, 2), device=torch.device(device), normalized=False)
        for device in ("cpu", "cuda")
    ]
    for cpu, cuda in zip(*shown, strict=True):
        # Crops may differ by two of 255 levels, which jitter stretches; all but a few pixels stay
        # within that.
        assert ((cpu - cuda.cpu()).abs() > 4 / 255).float().mean() < 0.01


def render(batch: Batch) -> object:
    return TwoViews().render(batch, ViewContext(INPUT, 0, 0))


def choose(shape: tuple[int, int, int]) -> object:
    return TwoViews().crop_samplers(
        torch.arange(2), ViewContext(Input(shape, INPUT.mean, INPUT.std), 0, 0)
    )


@pytest.mark.parametrize(
    ("error", "run"),
    [
        (ValueError, lambda: MultiCrop(num_global=0)),
        (ValueError, lambda: MultiCrop(num_global=1, num_local=0)),
        (
            TypeError,
            lambda: render(Batch((torch.zeros(2, 3, 8, 8, dtype=torch.int64),), torch.arange(2))),
        ),
        (ValueError, lambda: render(Batch((pictures(2),), torch.arange(2), cropped=True))),
        (ValueError, lambda: render(Batch((pictures(2, 1),), torch.arange(2)))),
        (ValueError, lambda: choose((3, 8, 9))),
    ],
)
def test_errors_have_three_parts(error: type[Exception], run: Callable[[], object]) -> None:
    with pytest.raises(error, match=r"^[`A-Z].* got .*\. [A-Z].*\.$"):
        run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_between_0_and_1_give_the_views_of_their_bytes(dtype: torch.dtype) -> None:
    x = torch.randint(256, (4, 3, 40, 40), dtype=torch.uint8)
    context = ViewContext(Input((3, 32, 32), (0.5,) * 3, (0.25,) * 3), 0, 0)
    ids, generator = torch.arange(4), TwoViews(policy=identity())
    floats = (x.float() / 255.0).to(dtype)
    kept = floats.clone()
    found = generator.render(Batch((floats,), ids), context, normalized=False)
    expected = generator.render(Batch((x,), ids), context, normalized=False)
    for a, b in zip(found, expected, strict=True):
        # Bytes are rounded after the crop is resized, floats are not.
        assert a.dtype == torch.float32 and float((a - b).abs().max()) < 1.5 / 255
    assert torch.equal(floats, kept)


def test_images_of_other_types_or_ranges_are_refused() -> None:
    context = ViewContext(Input((3, 8, 8), (0.5,) * 3, (0.25,) * 3), 0, 0)
    x = torch.rand(2, 3, 8, 8)
    for bad, error, message in (
        (x * 255.0, ValueError, r"must be in \[0, 1\], got values from .* Divide by 255"),
        (x - 0.5, ValueError, r"must be in \[0, 1\]"),
        (x * torch.nan, ValueError, r"must be in \[0, 1\]"),
        ((x * 9).long(), TypeError, "must be torch.uint8 or floats in .* got torch.int64"),
    ):
        with pytest.raises(error, match=message):
            TwoViews().render(Batch((bad,), torch.arange(2)), context)


def test_a_strength_scales_crop_flip_policy_and_quantization_of_both_views() -> None:
    made = TwoViews(
        policy=simclr(strength=0.5), randomized_quantization=RandomizedQuantization(bins=8, p=0.8),
        strength=0.5,
    )  # fmt: skip
    for view in made.views:
        assert view.crop.scale == (0.6, 1.0) and view.flip == 0.25
        jitter, gray, blur, _ = view.policy.transforms
        assert vars(jitter)["strengths"] == {
            "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05,
        }  # fmt: skip
        assert (vars(gray)["p"], vars(blur)["p"]) == (0.1, 0.25)
        assert view.randomized_quantization is not None and view.randomized_quantization.p == 0.4
    assert made.config["strength"] == 0.5


def test_a_strength_of_one_gives_the_views_of_a_recipe_without_it() -> None:
    context = ViewContext(INPUT, 0, 0)
    for a, b in zip(
        TwoViews().render(whole(), context), TwoViews(strength=1.0).render(whole(), context),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(a, b)


@pytest.mark.parametrize("strength", [2.5, -1.0])
def test_strengths_that_views_cannot_have_are_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=f"^`views.strength` must be 0 to 2, got {strength}"):
        TwoViews(strength=strength)


@pytest.mark.parametrize("policy", [simclr(), three_augment(), RandAugment()])
def test_colors_of_other_channels_are_refused_with_the_alternative(policy: Policy) -> None:
    five = Input((5, 16, 16), (0.5,) * 5, (0.5,) * 5)
    views = TwoViews(policy=identity(), second_policy=policy)
    with pytest.raises(ValueError, match=r"got 5 channels. Use `policy: \{kind: native\}`"):
        views.check(five)
    TwoViews(policy=native()).check(five)
    views.check(Input((1, 16, 16), (0.5,), (0.5,)))


def test_steps_of_256_levels_are_refused_for_more_bits() -> None:
    deep = Input((3, 16, 16), (0.5,) * 3, (0.5,) * 3, dtype="uint16", bits=16)
    with pytest.raises(ValueError, match="`rand_augment` rounds images to 256 levels, and these"):
        TwoViews(policy=RandAugment()).check(deep)
    with pytest.raises(ValueError, match="`posterize` rounds .* are uint16. Use `policy: .kind: n"):
        TwoViews(policy=Chain(transforms=[Chain(transforms=[Posterize()])])).check(deep)
    TwoViews(policy=simclr()).check(deep)
    TwoViews(policy=RandAugment()).check(replace(deep, dtype="uint8", bits=8))
