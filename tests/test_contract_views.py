"""The contract of every view generator in the index: number, tags, seeds, batches, recipes.

A new view generator is tested without an edit here if its arguments have defaults. Otherwise add
its example arguments to `ARGUMENTS`.
"""

import dataclasses
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws, key_of
from mezzotint.types import Batch, Input

ARGUMENTS: dict[str, dict[str, Any]] = {
    # Without its memory of earlier batches and the statistics of its batch.
    "clean_target": {"student": {"kind": "transformed", "transforms": ["randomized_quantization"]}},
    "byol_a": {"mixup": 0.0, "batch_normalize": False, "frames": 12},
    "multi_augment": {"policies": ["simclr", "rand_augment"], "num_local": 1,
                      "local_crop": {"size": 8}},
    "multi_crop": {"local_crop": {"size": 8}, "num_local": 2},
    "transformed": {"transforms": ["randomized_quantization"]},
}  # fmt: skip
"""Example arguments of generators without defaults, or whose defaults need larger samples."""

KINDS = sorted(index().members("ViewGenerator"))
ROWS = 6


def make(kind: str) -> ViewGenerator:
    arguments = ARGUMENTS.get(kind, {})
    keys = index().members("ViewGenerator")[kind].keys
    missing = [name for name, key in keys.items() if key.required and name not in arguments]
    assert not missing, f"Add example values of {missing} for {kind} to ARGUMENTS."
    config = resolve({"kind": kind, **arguments}, "ViewGenerator", "views")
    views = construct(config, "ViewGenerator", {})
    assert isinstance(views, ViewGenerator)
    return views


def input_of(views: ViewGenerator, channels: int = 3) -> Input:
    """An input of a modality that the generator takes."""
    modality = min(views.modalities, default="series")
    if modality == "image":
        return Input((channels, 16, 16), (0.4,) * channels, (0.3,) * channels)
    if modality == "audio":
        return Input((1, 16, 20), (0.4,), (0.3,), "audio")
    assert modality == "series", f"add an example input of {modality}"
    return Input((3, 20), (0.4,) * 3, (0.3,) * 3, "series")


def stored(input: Input, ids: Tensor) -> Batch:
    """Stored samples, each a function of its id."""
    x = Draws(ids, key_of("views")).integers("x", *input.shape, high=256)
    stored = x.to(torch.uint8) if input.modality == "image" else x.float() / 255.0
    return Batch((stored,), ids, labels=ids % 3)


def context(input: Input, seed: int = 3, epoch: int = 1) -> ViewContext:
    return ViewContext(input, seed, epoch)


