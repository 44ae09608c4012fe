"""Views of anything: chains of transforms."""

import pickle
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mezzotint.augment.randomized_quantization.transform import RandomizedQuantization
from mezzotint.augment.transform import Params, Transform
from mezzotint.augment.views import CleanTarget, Transformed, ViewContext
from mezzotint.seeding import Draws
from mezzotint.types import Batch, Input

INPUT = Input((2, 20), (1.0, -1.0), (2.0, 4.0), "series")


class Shift(Transform):
    """Adds a random constant to each sample."""

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """One offset a sample."""
        return {"by": draws.uniform("by", *(1 for _ in shape[1:]))}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Add it."""
        return x + params["by"]


class Half(Transform):
    """Keeps the first half; its draws must see the shape that reaches it."""

    def draw(self, shape: Sequence[int], draws: Draws) -> Params:
        """The length that came."""
        return {"came": torch.full((shape[0],), shape[-1])}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """Cut."""
        assert bool((params["came"] == x.shape[-1]).all())
        return x[..., : x.shape[-1] // 2]

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Half as long."""
        return (*shape[:-1], shape[-1] // 2)


for cls in (Shift, Half):
    cls.config = {"kind": cls.__name__.lower()}


def batch(count: int = 4) -> Batch:
    x = torch.randn(count, 2, 20, generator=torch.Generator().manual_seed(0))
    return Batch((x,), torch.arange(count))


def test_views_are_normalized_chains_with_draws_of_their_own() -> None:
    made = Transformed(transforms=[Shift()])
    views = made(batch(), ViewContext(INPUT, 0, 0), step=0)
    assert views.tags == ("global", "global")
    drawn = made.draw(batch().ids, ViewContext(INPUT, 0, 0))
    mean, std = torch.tensor([1.0, -1.0]).view(2, 1), torch.tensor([2.0, 4.0]).view(2, 1)
    for view, params in zip(views.x, drawn, strict=True):
        torch.testing.assert_close(view, (batch().x[0] + params["0.shift"]["by"] - mean) / std)
    assert not torch.allclose(drawn[0]["0.shift"]["by"], drawn[1]["0.shift"]["by"])


def test_a_sample_looks_the_same_in_any_batch() -> None:
    made = Transformed(transforms=[Shift(), RandomizedQuantization(bins=4, p=0.5)])
    whole = made.render(batch(), ViewContext(INPUT, 3, 1))
    one = replace(batch(), x=(batch().x[0][2:3],), ids=torch.tensor([2]))
    for a, b in zip(whole, made.render(one, ViewContext(INPUT, 3, 1)), strict=True):
        torch.testing.assert_close(a[2:3], b)


def test_transforms_behind_one_that_resizes_draw_for_the_new_size() -> None:
    made = Transformed(transforms=[Half(), Half(), Shift()])
    assert made.render(batch(), ViewContext(INPUT, 0, 0))[0].shape == (4, 2, 5)


def test_second_view_may_have_a_chain_of_its_own() -> None:
    made = Transformed(transforms=[Half()], second=[Shift()])
    first, second = made.render(batch(), ViewContext(INPUT, 0, 0), normalized=False)
    torch.testing.assert_close(first, batch().x[0][..., :10])
    assert second.shape == (4, 2, 20)


def test_stored_bytes_become_shares() -> None:
    input = Input((1, 4, 6), (0.0,), (1.0,), "audio")
    stored = Batch((torch.full((2, 1, 4, 6), 51, dtype=torch.uint8),), torch.arange(2))
    made = Transformed(transforms=[Shift()])
    x = made.render(stored, ViewContext(input, 0, 0))[0]
    by = made.draw(stored.ids, ViewContext(input, 0, 0))[0]["0.shift"]["by"]
    torch.testing.assert_close(x, (0.2 + by).expand(2, 1, 4, 6))


def test_tokens_stay_whole_numbers() -> None:
    input = Input((5,), (), (), "tokens")
    x = torch.arange(10).view(2, 5)
    assert torch.equal(input.normalize(input.as_float(x)), x)


@pytest.mark.parametrize("count, second", [(0, None), (3, [Shift()])])
def test_impossible_numbers_of_views_are_refused(
    count: int, second: list[Transform] | None
) -> None:
    with pytest.raises(ValueError, match=rf"^`count` must be .*, got {count}. "):
        Transformed(transforms=[Shift()], second=second, count=count)


def test_crops_of_images_are_refused() -> None:
    with pytest.raises(
        ValueError, match="transformed does not crop images, .*Try `views.kind=two_views`"
    ):
        Transformed(transforms=[Shift()]).crop_samplers(torch.arange(2), ViewContext(INPUT, 0, 0))
    cropped = Batch((torch.zeros(2, 2, 20),) * 2, torch.arange(2), cropped=True)
    with pytest.raises(ValueError, match="takes one tensor of whole samples, got crops. Choose"):
        Transformed(transforms=[Shift()]).render(cropped, ViewContext(INPUT, 0, 0))


def test_a_strength_scales_the_transforms_of_every_view() -> None:
    made = Transformed(
        transforms=[Shift(), RandomizedQuantization(bins=4, p=0.5)], strength=0.5, count=3
    )
    assert [vars(chain[1])["p"] for chain in made.chains] == [0.25, 0.25, 0.25]
    assert all(type(chain[0]) is Shift for chain in made.chains), "it has one strength"


def test_a_clean_target_is_the_sample_that_evaluation_reads() -> None:
    views = CleanTarget(student=Transformed(transforms=[Shift()], count=2))
    made = views(batch(), ViewContext(INPUT, 0, 0), step=0)
    assert made.tags == ("global", "global") and len(made.target_x) == 1
    assert torch.equal(made.target_x[0], INPUT.prepare(batch().x[0]))
    shown = views.render(batch(), ViewContext(INPUT, 0, 0), normalized=False)
    assert torch.equal(shown[2], batch().x[0]) and shown[2] is not batch().x[0]
    plain = Transformed(transforms=[Shift()], count=2)(batch(), ViewContext(INPUT, 0, 0), step=0)
    assert all(torch.equal(a, b) for a, b in zip(made.x, plain.x, strict=True))
    with pytest.raises(ValueError, match="`views.student` must not have views of its own"):
        CleanTarget(student=views)


def test_views_that_repeat_are_known() -> None:
    assert not Transformed(transforms=[Shift()]).repeats(INPUT)
    assert Transformed(transforms=[Half()]).repeats(INPUT)
    assert CleanTarget(student=Transformed(transforms=[Shift()])).repeats(INPUT)


def test_the_crop_of_a_clean_target_is_the_largest_centered_square() -> None:
    from mezzotint.augment.image.views import OneView

    input = Input((3, 8, 8), (0.5,) * 3, (0.25,) * 3)
    views = CleanTarget(student=OneView())
    (sampler,) = views.crop_samplers(torch.tensor([5]), ViewContext(input, 0, 0))
    crops = sampler(20, 32)
    assert len(crops) == 2 and crops[1] == ((0, 6, 20, 20), 8, "bilinear")
    cropped = tuple(torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8) for _ in crops)
    made = views.render(Batch(cropped, torch.tensor([5]), cropped=True), ViewContext(input, 0, 0))
    assert torch.equal(made[1], input.prepare(cropped[1])) and len(made) == 2
    assert pickle.loads(pickle.dumps(sampler))(20, 32) == crops
