"""AutoAugment and Fast AutoAugment: published tables, and files of sub-policies."""

import json
import re
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from mezzotint.augment.image.auto_augment import (
    AutoAugment,
    FastAutoAugment,
    Published,
    SubPolicies,
    read_sub_policies,
    write_sub_policies,
)
from mezzotint.augment.image.operations import IDENTITY, NAMES
from mezzotint.augment.views import ViewContext
from mezzotint.recipe.recipe import Recipe
from mezzotint.types import Input
from tests.augment.image.reference import MANY, SHAPE, assert_same, drawn, snake


@pytest.mark.parametrize("name", ["imagenet", "cifar10", "svhn"])
def test_auto_augment_has_the_published_policy(name: Published) -> None:
    policy = AutoAugment(policy=name)
    table = v2.AutoAugment(v2.AutoAugmentPolicy(name))._policies
    assert [[(s.name, s.p) for s in steps] for steps in policy.policies.steps] == [
        [(snake(op), p) for op, p, _ in steps] for steps in table
    ]
    space = v2.AutoAugment._AUGMENTATION_SPACE
    expected: dict[str, set[float]] = {}
    for op, _, level in (step for steps in table for step in steps if step[1] > 0):
        magnitudes = space[op][0](10, *SHAPE[2:])
        size = 0.0 if magnitudes is None else float(magnitudes[level])
        expected.setdefault(snake(op), set()).update({size, -size} if space[op][1] else {size})
    ours = {k: v for k, v in drawn(policy).items() if k != "identity"}
    assert_same(ours, expected)
    op, _ = policy.operations(SHAPE, MANY)
    applied = sum(p for steps in table for _, p, _ in steps) / (2 * len(table))
    assert (op != IDENTITY).float().mean() == pytest.approx(applied, abs=0.01)


def test_a_policy_file_is_read_back(tmp_path: Path) -> None:
    text = (
        "name: mine\nlevels: 10\nsub_policies:\n"
        "- [[posterize, 0.4, 9], [equalize, 0.8]]\n- [[rotate, 1.0, 0]]\n"
    )
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
    "{": "is not plain YAML",
}


@pytest.mark.parametrize(("text", "message"), WRONG_FILES.items())
def test_a_wrong_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as refused:
        FastAutoAugment(file=str(tmp_path / "wrong.yaml"))
    assert re.search(r"(must .* got|is not) .*\. [A-Z]|\? *$", str(refused.value))
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
    with pytest.raises(ValueError, match=r"wrong.yaml` cannot be read as UTF-8 text: .*\. Give"):
        FastAutoAugment(file=str(tmp_path / "wrong.yaml"))
    (tmp_path / "wrong.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"wrong.json must be YAML or JSON in UTF-8, got .*\. Fix"):
        FastAutoAugment(file=str(tmp_path / "wrong.json"))
