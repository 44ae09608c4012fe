import json
from pathlib import Path

import pytest

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.loop import pretrain
from mezzotint.train.preview import preview


@pytest.mark.parametrize(
    ("method", "views", "said"),
    [
        (
            {"kind": "byol", "hidden_dim": 8, "dim": 8},
            {"num_global": 2},
            "4 a sample: 4 passes through the encoder with",
        ),
        (
            {"kind": "simsiam", "hidden_dim": 8, "dim": 8},
            {"mode": "sampled"},
            "2 a sample: 2 passes through the",
        ),
    ],
)
def test_the_dry_run_says_views_and_passes(
    method: dict[str, object], views: dict[str, object], said: str
) -> None:
    strategies = [{"kind": "simclr"}, {"kind": "rand_augment"}]
    config = {
        "data": {"kind": "embedded_images", "name": "digits"},
        "views": {"kind": "multi_augment", "strategies": strategies, **views},
        "encoder": {"kind": "resnet18", "stem": "small", "width": 2},
        "method": method,
        "optimizer": {"kind": "sgd", "lr": 0.01},
        "run": {"epochs": 1, "batch_size": 16},
    }
    text = preview(Recipe.build(resolve_recipe(config)))
    assert said in text
    assert f"and {4 if method['kind'] == 'byol' else 0} without" in text


def test_a_run_says_views_and_passes_in_its_environment(tmp_path: Path) -> None:
    tiny = [
        "data.name=digits",
        "encoder.width=2",
        "encoder.stem=small",
        "run.epochs=1",
        "run.batch_size=512",
    ]
    method = ["method={kind: byol, hidden_dim: 8, dim: 8}", "run.micro_batches=2"]
    watched = [
        "run.log.knn_epochs=1",
        "run.log.map_epochs=1",
    ]  # before the first step, too: no passes of training
    run = pretrain(
        Recipe.load("image/emoji_massrl", [*tiny, *method, *watched]),
        tmp_path / "run",
        progress="quiet",
    )
    found = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert (found["views"], found["encoder_passes"], found["encoder_passes_without_gradient"]) == (
        2,
        2.0,
        2.0,
    )
