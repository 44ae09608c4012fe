"""RandAugment and TrivialAugment: draws of torchvision; all random policies: batches, refusals."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from mezzotint.augment.image.aug_mix import AugMix
from mezzotint.augment.image.auto_augment import (
    FAST_AUTO_AUGMENT,
    AutoAugment,
    FastAutoAugment,
)
from mezzotint.augment.image.geometry import HorizontalFlip
from mezzotint.augment.image.operations import IDENTITY, NAMES
from mezzotint.augment.image.policies import Chain, Choice, Policy, identity, simclr, three_augment
from mezzotint.augment.image.rand_augment import (
    RAND_AUGMENT,
    TRIVIAL_AUGMENT,
    RandAugment,
    Range,
    TrivialAugment,
    describe,
)
from mezzotint.recipe.schema import RecipeError, resolve
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws
from tests.augment.image.reference import MANY, SHAPE, assert_same, drawn, theirs


@pytest.mark.parametrize(("magnitude", "bins"), [(9, 31), (0, 31), (30, 31), (5, 11)])
def test_rand_augment_draws_what_torchvision_draws(magnitude: int, bins: int) -> None:
    expected = theirs(v2.RandAugment._AUGMENTATION_SPACE, bins, [magnitude])
    ours = drawn(RandAugment(magnitude=magnitude, bins=bins))
    assert_same(
        {k: {abs(m) for m in v} for k, v in ours.items()},
        {k: {abs(m) for m in v} for k, v in expected.items()},
    )
    if magnitude:
        assert min(ours["rotate"]) < 0 < max(ours["rotate"])


def test_rand_augment_draws_uniformly() -> None:
    op, _ = RandAugment(num_ops=3).operations(SHAPE, MANY)
    counts = torch.bincount(op.flatten()).float()
    counts = counts[counts > 0] * 14 / op.numel()
    assert len(counts) == 14 and 0.95 < counts.min() and counts.max() < 1.05


def test_trivial_augment_draws_what_torchvision_draws() -> None:
    expected = theirs(v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31, list(range(31)))
    assert_same(drawn(TrivialAugment()), expected)


def test_three_augment_is_one_of_three_and_a_jitter() -> None:
    policy = three_augment()
    params = policy.draw((6000, 3, 24, 24), Draws(torch.arange(6000), 1))
    choice = next(value for key, value in params.items() if key.endswith("choice.policy"))
    assert torch.bincount(choice).float().div(2000).sub(1).abs().max() < 0.05
    assert (
        policy.transforms[1].config["hue"] == 0.0 and policy.transforms[1].config["contrast"] == 0.3
    )


ALL: list[Policy] = [
    RandAugment(), RandAugment(extended=True, num_ops=3), AutoAugment(),
    AutoAugment(policy="svhn", fill=128),
    TrivialAugment(interpolation="bilinear"), AugMix(), AugMix(depth=2, width=1), three_augment(),
    FastAutoAugment(),
    Choice(policies=[simclr(), RandAugment(), identity()]),
    Policy(transforms=[RandAugment(), simclr()]),
    Chain(transforms=[RandAugment(), HorizontalFlip()]),
]  # fmt: skip


@pytest.mark.parametrize("policy", ALL, ids=lambda p: p.config["kind"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_sample_does_not_depend_on_its_company(policy: Policy, channels: int) -> None:
    x = torch.rand(24, channels, 40, 36, generator=torch.Generator().manual_seed(0))
    before, key = x.clone(), 7
    whole = policy(x, Draws(torch.arange(24), key))
    assert (
        torch.equal(x, before) and whole.shape == x.shape and 0 <= whole.min() and whole.max() <= 1
    )
    part = policy(x[5:9], Draws(torch.arange(5, 9), key))
    assert torch.equal(whole[5:9], part)
    assert policy(x[:0], Draws(torch.arange(0), key)).shape == (0, channels, 40, 36)


def test_a_choice_applies_what_each_sample_drew() -> None:
    either = Choice(policies=[identity(), Policy(transforms=[RandAugment(names=["invert"])])])
    x = torch.rand(32, 3, 8, 8)
    params = either.draw(x.shape, Draws(torch.arange(32), 2))
    changed = (either.apply(x, params) != x).flatten(1).any(dim=1)
    assert torch.equal(changed, params["policy"] == 1) and 0 < changed.sum() < 32


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandAugment(magnitude=31), lambda: RandAugment(num_ops=0),
        lambda: RandAugment(names=["rotat"]),
        lambda: RandAugment(names=[]), lambda: RandAugment(names=["rotate"], extended=True),
        lambda: RandAugment(std=-1.0), lambda: RandAugment(p=0.0),
        lambda: RandAugment(fill=256), lambda: TrivialAugment(bins=1), lambda: AugMix(severity=11),
        lambda: AugMix(width=0), lambda: FastAutoAugment(file="nowhere.yaml"),
        lambda: Choice(policies=[]),
        lambda: RandAugment().apply(torch.rand(1, 4, 8, 8), {}),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_in_three_parts(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
        build()


def test_magnitudes_vary_and_operations_are_left_out_as_often_as_asked() -> None:
    plain = RandAugment(names=["rotate"], magnitude=9, bins=11)
    _, sure = plain.operations(SHAPE, MANY)
    assert sure.abs().aminmax() == pytest.approx((27.0, 27.0))
    op, magnitude = RandAugment(names=["rotate"], magnitude=9, bins=11, std=0.5, p=0.5).operations(
        SHAPE, MANY
    )
    degrees = magnitude.abs()
    assert float((op == IDENTITY).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (
        float(degrees.max()) == 30.0
    )  # no further than the last bin, which 2.3 % of the draws pass
    assert float((degrees == 30.0).float().mean()) == pytest.approx(0.023, abs=0.01)
    assert float(degrees.median()) == pytest.approx(27.0, abs=0.1)
    assert float((degrees - 27.0).std()) == pytest.approx(1.5, abs=0.1)


def test_an_unknown_policy_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'rand_augment'"):
        resolve({"kind": "randaugment"}, "Policy", "views.policy")
    assert resolve({"kind": "rand_augment"}, "Policy", "views.policy")["bins"] == 31


def test_spaces_name_operations() -> None:
    assert set(RAND_AUGMENT) | set(FAST_AUTO_AUGMENT) == set(NAMES)


@pytest.mark.parametrize(
    ("kind", "space"), [("rand_augment", RAND_AUGMENT), ("trivial_augment", TRIVIAL_AUGMENT)]
)
def test_the_key_of_operations_lists_them(kind: str, space: dict[str, Range]) -> None:
    key = index().members("RandomPolicy")[kind].keys["names"]
    assert set(re.findall(r"[a-z_]+", key.doc.partition(": ")[2])) >= set(space)


def test_what_was_drawn_is_said_in_words() -> None:
    params: dict[str, Tensor] = {
        "op": torch.tensor([[NAMES.index("shear_x"), IDENTITY, NAMES.index("invert")]]),
        "magnitude": torch.tensor([[0.09, 0.0, 0.0]]),
    }
    assert describe(params, 0) == [("shear x", "0.09"), ("invert", "")]
