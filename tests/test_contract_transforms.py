"""The contract of every transform in the index: seeded, per sample, pure, picklable, refusing.

A new transform is tested without an edit here if its arguments have defaults. Otherwise add its
example arguments to `ARGUMENTS`.
"""

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.augment.transform import IMAGES, BatchLayout, Transform
from mezzotint.modality.tokens import PADDING
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws, key_of

ARGUMENTS: dict[str, dict[str, Any]] = {
    "axis_rotation": {"groups": 1},
    "chain": {"transforms": ["color_jitter", "solarize"]},
    "choice": {"policies": ["simclr", "identity"]},
    "compose": {"transforms": ["horizontal_flip", "grayscale"]},
    "gaussian_blur": {"kernel": 5},
    "image_and_text": {"image": ["grayscale"], "text": ["token_mask"]},
    "normalize": {"mean": [0.4], "std": [0.2]},
    "per_frame": {"transforms": ["horizontal_flip", "simclr"]},
    "random_clip": {"frames": 4, "stride": 2},
    "random_frames": {"frames": 10},
    "spec_augment": {"frequency": 4, "time": 6, "masks": 2},
}
"""Example arguments of transforms without defaults, or whose defaults need larger samples."""

OUT_OF_RANGE = {"normalize", "random_erasing"}
"""Transforms of images whose values may leave [0, 1]."""

SIZES = {"B": 6, "C": 3, "F": 16, "H": 12, "L": 10, "N": 32, "T": 24, "W": 14}
KINDS = sorted(index().members("Transform"))
ANY = BatchLayout("image", ("B", "C", "H", "W"))


def make(kind: str) -> Transform:
    arguments = ARGUMENTS.get(kind, {})
    keys = index().members("Transform")[kind].keys
    missing = [name for name, key in keys.items() if key.required and name not in arguments]
    assert not missing, f"Add example values of {missing} for {kind} to ARGUMENTS."
    transform = construct(resolve({"kind": kind, **arguments}, "Transform", "it"), "Transform", {})
    assert isinstance(transform, Transform)
    return transform


def layout_of(transform: Transform) -> BatchLayout:
    return transform.layouts[0] if transform.layouts else ANY


def batch(transform: Transform, rows: int = SIZES["B"], channels: int | None = None) -> Tensor:
    """A batch of the first layout that the transform takes; values are in [0, 1], tokens padded."""
    layout = layout_of(transform)
    if channels is None:
        channels = 1 if transform.config["kind"] == "normalize" else SIZES["C"]
    sizes = {**SIZES, "B": rows, "C": channels}
    shape = [sizes[size] if isinstance(size, str) else size for size in layout.shape]
    draws = Draws(torch.arange(rows), key_of("contract"))
    if layout.modality == "tokens":
        tokens = draws.integers("tokens", shape[1], low=2, high=40)
        lengths = draws.integers("length", high=shape[1]) + 1
        return tokens.masked_fill(torch.arange(shape[1]) >= lengths.unsqueeze(1), PADDING)
    x = draws.uniform("x", *shape[1:])
    if layout.modality == "image_text":
        x[:, 3] = draws.integers("tokens", *shape[2:], low=2, high=40).float()
    return x


def draws_of(rows: int = SIZES["B"], first: int = 0, key: int = 1) -> Draws:
    return Draws(torch.arange(first, first + rows), key_of("draws", key))


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_is_a_function_of_the_draws(kind: str) -> None:
    transform, again = make(kind), make(kind)
    x = batch(transform)
    before, state = x.clone(), torch.get_rng_state()
    view = transform(x, draws_of())
    assert torch.equal(view, transform(x, draws_of())) and torch.equal(view, again(x, draws_of()))
    assert torch.equal(x, before), "the input was modified in place"
    assert torch.equal(state, torch.get_rng_state()), "torch's own generator was used"


@pytest.mark.parametrize("kind", KINDS)
def test_shape_dtype_and_range_are_kept(kind: str) -> None:
    transform = make(kind)
    x = batch(transform)
    view = transform(x, draws_of())
    assert tuple(view.shape) == transform.output_shape(tuple(x.shape)) and view.dtype == x.dtype
    assert view.isfinite().all()
    if IMAGES in transform.layouts and kind not in OUT_OF_RANGE:
        assert view.min() >= -1e-6 and view.max() <= 1.0 + 1e-6, "add it to OUT_OF_RANGE?"


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_does_not_depend_on_its_batch(kind: str) -> None:
    transform = make(kind)
    x = batch(transform)
    whole, part = transform(x, draws_of()), transform(x[2:5], draws_of(3, first=2))
    if transform.mixes_samples:
        assert not torch.equal(whole[2:5], part)
    else:
        assert torch.equal(whole[2:5], part)


