"""The recipes of MASSRL and MV-MA say what the authors' scripts and the paper's figure say."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint.augment.image.multi_augment import MultiAugment
from mezzotint.encoders.saving import load_encoder
from mezzotint.methods.byol import BYOL
from mezzotint.methods.siamese import pairs
from mezzotint.recipe.recipe import Recipe, read_recipe
from mezzotint.recipe.schema import construct
from mezzotint.seeding import Draws
from mezzotint.train.loop import pretrain
from mezzotint.types import Views

IMAGES = 1_281_167
FOUR = ["byol", "rand_augment", "auto_augment", "fast_auto_augment"]

# name, epochs, batch, learning rate for 256 samples, first and last learning rate, views,
# policies, crop. The authors' first rate is 3e-5 times the batches that are accumulated.
RUNS: list[tuple[str, int, int, float, float, float, int, list[str], tuple[float, float]]] = [
    ("massrl_imagenet", 300, 2048, 0.3, 3e-5, 0.0, 8, FOUR, (0.08, 1.0)),
    ("massrl_4views_imagenet", 300, 2048, 0.3, 3e-5, 0.0, 4, FOUR, (0.08, 1.0)),
    ("massrl_imagenet_600ep", 600, 1600, 0.5, 6e-5, 0.0, 8, FOUR, (0.08, 1.0)),
    ("massrl_sampled_imagenet", 300, 2048, 0.3, 3e-5, 0.0, 2, FOUR[:3], (0.5, 1.0)),
    ("mvma_byol_imagenet", 100, 3200, 0.4, 6e-5, 0.0, 8, FOUR[:2], (0.3, 1.0)),
    ("mvma_dino_imagenet", 100, 1024, 5e-4, 0.0, 1e-5, 8, FOUR[:2], (0.4, 1.0)),
]


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "lr", "first", "last", "count", "kinds", "scale"), RUNS
)
def test_epochs_batch_rate_and_views(
    name: str,
    epochs: int,
    batch: int,
    lr: float,
    first: float,
    last: float,
    count: int,
    kinds: list[str],
    scale: tuple[float, float],
) -> None:
    recipe = read_recipe(f"image/{name}")
    assert (recipe["run"]["epochs"], recipe["run"]["batch_size"]) == (epochs, batch)
    assert recipe["optimizer"]["lr"] == lr and recipe["optimizer"]["lr_scaling"] == "batch/256"
    scaled, steps = lr * batch / 256, IMAGES // batch
    factor = construct(recipe["schedule"], "Schedule", {})
    assert scaled * factor(0, epochs * steps, steps) == pytest.approx(first, rel=1e-3)
    assert factor(10 * steps, epochs * steps, steps) == 1.0
    if name.startswith("massrl"):  # Lightning's default steps the schedule after each epoch
        assert factor(steps - 1, epochs * steps, steps) == factor(0, epochs * steps, steps)
        assert factor(9 * steps, epochs * steps, steps) == 1.0
    assert scaled * factor(epochs * steps, epochs * steps, steps) == pytest.approx(last, rel=1e-3)
    views = construct(recipe["views"], "ViewGenerator", {})
    assert isinstance(views, MultiAugment) and views.num_views == count
    assert [policy["kind"] for policy in recipe["views"]["policies"]] == kinds
    assert {view.crop.scale for view in views.views if view.tag != "local"} == {scale}


@pytest.mark.parametrize("name", [run[0] for run in RUNS if "dino" not in run[0]])
def test_optimizer_and_momentum_of_the_byol_runs(name: str) -> None:
    recipe = read_recipe(f"image/{name}")
    optimizer: dict[str, Any] = recipe["optimizer"]
    chosen = {
        key: optimizer[key] for key in ("kind", "momentum", "weight_decay", "trust", "exclude")
    }
    assert chosen == {
        "kind": "lars",
        "momentum": 0.9,
        "weight_decay": 1e-6,
        "trust": 1e-3,
        "exclude": "norm_and_bias",
    }
    assert recipe["run"]["compute"]["precision"] == "fp16" and recipe["method"]["momentum"] == 0.99
    wide = name.endswith("600ep")
    assert (recipe["method"]["dim"], recipe["method"]["layers"]) == ((512, 3) if wide else (256, 2))
    assert recipe["views"]["policies"][0]["solarize_p"] == (0.2 if wide else 0.0)
    randaugment = recipe["views"]["policies"][1]
    assert (randaugment["num_ops"], randaugment["magnitude"], randaugment["bins"]) == (2, 9, 31)


@pytest.mark.parametrize(("name", "crops"), [("massrl_imagenet", 2), ("massrl_4views_imagenet", 4)])
def test_both_readings_of_the_authors_code(name: str, crops: int) -> None:
    """Two crops that four policies share, 56 terms; or one crop for each policy, 12 terms."""
    views = construct(read_recipe(f"image/{name}")["views"], "ViewGenerator", {})
    assert isinstance(views, MultiAugment) and len(views.crops) == crops
    count = views.num_views
    made = Views(
        tuple(torch.zeros(2, 3) for _ in range(count)), views.tags, Draws(torch.arange(2), 0)
    )
    assert len(pairs(made)) == count * (count - 1) == (56 if crops == 2 else 12)


def test_local_crops_and_dino() -> None:
    byol, dino = (read_recipe(f"image/mvma_{name}_imagenet") for name in ("byol", "dino"))
    for recipe, local in ((byol, [0.1, 0.3]), (dino, [0.1, 0.4])):
        crop = recipe["views"]["local_crop"]
        assert (crop["size"], list(crop["scale"]), recipe["views"]["num_local"]) == (96, local, 2)
        assert recipe["views"]["local_loss"]["weight"] == 0.5
    assert byol["run"]["micro_batches"] == 2 and byol["views"]["local_loss"]["schedule"] == "step"
    method = dino["method"]
    assert (method["prototypes"], method["dim"], method["hidden_dim"]) == (65536, 256, 2048)
    assert (method["temperature"], list(method["teacher_temperature"])) == (0.1, [0.04, 0.07])
    assert (method["teacher_warmup_epochs"], method["momentum"], method["center_momentum"]) == (
        30,
        0.996,
        0.9,
    )
    decay = dino["optimizer"]
    assert (decay["kind"], decay["weight_decay"], decay["final_weight_decay"]) == (
        "adamw",
        4e-4,
        0.04,
    )
    assert dino["encoder"]["drop_path"] == 0.1


def test_the_target_moves_after_every_step(tmp_path: Path) -> None:
    byol = "method={kind: byol, hidden_dim: 8, dim: 8, momentum: 0.0, momentum_schedule: constant}"
    tiny = [
        "data.name=digits",
        "encoder.width=2",
        "encoder.stem=small",
        "run.epochs=1",
        "run.batch_size=512",
        byol,
    ]
    recipe = Recipe.load("image/emoji_massrl", [*tiny, "run.log.knn_epochs=0", "views.crop.size=8"])
    run = pretrain(recipe, tmp_path / "run", progress="quiet")  # 3 steps
    assert isinstance(recipe.method, BYOL)
    trained = dict(load_encoder(run).named_parameters())
    for (
        name,
        target,
    ) in (
        recipe.method.target_encoder.named_parameters()
    ):  # with a momentum of 0 it is the trained one
        torch.testing.assert_close(target, trained[name])
