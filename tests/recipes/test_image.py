"""Every shipped image recipe builds and trains two steps with its method, views and optimizer."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import construct
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from tests.recipes.starts import with_start
from tests.tiny import is_masked

AIRL = [
    *(f"image/{name}_imagenet" for name in ("moco_v2", "moco_v2plus", "smoco_v2plus", "byol")),
    *(
        f"image/{name}_lars_imagenet{end}"
        for name in ("byol", "moco_v2plus")
        for end in ("", "_100ep")
    ),
    "supervised/imagenet_single_aug",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


@pytest.mark.parametrize(
    "name", [n for n in shipped() if n.startswith("image/") and not is_masked(n)]
)
def test_two_steps(name: str, images: Path, tmp_path: Path) -> None:
    published = read_recipe(name)
    encoder = published["encoder"]
    # A ViT-S/16 has its size in its name, unless it takes any.
    is_fixed = (
        encoder["kind"] == "timm" and not encoder["dynamic_size"] and "vit" in encoder["name"]
    )
    size = 224 if is_fixed else 32
    small = [
        "data.kind=image_folder",
        f"data.root={images}",
        f"data.size={size}",
        "run.epochs=1",
        "run.batch_size=8",
        "run.loader.workers=0",
        "run.log.every_steps=1",
    ]
    head = "method.base" if "base" in published["method"] else "method"
    own = published["method"].get("base", published["method"])
    small += [f"{head}.{key}={value}" for key, value in {"hidden_dim": 16, "dim": 8}.items()
              if key in own]  # fmt: skip
    tiny = "vit_tiny_patch16_224" if size == 224 else "test_vit"
    if encoder.get("name", "").startswith("efficientnet"):
        tiny = "test_efficientnet"
    small += {
        "timm": [f"encoder.name={tiny}"],
        "vit": ["encoder.width=24", "encoder.depth=1"],
    }.get(encoder["kind"], ["encoder.width=4"])
    if published["method"]["kind"] == "dino":
        small.append("method.prototypes=32")
    recipe = Recipe.build(read_recipe(name, with_start(name, small, tmp_path)))
    assert (
        recipe.config()["views"] == published["views"]
        and recipe.config()["optimizer"] == published["optimizer"]
    )
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
    assert len(losses) == 2 and None not in losses


@pytest.mark.parametrize("name", AIRL)
def test_the_warm_up_of_revisiting_airl_starts_at_1e_6(name: str) -> None:
    """Its base_trainer.py rises from 1e-6 to the rate over ten epochs, whatever the rate is."""
    recipe = read_recipe(name)
    lr, batch = recipe["optimizer"]["lr"], recipe["run"]["batch_size"]
    assert recipe["optimizer"]["lr_scaling"] == "batch/256"
    factor = construct(recipe["schedule"], "Schedule", {})
    assert lr * batch / 256 * factor(0, 1000, 5) == pytest.approx(1e-6, rel=1e-3)
    assert factor(50, 1000, 5) == 1.0
