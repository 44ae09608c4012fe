"""The evaluate section of a recipe: values, defaults and refusals."""

import math

import pytest

from mezzotint.quant.bitwidth import FP32
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.runs.settings import Budget, Evaluate, Export


def test_settings_are_plain_data_and_are_checked() -> None:
    demo = read_recipe(
        "image/emoji_simclr", ["evaluate.bits=[8/8,2/4]", "evaluate.ptq=[min_max, adaround]"]
    )
    assert demo["evaluate"]["bits"] == ["8/8", "2/4"] and demo["evaluate"]["ptq"] == [
        "min_max",
        "adaround",
    ]
    assert read_recipe("image/emoji_simclr")["evaluate"]["bits"] == ["fp32"]
    assert Evaluate().bits == [FP32] and Evaluate().ptq == ["min_max"]
    for override, message in (
        ("evaluate.ptq=[best]", "evaluate.ptq"),
        ("evaluate.policy=none", "evaluate.policy"),
        ("evaluate.bits=8/8", "evaluate.bits"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_recipe("image/emoji_simclr", [override])
    with pytest.raises(
        ValueError, match="`evaluate.bits` must be a pair of bit-widths .* got '9/9'"
    ):
        Evaluate(bits=["9/9"])
    with pytest.raises(ValueError, match="`evaluate.calibration_samples` must be 1 or more, got 0"):
        Evaluate(calibration_samples=0)


def test_a_budget_is_a_fraction_of_the_whole_run() -> None:
    for fraction in (0.1, 0.25, 0.5):
        seconds = Budget(evaluation=fraction).seconds(900.0)
        assert seconds / (900.0 + seconds) == pytest.approx(fraction)
    assert Budget().seconds(900.0) == 300.0
    assert Budget().seconds(5.0) == Budget.least_s and Budget(evaluation=1).seconds(5.0) == math.inf
    for wrong in ({"evaluation": 1.5}, {"samples": 0}):
        with pytest.raises(ValueError, match=f"`budget.{next(iter(wrong))}` must"):
            Budget(**wrong)


def test_a_budget_is_a_section_that_a_recipe_may_leave_out() -> None:
    assert "budget" not in read_recipe("image/emoji_simclr")
    written = read_recipe("image/emoji_simclr", ["budget.samples=500"])
    assert written["budget"] == {"evaluation": 0.25, "samples": 500}
    small = ["data={kind: embedded_images, name: digits}", "encoder.width=2", "encoder.grid=1"]
    recipe = Recipe.load("image/emoji_simclr", [*small, "budget.samples=500"])
    assert recipe.budget is not None and recipe.budget.samples == 500
    assert recipe.config()["budget"] == written["budget"]
    with pytest.raises(RecipeError, match="budget"):
        read_recipe("image/emoji_simclr", ["budget.minutes=3"])


def test_exports_are_an_optional_section() -> None:
    recipe = read_recipe("image/simclr_cifar10", ["export.packed=[W4A32, 2/8]"])
    assert recipe["export"] == {"onnx": [], "packed": ["W4A32", "2/8"]}
    assert "export" not in read_recipe("image/simclr_cifar10")
    artifacts = Export(onnx=["W8A8"], packed=["W4A32", "2/8"]).artifacts
    assert [f"{format}-{bits}" for format, bits in artifacts] == [
        "onnx-W8A8",
        "packed-W4A32",
        "packed-W2A8",
    ]
    with pytest.raises(ValueError, match="`export.packed` must be a pair of bit-widths"):
        Export(packed=["W9A9"])
    with pytest.raises(RecipeError, match="export.onnx"):
        read_recipe("image/simclr_cifar10", ["export.onnx=W8A8"])
