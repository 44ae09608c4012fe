"""Studies that leave out one item of a list at a time."""

from pathlib import Path

import pytest

from mezzotint.augment.image.rand_augment import RandAugment
from mezzotint.recipe.schema import RecipeError
from mezzotint.runs.study import read_study, run_study

STUDY = """
recipe: image/emoji_simclr
reference: all
seeds: [0]
overrides: ["views.policy={kind: rand_augment}", data.name=digits, encoder.stem=small,
            encoder.width=2, run.epochs=1, run.batch_size=512, run.log.knn_epochs=0,
            method.hidden_dim=8, method.dim=4, evaluate.baselines=false,
            "evaluate.probes=[knn]", views.randomized_quantization=null]
leave_one_out: {views.policy.names: [rotate, invert]}
"""


def test_the_shipped_study_leaves_out_each_operation_of_rand_augment() -> None:
    study = read_study("leave_one_out")
    names = RandAugment().names_drawn
    assert (
        set(study.arms) == {"all", *(f"without {name}" for name in names)}
        and study.reference == "all"
    )
    for arm in study.arms:
        drawn = study.config(arm, 0)["views"]["policy"]["names"]
        assert sorted(drawn) == sorted(name for name in names if arm != f"without {name}")


def test_an_override_of_the_list_stands_in_for_it() -> None:
    study = read_study("leave_one_out", ["run.epochs=1", "views.policy.names=[rotate, color]"], [0])
    drawn = {arm: study.config(arm, 0)["views"]["policy"]["names"] for arm in study.arms}
    assert drawn == {
        "all": ["rotate", "color"],
        "without rotate": ["color"],
        "without color": ["rotate"],
    }
    with pytest.raises(RecipeError, match="must be one key with a list of two names or more"):
        read_study("leave_one_out", ["views.policy.names=[rotate]"])


def test_a_study_runs(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    table = run_study(read_study(tmp_path / "s.yaml"), tmp_path / "out")
    assert (
        list(table.arms) == ["all", "without rotate", "without invert"] and table.reference == "all"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "leave_one_out: {views.policy.names: [rotate]}",
            "must be one key with a list of two names or more",
        ),
        (
            "leave_one_out: {views.policy.names: [rotate, spin]}",
            "Operations must be among .* got 'spin'",
        ),
        ("leave_one_out: {a: [x, y], b: [x, y]}", "must be one key"),
        (
            "leave_one_out: {views.policy.names: [rotate, invert]}\narms: {A: []}",
            "which makes arms of its own",
        ),
    ],
)
def test_lists_that_cannot_be_left_out_of_are_refused(
    given: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(STUDY.rpartition("leave_one_out")[0] + given)
    with pytest.raises((RecipeError, ValueError), match=message):
        run_study(read_study(tmp_path / "s.yaml"), tmp_path / "out")