@pytest.mark.parametrize("kind", KINDS)
def test_one_tensor_and_tag_per_view(kind: str) -> None:
    views, ids = make(kind), torch.arange(ROWS)
    input = input_of(views)
    batch = stored(input, ids)
    before = batch.x[0].clone()
    made = views(batch, context(input), step=7, progress=0.5)
    assert len((*made.x, *made.target_x)) == len(views.tags) == views.num_views >= 1
    assert made.tags == views.tags[: len(made.x)] and len(made.target_x) == views.num_target_views
    assert all(isinstance(tag, str) and tag for tag in views.tags)
    for x in made.x:
        assert len(x) == ROWS and x.dtype == torch.float32 and x.isfinite().all()
        assert x.shape[1] == input.shape[0]
    assert torch.equal(batch.x[0], before), "the batch was modified in place"
    assert made.labels is not None and torch.equal(made.labels, ids % 3)
    assert torch.equal(made.draws.ids, ids)
    assert made.epoch == 1 and made.progress == 0.5
    if made.pairs:
        assert {i for pair in made.pairs for i in pair} <= set(range(views.num_views))
        assert made.weights is not None and len(made.weights) == len(made.pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_views_are_keyed_by_seed_epoch_and_id(kind: str) -> None:
    input, ids = input_of(make(kind)), torch.arange(ROWS)

    def render(seed: int = 3, epoch: int = 1, first: int = 0) -> tuple[Tensor, ...]:
        samples = stored(input, ids)
        batch = dataclasses.replace(samples, ids=ids + first)
        return make(kind).render(batch, context(input, seed, epoch))

    state = torch.get_rng_state()
    original = render()
    assert all(torch.equal(a, b) for a, b in zip(original, render(), strict=True))
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator was used"
    for other in (render(seed=4), render(epoch=2), render(first=100)):
        assert any(not torch.equal(a, b) for a, b in zip(original, other, strict=True))
    if len(original) > 1 and original[0].shape == original[1].shape:
        assert not torch.equal(original[0], original[1])


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_give_the_views_of_the_whole_batch(kind: str) -> None:
    input = input_of(make(kind))
    batch = stored(input, torch.arange(ROWS))
    whole = make(kind).render(batch, context(input))
    parts = [make(kind).render(part, context(input)) for part in batch.split(3)]
    for index_, view in enumerate(whole):
        assert torch.equal(view, torch.cat([part[index_] for part in parts]))
    one = make(kind).render(stored(input, torch.tensor([4])), context(input))
    assert all(torch.equal(a[4:5], b) for a, b in zip(whole, one, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_no_samples(kind: str) -> None:
    views = make(kind)
    input = input_of(views)
    made = views(stored(input, torch.arange(0)), context(input), step=0)
    assert len((*made.x, *made.target_x)) == views.num_views
    assert all(len(x) == 0 for x in (*made.x, *made.target_x))


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_parameters_have_one_row_per_sample(kind: str) -> None:
    views, ids = make(kind), torch.arange(ROWS)
    input = input_of(views)
    drawn = views.draw(ids, context(input))
    assert len(drawn) == views.num_views
    for steps in drawn:
        for params in steps.values():
            assert all(len(value) == ROWS for value in params.values())
    again = views.draw(ids[2:4], context(input))
    for steps, some in zip(drawn, again, strict=True):
        for name, params in steps.items():
            assert all(torch.equal(v[2:4], some[name][key]) for key, v in params.items())


@pytest.mark.parametrize("kind", KINDS)
def test_shown_views_are_the_normalized_ones_before_normalization(kind: str) -> None:
    input = input_of(make(kind))
    batch = stored(input, torch.arange(ROWS))
    for x, shown in zip(
        make(kind).render(batch, context(input)),
        make(kind).render(batch, context(input), normalized=False),
        strict=True,
    ):
        torch.testing.assert_close(input.normalize(shown), x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_gives_the_same_views_and_a_worker_too(kind: str) -> None:
    views = make(kind)
    input = input_of(views)
    batch = stored(input, torch.arange(ROWS))
    resolved = resolve(views.config, "ViewGenerator", "views")
    again = construct(resolved, "ViewGenerator", {})
    assert resolve(again.config, "ViewGenerator", "views") == resolved
    sent = pickle.loads(pickle.dumps(views))
    expected = make(kind).render(batch, context(input))
    for other in (again, sent):
        rendered = other.render(batch, context(input))
        assert all(torch.equal(a, b) for a, b in zip(expected, rendered, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gray_and_color(kind: str, channels: int) -> None:
    views = make(kind)
    input = input_of(views, channels)
    if input.modality == "image":
        made = views.render(stored(input, torch.arange(ROWS)), context(input))
        assert all(x.shape[1] == channels and x.isfinite().all() for x in made)


@pytest.mark.parametrize("kind", KINDS)
def test_crop_samplers_give_boxes_or_refuse(kind: str) -> None:
    views, ids = make(kind), torch.arange(ROWS)
    input = input_of(views)
    if "image" not in views.modalities:
        with pytest.raises(
            ValueError, match=r"does not crop images, .* Try `views.kind=two_views`"
        ):
            views.crop_samplers(ids, context(input))
        return
    samplers = pickle.loads(pickle.dumps(views.crop_samplers(ids, context(input))))
    assert len(samplers) == ROWS
    for sampler in samplers:
        for (top, left, height, width), size, _ in sampler(40, 30):
            assert 0 <= top <= 40 - height and 0 <= left <= 30 - width
            assert height >= 1 and width >= 1 and size >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_other_crops_is_refused_in_one_line(kind: str) -> None:
    views = make(kind)
    input = input_of(views)
    batch = stored(input, torch.arange(ROWS))
    wrong = dataclasses.replace(batch, x=batch.x * 17, cropped=True)
    with pytest.raises(ValueError, match=r"\. [A-Z].*\.$") as caught:
        views.render(wrong, context(input))
    assert "got" in str(caught.value) and "\n" not in str(caught.value)
