import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from mezzotint.augment.image.aug_mix import AugMix
from mezzotint.augment.image.auto_augment import (
    FAST_AUTO_AUGMENT,
    AutoAugment,
    FastAutoAugment,
    Published,
    SubPolicies,
    read_sub_policies,
    write_sub_policies,
)
from mezzotint.augment.image.geometry import HorizontalFlip
from mezzotint.augment.image.operations import IDENTITY, NAMES
from mezzotint.augment.image.policies import Chain, Choice, Policy, identity, simclr, three_augment
from mezzotint.augment.image.rand_augment import (
    RAND_AUGMENT,
    RandAugment,
    RandomPolicy,
    TrivialAugment,
    describe,
)
from mezzotint.augment.views import ViewContext
from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError, resolve
from mezzotint.seeding import Draws
from mezzotint.types import Input

MANY = Draws(torch.arange(20_000), 5)
SHAPE = (20_000, 3, 64, 96)


def snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def drawn(policy: RandomPolicy) -> dict[str, set[float]]:
    """The magnitudes that each operation is drawn with."""
    op, magnitude = policy.operations(SHAPE, MANY)
    found: dict[str, set[float]] = {}
    for number in sorted(set(op.flatten().tolist())):
        found[NAMES[number]] = set(magnitude[op == number].tolist())
    return found


def theirs(space: dict[str, Any], bins: int, chosen: list[int]) -> dict[str, set[float]]:
    """What torchvision's space says for the same image size."""
    found: dict[str, set[float]] = {}
    for name, (values, signed) in space.items():
        magnitudes = values(bins, *SHAPE[2:])
        sizes = {0.0} if magnitudes is None else {float(magnitudes[i]) for i in chosen}
        found[snake(name)] = sizes | {-size for size in sizes} if signed else sizes
    return found


def assert_same(ours: dict[str, set[float]], expected: dict[str, set[float]]) -> None:
    assert ours.keys() == expected.keys()
    for name, values in expected.items():
        assert sorted(ours[name]) == pytest.approx(sorted(values), abs=2e-5), name


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


def test_aug_mix_draws_what_torchvision_draws() -> None:
    expected = theirs(v2.AugMix._AUGMENTATION_SPACE, 10, [0, 1, 2])
    assert_same({k: v for k, v in drawn(AugMix()).items() if k != "identity"}, expected)


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_auto_augment_has_the_published_policy(name: Published) -> None:
    policy = AutoAugment(policy=name)
    table = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
    assert [[(s.name, s.p) for s in steps] for steps in policy.policies.steps] == [
        [(snake(op), p) for op, p, _ in steps] for steps in table
    ]
    space = v2.AutoAugment._AUGMENTATION_SPACE
    expected: dict[str, set[float]] = {}
    for op, _, place in (step for steps in table for step in steps if step[1] > 0):
        magnitudes = space[op][0](10, *SHAPE[2:])
        size = 0.0 if magnitudes is None else float(magnitudes[place])
        expected.setdefault(snake(op), set()).update({size, -size} if space[op][1] else {size})
    ours = {k: v for k, v in drawn(policy).items() if k != "identity"}
    assert_same(ours, expected)
    op, _ = policy.operations(SHAPE, MANY)
    applied = sum(p for steps in table for _, p, _ in steps) / (2 * len(table))
    assert (op != IDENTITY).float().mean() == pytest.approx(applied, abs=0.01)


def test_aug_mix_mixes_chains_with_the_image() -> None:
    mix, x = (
        AugMix(severity=10),
        torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(0)),
    )
    draws = Draws(torch.arange(16), 3)
    params = mix.draw(x.shape, draws)
    torch.testing.assert_close(params["weights"].sum(dim=1), torch.ones(16))
    y = mix.apply(x, params)
    one_chain = RandAugment(num_ops=3, interpolation="bilinear")
    expected = (x * 255.999).floor() * params["weights"][:, :1, None, None]
    for chain in range(3):
        part = {
            name: params[name][:, 3 * chain : 3 * chain + 3]
            for name in ("op", "magnitude", "center")
        }
        expected = (
            expected
            + (one_chain.apply(x, part) * 255).round()
            * params["weights"][:, chain + 1, None, None, None]
        )
    torch.testing.assert_close(y * 255, expected.floor(), atol=1.001, rtol=0)


def test_three_augment_is_one_of_three_and_a_jitter() -> None:
    policy = three_augment()
    params = policy.draw((6000, 3, 24, 24), Draws(torch.arange(6000), 1))
    choice = next(value for key, value in params.items() if key.endswith("choice.policy"))
    assert torch.bincount(choice).float().div(2000).sub(1).abs().max() < 0.05
    assert (
        policy.transforms[1].config["hue"] == 0.0 and policy.transforms[1].config["contrast"] == 0.3
    )


