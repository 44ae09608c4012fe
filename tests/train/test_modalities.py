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
