"""The evaluate section of a recipe: values, defaults and refusals."""

import pytest

from mezzotint.quant.bitwidth import FP32
from mezzotint.recipe.recipe import read_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.runs.settings import Evaluate


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
