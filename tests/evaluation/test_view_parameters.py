"""Augmentation parameters as targets: where they are defined, and how batches are joined."""

import torch

from mezzotint.augment.image.geometry import RandomResizedCrop
from mezzotint.augment.image.multi_augment import MultiAugment
from mezzotint.augment.image.policies import identity, simclr
from mezzotint.augment.image.rand_augment import RandAugment
from mezzotint.augment.image.views import TwoViews
from mezzotint.augment.views import ViewContext
from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.data.view_batch import view_batch
from mezzotint.evaluation.view_parameters import drawn_values, joined, varies

WHOLE = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))


def test_of_a_choice_of_policies_each_parameter_is_of_those_who_drew_it() -> None:
    source = EmbeddedImages(name="emoji")
    policies = [simclr(jitter_p=1.0), RandAugment(), identity()]
    views = MultiAugment(policies=policies, mode="sampled", crop=WHOLE, flip=0.0)
    batch, boxes = view_batch(source, views, torch.arange(300), input=source.input, seed=0)
    params = views.draw(batch.ids, ViewContext(source.input, 0, 0))[0]
    assert boxes is not None and torch.equal(
        boxes[0, 0], torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    )
    found = drawn_values(params, boxes[:, 0])
    which = found["policy"]
    assert which.is_choice and torch.equal(which.values, params["policy"]["policy"])
    assert torch.equal(found["simclr.color_jitter.hue"].defined, which.values == 0)
    op, magnitude = (
        params["policy"]["1.rand_augment.op"],
        params["policy"]["1.rand_augment.magnitude"],
    )
    turned = found["rand_augment.rotate.magnitude"]
    expected = (which.values == 1) & (op == 4).any(dim=1)
    assert torch.equal(turned.defined, expected) and expected.any()
    once = expected & ((op == 4).sum(dim=1) == 1)
    assert torch.equal(turned.values[once, 0].abs(), magnitude[once].double()[op[once] == 4].abs())
    everyone = torch.ones(300, dtype=torch.bool)
    assert not varies(found["crop.area"], everyone, 40) and varies(which, everyone, 40)


def test_views_with_other_parameters_are_joined() -> None:
    source = EmbeddedImages(name="emoji")
    views = TwoViews(policy=simclr(), second_policy=identity(), flip=0.5)
    ids = torch.arange(10)
    batch, boxes = view_batch(source, views, ids, input=source.input, seed=0)
    drawn = views.draw(ids, ViewContext(source.input, 0, 0))
    assert boxes is not None
    both = joined([drawn_values(drawn[view], boxes[:, view]) for view in (0, 1)])
    assert len(both["flip"].values) == 20 and both["flip"].defined.all()
    assert not both["color_jitter.hue"].defined[10:].any()