ALL: list[Policy] = [
    RandAugment(), RandAugment(extended=True, num_ops=3), AutoAugment(), AutoAugment(policy="svhn", fill=128),
    TrivialAugment(interpolation="bilinear"), AugMix(), AugMix(depth=2, width=1), three_augment(), FastAutoAugment(),
    Choice(policies=[simclr(), RandAugment(), identity()]), Policy(transforms=[RandAugment(), simclr()]),
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


def test_a_policy_file_is_read_back(tmp_path: Path) -> None:
    text = "name: mine\nlevels: 10\nsub_policies:\n- [[posterize, 0.4, 9], [equalize, 0.8]]\n- [[rotate, 1.0, 0]]\n"
    (tmp_path / "mine.yaml").write_text(text)
    found = read_sub_policies(tmp_path / "mine.yaml")
    assert [(s.name, s.p, s.level) for s in found.steps[0]] == [
        ("posterize", 0.4, 1.0),
        ("equalize", 0.8, 0.0),
    ]
    again = read_sub_policies(
        write_sub_policies(SubPolicies("x", found.steps), tmp_path / "again.yaml")
    )
    assert again.steps == found.steps
    with pytest.raises(
        ValueError, match=r"^A policy file to write must be a .yaml file, got .*again.json'. Change"
    ):
        write_sub_policies(found, tmp_path / "again.json")
    (tmp_path / "mine.json").write_text(json.dumps({"sub_policies": [[["rotate", 1, 0.5]]]}))
    op, magnitude = FastAutoAugment(file=str(tmp_path / "mine.json")).operations(SHAPE, MANY)
    assert set(op.flatten().tolist()) == {NAMES.index("rotate")} and magnitude.abs().max() == 0


WRONG_FILES = {
    "field: 1\nsub_policies: [[[invert, 1]]]": "got 'field'",
    "sub_policies: []": "must be a list of lists, got",
    "sub_policies: [[[rotat, 1, 0.5]]]": "Did you mean 'rotate'",
    "sub_policies: [[[rotate, 1.5, 0.5]]]": "must be 0 to 1, got 1.5",
    "sub_policies: [[[rotate, 1.0, 1.5]]]": "a level of 0 to 1",
    "levels: 10\nsub_policies: [[[rotate, 1.0, 10]]]": "a bin of 0 to 9",
    "sub_policies: [[[rotate, 1.0]]]": "must have a magnitude, got rotate without one",
    "- 1": "got a list",
    "{": "does not parse",
}


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.items())
def test_a_wrong_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        FastAutoAugment(file=str(tmp_path / "wrong.yaml"))
    assert re.search(r"must .* got .*\. [A-Z]|\? *$", str(refused.value))
    assert "\n" not in str(refused.value)


def test_a_run_keeps_the_sub_policies_and_not_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "levels: 10\nsub_policies:\n- [[posterize, 0.4, 8], [rotate, 0.6, 3]]\n- [[invert, 0.2]]\n"
    )
    views = f"views.policy={{kind: fast_auto_augment, file: {file}}}"
    recipe = Recipe.load("image/emoji_simclr", [views, "encoder.width=2"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    file.unlink()
    again = Recipe.load(tmp_path / "recipe.yaml")
    found, expected = again.views.config["policy"], recipe.views.config["policy"]
    assert found == expected and found["file"] is None
    assert found["sub_policies"] == [
        [["posterize", 0.4, 8 / 9], ["rotate", 0.6, 1 / 3]],
        [["invert", 0.2, 0.0]],
    ]
    ids, input = torch.arange(4), Input((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    first, second = (one.views.draw(ids, ViewContext(input, 0, 0)) for one in (recipe, again))
    assert torch.equal(first[0]["policy"]["magnitude"], second[0]["policy"]["magnitude"])
    with pytest.raises(
        ValueError,
        match="Either `file` or `sub_policies` must be null, got values for both. Remove",
    ):
        FastAutoAugment(file=str(file), sub_policies=[[("invert", 0.2, 0.0)]])
    with pytest.raises(
        ValueError,
        match=r"probability of `sub_policies.0.0` of fast_auto_augment must be 0 to 1, got 2.0",
    ):
        FastAutoAugment(sub_policies=[[("invert", 2.0, 0.0)]])


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"wrong.yaml must be YAML or JSON in UTF-8, got .*\. Fix"):
        FastAutoAugment(file=str(tmp_path / "wrong.yaml"))


@pytest.mark.parametrize(
    "build",
    [
        lambda: RandAugment(magnitude=31), lambda: RandAugment(num_ops=0), lambda: RandAugment(names=["rotat"]),
        lambda: RandAugment(names=[]), lambda: RandAugment(names=["rotate"], extended=True),
        lambda: RandAugment(std=-1.0), lambda: RandAugment(p=0.0),
        lambda: RandAugment(fill=256), lambda: TrivialAugment(bins=1), lambda: AugMix(severity=11),
        lambda: AugMix(width=0), lambda: FastAutoAugment(file="nowhere.yaml"), lambda: Choice(policies=[]),
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


def test_what_was_drawn_is_said_in_words() -> None:
    params: dict[str, Tensor] = {
        "op": torch.tensor([[NAMES.index("shear_x"), IDENTITY, NAMES.index("invert")]]),
        "magnitude": torch.tensor([[0.09, 0.0, 0.0]]),
    }
    assert describe(params, 0) == [("shear x", "0.09"), ("invert", "")]
