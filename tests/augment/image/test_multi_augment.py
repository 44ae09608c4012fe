from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.multi_augment import LocalLoss, MultiAugment
from mezzotint.augment.image.policies import Policy, identity, mocov2, simclr
from mezzotint.augment.image.rand_augment import RandAugment
from mezzotint.augment.views import ViewContext
from mezzotint.recipe.schema import RecipeError, construct, resolve
from mezzotint.types import Batch, Input

INPUT = Input((3, 24, 24), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
POLICIES: list[Policy] = [identity(), RandAugment(), simclr()]


def batch(count: int = 20) -> Batch:
    x = torch.randint(
        0, 256, (count, 3, 40, 36), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return Batch((x,), torch.arange(count))


def render(views: MultiAugment, given: Batch, **keywords: Any) -> tuple[Tensor, ...]:
    return views.render(given, ViewContext(INPUT, 1, 0), **keywords)


def test_all_policies_on_shared_crops() -> None:
    views = MultiAugment(policies=[identity(), *POLICIES], num_global=2)
    assert views.tags == ("identity.1", "identity.2", "rand_augment", "simclr") * 2
    x = render(views, batch(), normalized=False)
    assert (
        len(x) == 8 and torch.equal(x[0], x[1]) and torch.equal(x[4], x[5])
    )  # the crop before any color
    assert not torch.equal(x[0], x[4])
    assert all(not torch.equal(x[0], other) for other in x[2:4])


def test_the_shared_crop_is_that_of_two_views() -> None:
    alone = MultiAugment(policies=[identity()])
    several = MultiAugment(policies=[identity(), mocov2()])
    a, b = render(alone, batch()), render(several, batch())
    assert torch.equal(a[0], b[0])


def test_separate_crops_differ() -> None:
    views = MultiAugment(policies=[identity(), identity()], crops="separate")
    x = render(views, batch())
    assert len(views.crops) == 4 and not torch.equal(x[0], x[1])


def test_every_view_is_normalized_alike() -> None:
    views = MultiAugment(policies=POLICIES)
    for plain, seen in zip(
        render(views, batch(), normalized=False), render(views, batch()), strict=True
    ):
        torch.testing.assert_close(INPUT.normalize(plain), seen)


def test_sampled_policies_are_drawn_uniformly_and_apart_for_each_view() -> None:
    views = MultiAugment(policies=POLICIES, mode="sampled")
    ids = torch.arange(6000)
    first, second = (
        drawn["policy"]["policy"] for drawn in views.draw(ids, ViewContext(INPUT, 0, 0))
    )
    assert views.tags == ("global", "global")
    for choice in (first, second):
        assert torch.bincount(choice).float().div(2000).sub(1).abs().max() < 0.06
    assert 0.28 < (first == second).float().mean() < 0.38


@pytest.mark.parametrize("crops", ["shared", "separate"])
def test_crops_cut_by_the_loader_give_the_same_views(crops: Any) -> None:
    views, whole = (
        MultiAugment(
            policies=POLICIES,
            crops=crops,
            num_local=1,
            crop=RandomResizedCrop(interpolation="bicubic"),
            local_crop=RandomResizedCrop(size=12),
        ),
        batch(6),
    )
    crop_samplers = views.crop_samplers(whole.ids, ViewContext(INPUT, 1, 0))
    rows = []
    for row, choose in enumerate(crop_samplers):
        boxes = choose(40, 36)
        assert len(boxes) == len(views.crops) == (3 if crops == "shared" else 9)
        image = whole.x[0][row : row + 1]
        rows.append(
            [
                RandomResizedCrop(interpolation=name).cut(image, torch.tensor([box]), (size, size))
                for box, size, name in boxes
            ]
        )
    cut = Batch(
        tuple(torch.cat(column) for column in zip(*rows, strict=True)), whole.ids, cropped=True
    )
    for a, b in zip(render(views, whole), render(views, cut), strict=True):
        assert torch.equal(a, b)


def test_a_sample_does_not_depend_on_its_company() -> None:
    views, whole = MultiAugment(policies=POLICIES, mode="sampled"), batch()
    part = replace(whole, x=(whole.x[0][4:9],), ids=whole.ids[4:9])
    for a, b in zip(render(views, whole), render(views, part), strict=True):
        assert torch.equal(a[4:9], b)


def local(compare: Any, **keywords: Any) -> MultiAugment:
    return MultiAugment(
        policies=[identity(), mocov2()], num_global=1, num_local=2,
        local_crop=RandomResizedCrop(size=12),
        local_loss=LocalLoss(compare=compare, **keywords),
    )  # fmt: skip


def test_local_crops_are_compared_with_global_ones() -> None:
    views = local("local_global", weight=0.4)
    assert views.tags == ("identity", "mocov2", "local", "local", "local", "local")
    pairs, weights = views.pairing(0.5)
    among = {(1, 0), (0, 1)}
    assert set(pairs) == among | {(p, t) for p in (2, 3, 4, 5) for t in (0, 1)} and len(pairs) == 10
    assert weights == [0.4 if pair in among else 0.6 for pair in pairs]


def test_local_crops_are_compared_with_each_other() -> None:
    pairs, _ = local("local_local").pairing(0.0)
    assert set(pairs) == {(1, 0), (0, 1)} | {
        (p, t) for p in (2, 3, 4, 5) for t in (2, 3, 4, 5) if p != t
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [(0.0, 0.5), (1.0, 0.5)]),
        ("cosine", [(0.0, 0.5), (0.5, 0.25), (1.0, 0.0)]),
        ("step", [(0.0, 0.5), (0.29, 0.5), (0.3, 0.8), (0.89, 0.8), (0.9, 1.0), (1.0, 1.0)]),
    ],
)
def test_weights_over_training(schedule: Any, expected: list[tuple[float, float]]) -> None:
    loss = LocalLoss(schedule=schedule)
    assert [loss.weight_at(progress) for progress, _ in expected] == pytest.approx(
        [w for _, w in expected]
    )


