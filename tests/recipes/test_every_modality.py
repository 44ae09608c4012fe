"""Every method trains on every modality, from a recipe of a few lines."""

import math
from typing import Any, get_args

import pytest
import torch

from mezzotint.data.loader import batches
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.signatures import index
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.types import Modality
from tests.tiny import METHODS

QUANTIZED = {"kind": "randomized_quantization", "bins": 4, "p": 0.5}
MODALITIES: dict[str, dict[str, Any]] = {
    "audio": {"data": "speech", "encoder": {"kind": "audio_ntt", "width": 4, "dim": 32}},
    "points": {"data": "furniture", "encoder": {"kind": "pointnet", "width": 4}},
    "series": {"data": "smartwatch", "encoder": {"kind": "resnet1d", "width": 4}},
    "table": {"data": "table_sample", "encoder": {"kind": "table_mlp", "width": 16}},
    "tokens": {"data": "emails", "encoder": {"kind": "vit", "width": 8, "depth": 1, "heads": 2}},
    "video": {
        "data": "rotating_objects",
        "encoder": {"kind": "vit", "width": 12, "depth": 1, "heads": 2, "patch": [2, 8, 8]},
    },
    "image_text": {
        "data": "emoji_names",
        "encoder": {"kind": "vit", "width": 8, "depth": 1, "heads": 2, "patch": 16},
    },
}
OWN: dict[str, dict[str, Any]] = {
    "series": {"kind": "series_jitter"},
    "points": {"kind": "point_jitter"},
    "tokens": {"kind": "token_mask"},
    "image_text": {
        "kind": "image_and_text",
        "image": [QUANTIZED],
        "text": [{"kind": "token_mask"}],
    },
}
"""Transforms that are of one modality alone."""


def trains_two_steps(
    modality: str, source: Any, encoder: Any, method: Any, transforms: Any, count: int
) -> None:
    config = resolve_recipe(
        {
            "data": source,
            "views": {"kind": "transformed", "transforms": transforms, "count": count},
            "encoder": encoder,
            "method": method,
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "run": {"epochs": 1, "batch_size": 8, "log": {"knn_epochs": 0}},
        }
    )
    recipe = Recipe.build(config)
    assert recipe.encoder.modality == modality
    recipe.method.given = recipe.method.needs
    trainer = Trainer(recipe, torch.device("cpu"))
    trained = [p for p in recipe.method.parameters() if p.requires_grad]
    before = [p.clone() for p in trained]
    for step, batch in enumerate(batches(recipe.data, recipe.views, trainer.plan, start=0, stop=2)):
        assert math.isfinite(trainer.step(step, batch, Meter())["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("method", METHODS)
def test_two_steps(method: str, modality: str) -> None:
    parts = MODALITIES[modality]
    numbers = modality not in ("table", "tokens", "image_text")
    transforms = ([OWN[modality]] if modality in OWN else []) + [QUANTIZED] * numbers
    config = {"kind": method, **METHODS[method]}
    trains_two_steps(modality, {"kind": parts["data"]}, parts["encoder"], config, transforms, 2)


@pytest.mark.parametrize("modality", MODALITIES)
def test_two_steps_with_labels(modality: str) -> None:
    parts = MODALITIES[modality]
    source = {"kind": "labeled", "source": {"kind": parts["data"]}}
    trains_two_steps(
        modality, source, parts["encoder"], {"kind": "supervised", "num_classes": 20}, [], 1
    )


PATCHES: dict[str, dict[str, Any]] = {
    "image": {"patch": 2}, "audio": {"patch": 16}, "points": {"groups": 8, "group_size": 8}, "series": {"patch": 16},
    "table": {}, "tokens": {}, "video": {"patch": [2, 8, 8]}, "image_text": {"patch": 16},
}  # fmt: skip
BOOK = {"kind": "rq", "dim": 8, "num_codes": 16, "num_levels": 2}
MASKED: dict[str, dict[str, Any]] = {
    "mae": {},
    "bridle": {"codebook": BOOK},
    "bridle_tokenizer": {"codebook": BOOK, "estimator_depth": 1},
    "bridle_joint": {"codebook": BOOK, "estimator_depth": 1, "every": 2},
}


DABS: dict[str, dict[str, Any]] = {
    "emix": {"dim": 8},
    "shed": {},
    "embedding_quantization": {
        "dim": 8,
        "quantization": {"bins": 4, "channel_dim": 2, "gradient": "ste"},
    },
}


@pytest.mark.parametrize("modality", PATCHES)
@pytest.mark.parametrize("method", [*MASKED, *DABS])
def test_two_steps_on_patches(method: str, modality: str) -> None:
    if method == "mae" and modality in ("tokens", "image_text"):
        pytest.skip("tokens have no values to predict, which a test of MAE shows")
    source = (
        {"kind": MODALITIES[modality]["data"]}
        if modality in MODALITIES
        else {"kind": "embedded_images", "name": "digits"}
    )
    encoder = {"kind": "vit", "width": 12, "depth": 1, "heads": 2, **PATCHES[modality]}
    if method in DABS:
        encoder |= {"kind": "domain_agnostic"}
        config = {"kind": method, **DABS[method]}
        encoder = {key: value for key, value in encoder.items() if not key.startswith("group")}
    else:
        decoder = (
            {}
            if method == "bridle_tokenizer"
            else {"decoder": {"width": 12, "depth": 1, "heads": 2}}
        )
        config = {"kind": method, **MASKED[method], **decoder}
    trains_two_steps(modality, source, encoder, config, [], 1)


def test_no_method_and_no_modality_is_left_out() -> None:
    assert {*METHODS, *MASKED, *DABS, "supervised"} == set(index().members("Method"))
    assert {*MODALITIES, "image"} == set(PATCHES) == set(get_args(Modality))
