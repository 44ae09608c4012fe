"""Every method trains on every modality, from a recipe of a few lines."""

import math
from typing import Any

import pytest
import torch
from tiny import METHODS

from mezzotint.data.loader import batches
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from mezzotint.train.recipe import Recipe, resolve_recipe

QUANTIZED = {"kind": "randomized_quantization", "bins": 4, "p": 0.5}
MODALITIES: dict[str, dict[str, Any]] = {
    "audio": {"data": "speech", "encoder": {"kind": "audio_ntt", "width": 4, "dim": 32}},
    "points": {"data": "furniture", "encoder": {"kind": "pointnet", "width": 4}},
    "series": {"data": "smartwatch", "encoder": {"kind": "resnet1d", "width": 4}},
    "table": {"data": "table_sample", "encoder": {"kind": "table_mlp", "width": 16}},
    "tokens": {"data": "mails", "encoder": {"kind": "vit", "width": 8, "depth": 1, "heads": 2}},
    "video": {"data": "spins", "encoder": {"kind": "vit", "width": 12, "depth": 1, "heads": 2, "patch": [2, 8, 8]}},
}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("method", METHODS)
def test_two_steps(method: str, modality: str) -> None:
    parts = MODALITIES[modality]
    own = {"series": "series_jitter", "points": "point_jitter", "tokens": "token_mask"}.get(modality, "")
    transforms = [{"kind": own}] * bool(own) + ([] if modality in ("table", "tokens") else [QUANTIZED])
    config = resolve_recipe(
        {
            "data": {"kind": parts["data"]},
            "views": {"kind": "transformed", "transforms": transforms},
            "encoder": parts["encoder"],
            "method": {"kind": method, **METHODS[method]},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "run": {"epochs": 1, "batch_size": 8, "log": {"knn_epochs": 0}},
        }
    )
    recipe = Recipe.build(config)
    assert recipe.encoder.modality == modality
    trainer = Trainer(recipe, torch.device("cpu"))
    before = [p.clone() for p in recipe.encoder.parameters()]
    for step, batch in enumerate(batches(recipe.data, recipe.views, trainer.plan, start=0, stop=2)):
        metrics = trainer.step(step, batch, Meter())
        assert math.isfinite(metrics["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, recipe.encoder.parameters(), strict=True))


PATCHES: dict[str, dict[str, Any]] = {
    "image": {"patch": 2}, "audio": {"patch": 16}, "points": {"groups": 8, "group_size": 8}, "series": {"patch": 16},
    "table": {}, "tokens": {}, "video": {"patch": [2, 8, 8]},
}  # fmt: skip
BOOK = {"kind": "rq", "dim": 8, "num_codes": 16, "num_levels": 2}
MASKED: dict[str, dict[str, Any]] = {
    "mae": {},
    "bridle": {"codebook": BOOK},
    "bridle_tokenizer": {"codebook": BOOK, "estimator_depth": 1},
    "bridle_joint": {"codebook": BOOK, "estimator_depth": 1, "every": 2},
}


@pytest.mark.parametrize("modality", PATCHES)
@pytest.mark.parametrize("method", MASKED)
def test_two_steps_of_masked_prediction(method: str, modality: str) -> None:
    if (method, modality) == ("mae", "tokens"):
        pytest.skip("tokens have no values to predict, which a test of MAE shows")
    data = MODALITIES[modality]["data"] if modality in MODALITIES else {"kind": "samples", "name": "digits"}
    decoder = {} if method == "bridle_tokenizer" else {"decoder": {"width": 12, "depth": 1, "heads": 2}}
    config = resolve_recipe(
        {
            "data": data,
            "views": {"kind": "transformed", "transforms": [], "count": 1},
            "encoder": {"kind": "vit", "width": 12, "depth": 1, "heads": 2, **PATCHES[modality]},
            "method": {"kind": method, **MASKED[method], **decoder},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "run": {"epochs": 1, "batch_size": 8, "log": {"knn_epochs": 0}},
        }
    )
    recipe = Recipe.build(config)
    recipe.method.given = recipe.method.needs
    trainer = Trainer(recipe, torch.device("cpu"))
    trained = [p for p in recipe.method.parameters() if p.requires_grad]
    before = [p.clone() for p in trained]
    for step, batch in enumerate(batches(recipe.data, recipe.views, trainer.plan, start=0, stop=2)):
        assert math.isfinite(trainer.step(step, batch, Meter())["loss"])
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