def test_views_carry_pairs_weights_and_progress() -> None:
    made = local("local_global")(batch(), ViewContext(INPUT, 0, 3), step=7, progress=0.25)
    assert made.weights is not None and len(made.pairs) == len(made.weights) == 10
    assert float(made.epoch or 0) == 3 and float(made.progress or 0) == 0.25
    plain = MultiAugment(policies=[identity()])(batch(), ViewContext(INPUT, 0, 0), step=0)
    assert plain.pairs == () and plain.weights is None


@pytest.mark.parametrize(
    "build",
    [
        lambda: MultiAugment(policies=[]),
        lambda: MultiAugment(policies=POLICIES, mode="sampled", crops="shared"),
        lambda: MultiAugment(policies=[identity()], num_global=1),
        lambda: MultiAugment(policies=POLICIES, num_global=0, num_local=2),
        lambda: MultiAugment(policies=POLICIES, local_loss=LocalLoss()),
        lambda: LocalLoss(weight=1.5),
        lambda: LocalLoss(schedule="step", weight=0.4),
    ],
)
def test_what_disagrees_is_refused_in_three_parts(build: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^[`A-Z].* got .*\. [A-Z].*"):
        build()


def test_a_recipe_names_the_policies() -> None:
    config = {"kind": "multi_augment", "policies": [{"kind": "simclr"}, {"kind": "auto_augment"}],
              "num_local": 2,
              "local_loss": {"schedule": "cosine"}}  # fmt: skip
    views = construct(resolve(config, "ViewGenerator", "views"), "ViewGenerator", {})
    assert isinstance(views, MultiAugment) and views.num_views == 8
    assert resolve(views.config, "ViewGenerator", "views") == resolve(
        config, "ViewGenerator", "views"
    )
    with pytest.raises(RecipeError, match="Did you mean 'rand_augment'"):
        resolve({**config, "policies": [{"kind": "rand_aug"}]}, "ViewGenerator", "views")
    with pytest.raises(
        RecipeError, match="must be true or false, got 'False'"
    ):  # and not true, as any text is
        resolve(
            {**config, "policies": [{"kind": "rand_augment", "extended": "False"}]},
            "ViewGenerator",
            "views",
        )
    with pytest.raises(
        RecipeError, match="`views.num_policies` is not a key"
    ):  # a number that might not agree with the list
        resolve({**config, "num_policies": 3}, "ViewGenerator", "views")
