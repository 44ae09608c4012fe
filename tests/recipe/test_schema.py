"""Plain data checked against the signatures: what is refused and how, and what defaults are."""

from typing import Any

import pytest

from mezzotint.encoders.resnet import ResNet
from mezzotint.methods.simsiam import SimSiam
from mezzotint.recipe.schema import RecipeError, class_of, resolve


@pytest.mark.parametrize(
    ("config", "family", "message"),
    [
        (
            {"epoch": 3},
            "Run",
            "`x.epoch` is not a key of run, which takes epochs, .*. Did you mean 'epochs'",
        ),
        (
            {"epochs": "3"},
            "Run",
            "`x.epochs` must be a whole number, got '3'. See `mezzotint recipes run`",
        ),
        ({"epochs": True}, "Run", "`x.epochs` must be a whole number, got True"),
        ({"epochs": 2.5}, "Run", "`x.epochs` must be a whole number, got 2.5"),
        (
            {"compute": {"precision": "bf61"}},
            "Run",
            "`x.compute.precision` must be one of fp32, bf16, fp16, got 'bf61'. Did you mean",
        ),
        ({"compute": 3}, "Run", "`x.compute` must be a mapping with keys of compute, got 3"),
        (
            {"kind": "simcrl"},
            "Method",
            "`x.kind` must be one of .*, got 'simcrl'. Did you mean 'simclr'",
        ),
        ({}, "Method", "`x.kind` is missing. Choose one of "),
        ([1], "Method", "`x` must be a mapping with `kind` and its keys, got \\[1\\]"),
        (
            {"log": {"trackers": ["wand"]}},
            "Run",
            "`x.log.trackers` must be a list, each item one of tensorboard, .* got \\['wand'\\]",
        ),
        (
            {"kind": "torch.nn.Linear"},
            "Encoder",
            "`x.kind` must be one of .*, got 'torch.nn.Linear'",
        ),
        (
            {"bits": "8/8"},
            "Evaluate",
            r"`x.bits` must be a list, each item text or a whole number, got '8/8'. Write \[8/8\]",
        ),
        (
            {"kind": "_mean_magnitude"},
            "Observer",
            "`x.kind` must be one of entropy, gaussian, min_max, .*, got '_mean_magnitude'",
        ),
    ],
)
def test_what_is_refused_says_where_and_what_is_allowed(
    config: Any, family: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve(config, family, "x")


def test_resolving_is_idempotent_and_fills_defaults() -> None:
    once = resolve({"epochs": 3}, "Run", "run")
    assert once["batch_size"] == 256 and once["compute"]["precision"] == "fp32"
    assert resolve(once, "Run", "run") == once


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e308])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(
        RecipeError, match=r"^`x.lr` must be finite in 32 bits, got (-?(nan|inf)|1e.308)\. See"
    ):
        resolve({"kind": "sgd", "lr": value}, "Optimizer", "x")


def test_the_class_of_a_kind_is_what_it_makes() -> None:
    assert class_of("simsiam", "Method") is SimSiam
    assert class_of("resnet8", "Encoder") is ResNet