@pytest.mark.parametrize("rows", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_no_and_of_one_sample(kind: str, rows: int) -> None:
    transform = make(kind)
    x = batch(transform, rows)
    view = transform(x, draws_of(rows))
    assert tuple(view.shape) == transform.output_shape(tuple(x.shape)) and view.dtype == x.dtype


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_gray_and_color(kind: str, channels: int) -> None:
    transform = make(kind)
    layout = layout_of(transform)
    if layout.modality not in ("image", "video") or kind == "normalize":
        return  # other modalities have no colors; normalize has one mean per channel
    x = batch(transform, channels=channels)
    view = transform(x, draws_of())
    assert view.shape[1] == channels and view.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_one_row_per_sample_and_can_be_applied_again(kind: str) -> None:
    transform = make(kind)
    x = batch(transform)
    params = transform.draw(x.shape, draws_of())
    copies = {name: value.clone() for name, value in params.items()}
    view = transform.apply(x, params)
    assert all(len(value) == len(x) for value in params.values())
    assert all(torch.equal(value, copies[name]) for name, value in params.items())
    assert torch.equal(view, transform.apply(x, params))
    assert torch.equal(view, transform(x, draws_of()))
    if not transform.mixes_samples:
        rows = torch.tensor([4, 1])
        some = {name: value[rows] for name, value in params.items()}
        assert torch.equal(transform.apply(x[rows], some), view[rows])


@pytest.mark.parametrize("kind", KINDS)
def test_it_can_be_sent_to_a_worker(kind: str) -> None:
    transform = make(kind)
    x = batch(transform)
    sent = pickle.loads(pickle.dumps(transform))
    assert sent.config == transform.config
    assert torch.equal(sent(x, draws_of()), transform(x, draws_of()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_gives_the_same_transform(kind: str) -> None:
    transform = make(kind)
    resolved = resolve(transform.config, "Transform", "it")
    again = construct(resolved, "Transform", {})
    assert resolve(again.config, "Transform", "it") == resolved
    x = batch(transform)
    assert torch.equal(again(x, draws_of()), transform(x, draws_of()))


@pytest.mark.parametrize("kind", KINDS)
def test_other_layouts_are_refused_in_one_line(kind: str) -> None:
    transform = make(kind)
    if not transform.layouts:
        return  # it takes any batch
    assert transform.modalities == {layout.modality for layout in transform.layouts}
    wrong = torch.rand(2, *(3 for _ in range(6)))
    message = rf"^{transform.config['kind']} takes .*, got \[2, .*\]\. Choose transforms of the "
    with pytest.raises(ValueError, match=message) as caught:
        transform(wrong, draws_of(2))
    assert "\n" not in str(caught.value) and str(layout_of(transform)) in str(caught.value)


@pytest.mark.parametrize("kind", [k for k in KINDS if layout_of(make(k)).modality == "tokens"])
def test_floats_are_no_tokens(kind: str) -> None:
    with pytest.raises(ValueError, match=r"take integers \[B, L\], got torch.float32"):
        make(kind)(torch.rand(2, 5), draws_of(2))


@pytest.mark.parametrize("kind", [k for k in KINDS if layout_of(make(k)).modality == "table"])
def test_integers_are_no_table(kind: str) -> None:
    with pytest.raises(ValueError, match=r"take floats \[B, F\], got torch.int64"):
        make(kind)(torch.ones(2, 5, dtype=torch.int64), draws_of(2))


def change(transform: Transform, strength: float) -> float:
    """Mean difference of views at a strength from views at strength 0, with the same draws."""
    rows = 48
    x = batch(transform, rows)
    views = [transform.at_strength(s)(x, draws_of(rows)) for s in (0.0, strength)]
    return float((views[0].double() - views[1].double()).abs().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_transform_at_a_strength_keeps_its_name_and_at_one_its_views(kind: str) -> None:
    transform = make(kind)
    x = batch(transform)
    assert torch.equal(transform.at_strength(1.0)(x, draws_of()), transform(x, draws_of()))
    weak = transform.at_strength(0.5)
    assert weak.config == transform.config, "the names of draws depend on it"
    assert tuple(weak(x, draws_of()).shape) == transform.output_shape(tuple(x.shape))


@pytest.mark.parametrize("kind", [k for k in KINDS if make(k).has_strength])
def test_a_stronger_transform_changes_more(kind: str) -> None:
    weak, usual = change(make(kind), 0.02), change(make(kind), 1.0)
    assert 0.0 < usual and weak < 0.5 * usual
    assert all(change(make(kind), s) < float("inf") for s in (0.0, 2.0))
