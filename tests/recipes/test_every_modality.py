"""Every method trains on every modality, from a recipe of a few lines."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.data.loader import batches
from mezzotint.encoders.saving import save_encoder
from mezzotint.modality.modality import modality_names, modality_of
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.train.log import Meter
from mezzotint.train.loop import Trainer
from tests.tiny import METHODS


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


@pytest.mark.parametrize("modality", modality_names())
@pytest.mark.parametrize("method", METHODS)
def test_two_steps(method: str, modality: str) -> None:
    example = modality_of(modality).example
    config = {"kind": method, **METHODS[method]}
    trains_two_steps(modality, example.data, example.encoder, config, [*example.transforms], 2)


@pytest.mark.parametrize("modality", modality_names())
def test_two_steps_with_labels(modality: str) -> None:
    example = modality_of(modality).example
    source = {"kind": "labeled", "source": example.data}
    method = {"kind": "supervised", "num_classes": 20}
    trains_two_steps(modality, source, example.encoder, method, [], 1)


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


@pytest.mark.parametrize("modality", modality_names())
@pytest.mark.parametrize("method", [*MASKED, *DABS])
def test_two_steps_on_patches(method: str, modality: str) -> None:
    example = modality_of(modality).example
    if method == "mae" and modality_of(modality).has_tokens:
        pytest.skip("MAE refuses tokens, which have no values to predict; its own test shows that")
    encoder = {"kind": "vit", "width": 12, "depth": 1, "heads": 2, **example.patches}
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
    trains_two_steps(modality, example.data, encoder, config, [], 1)


@pytest.mark.parametrize("modality", modality_names())
def test_two_steps_of_distillation(modality: str, tmp_path: Path) -> None:
    """The teacher is the untrained encoder, which takes the same samples in any modality."""
    example = modality_of(modality).example
    source = construct(resolve(example.data, "Source", "data"), "Source", {})
    config = resolve(example.encoder, "Encoder", "encoder")
    teacher = construct(config, "Encoder", {"Encoder": (source.input,)})
    method: dict[str, Any] = {"kind": "distill", "teachers": [str(save_encoder(teacher, tmp_path))]}
    method |= {"loss": "relational", "hidden_dim": 16, "queue_size": 64}
    trains_two_steps(modality, example.data, example.encoder, method, [*example.transforms], 2)


def test_no_method_is_left_out() -> None:
    known = {*METHODS, *MASKED, *DABS, "supervised", "distill"}
    assert known == set(index().members("Method"))
