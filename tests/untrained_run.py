"""A run as `pretrain` leaves it, without the training, and what an export says about it."""

import json
from pathlib import Path
from typing import Any

import torch

from mezzotint import save_encoder
from mezzotint.recipe.recipe import Recipe, resolve_recipe


def make_run(folder: Path, encoder: dict[str, Any], data: str = "digits") -> Path:
    config = resolve_recipe(
        {
            "data": {"kind": "embedded_images", "name": data},
            "encoder": encoder,
            "method": {"kind": "simclr", "hidden_dim": 8, "dim": 8},
            "optimizer": {"kind": "sgd", "lr": 0.1},
        }
    )
    recipe = Recipe.build(config)
    torch.manual_seed(0)
    for module in recipe.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as training would have moved them
            module.get_buffer("running_mean").normal_(0.0, 0.2)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    save_encoder(recipe.encoder, folder / "encoder")
    return folder


def read_verification(folder: Path) -> dict[str, Any]:
    verification: dict[str, Any] = json.loads(
        (folder / "verification.json").read_text(encoding="utf-8")
    )
    return verification
