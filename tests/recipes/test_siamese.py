"""Recipes of siamese methods have the values of their sources."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mezzotint.evaluation.bits import GRID
from mezzotint.methods.byol import squared_distance
from mezzotint.recipe.recipe import Recipe, read_recipe, resolve_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from tests import tiny


def image(name: str) -> dict[str, Any]:
    return read_recipe(f"image/{name}")


@pytest.mark.parametrize(
    ("name", "lr", "decay"), [("byol_cifar10", 0.05, 1e-4), ("byol_r18_imagenet", 0.1, 1e-4)]
)
def test_byol_of_ssql_takes_the_steps_of_the_mean_cosine(
    name: str, lr: float, decay: float
) -> None:
    """The authors' loss is minus the mean cosine of two directions, at these lr and decay.

    Ours has twice its gradient, so half of the lr and twice the decay are the same steps of SGD.
    """
    recipe = image(name)
    assert recipe["method"]["reduction"] == "mean"
    p, t = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    (ours,) = torch.autograd.grad(squared_distance(p, t), p)
    (theirs,) = torch.autograd.grad(-cosine_similarity(p, t, dim=1).mean(), p)
    torch.testing.assert_close(ours, 2 * theirs)
    assert recipe["optimizer"]["lr"] * 2 == lr
    assert recipe["optimizer"]["weight_decay"] == 2 * decay


def test_byol_of_ssqls_resnet_50_keeps_the_sum() -> None:
    recipe = image("byol_r50_imagenet")
    assert recipe["method"]["reduction"] == "sum"
    assert (recipe["optimizer"]["lr"], recipe["optimizer"]["weight_decay"]) == (0.05, 1e-4)


def test_zero_init_residual_belongs_to_simsiam_alone() -> None:
    for name in ("byol_r18_imagenet", "byol_r50_imagenet"):
        assert image(name)["encoder"]["zero_init_residual"] is False
    for name in ("simsiam_r18_imagenet", "ssql_simsiam_r50_imagenet"):
        assert image(name)["encoder"]["zero_init_residual"] is True


CIFAR = ("simsiam", "simclr", "moco", "byol", "simsiam_r34", "ssql_simsiam", "ssql_moco",
         "ssql_byol", "ssql_simclr", "ssql_simsiam_r34")  # fmt: skip


@pytest.mark.parametrize(
    "name", [*(f"{name}_cifar10" for name in CIFAR), "ssql_simsiam_r50_cifar100"]
)
def test_no_batch_norm_is_synchronized_on_cifar(name: str) -> None:
    assert image(name)["run"]["compute"]["sync_batch_norm"] is False


def test_keys_are_shuffled_where_batch_norm_is_not_synchronized() -> None:
    assert image("moco_cifar10")["method"]["shuffle"] is True
    assert image("ssql_moco_cifar10")["method"]["base"]["shuffle"] is True


def test_simclrs_head_of_ssql_has_no_batch_norm() -> None:
    for method in (
        image("simclr_cifar10")["method"],
        image("ssql_simclr_cifar10")["method"]["base"],
    ):
        assert (method["hidden_norm"], method["last_norm"]) == (False, False)
        assert (method["hidden_dim"], method["dim"], method["temperature"]) == (2048, 256, 0.5)


def test_supervised_baseline_of_airl_has_one_view_and_plain_batch_norm() -> None:
    recipe = read_recipe("supervised/imagenet_single_aug")
    assert recipe["views"]["kind"] == "one_view" and recipe["views"]["policy"]["kind"] == "identity"
    assert recipe["views"]["crop"]["scale"] == [0.08, 1.0] and recipe["views"]["flip"] == 0.5
    assert recipe["run"]["compute"]["sync_batch_norm"] is False
    assert (recipe["run"]["epochs"], recipe["optimizer"]["lr"]) == (200, 0.1)


def test_randomized_quantization_is_alone_after_the_crop() -> None:
    """The README's chain: crop, quantize; the first row of its table has no crop either."""
    for name, epochs, lr in (
        ("randquant_alone_mocov3_imagenet", 100, 0.6),
        ("randquant_mocov3_imagenet_100ep", 100, 0.6),
        ("randquant_mocov3_imagenet_300ep", 300, 0.3),
        ("randquant_mocov3_imagenet_800ep", 800, 0.3),
    ):
        recipe = image(name)
        views = recipe["views"]
        assert (views["flip"], views["policy"]["kind"]) == (0.0, "identity")
        assert views["randomized_quantization"]["bins"] == 8
        crop = (views["crop"]["scale"], views["crop"]["ratio"])
        alone = crop == ([1.0, 1.0], [1.0, 1.0])
        assert alone == ("alone" in name) and (alone or crop[0] == [0.2, 1.0])
        assert (recipe["run"]["epochs"], recipe["optimizer"]["lr"]) == (epochs, lr)


def test_mocov3_as_published() -> None:
    """The table of the README: epochs, lr for 256 samples, decay, momentum; batches of 4096."""
    for name, *expected in (
        ("mocov3_imagenet_100ep", 100, 0.6, 1e-6, 0.99),
        ("mocov3_imagenet_300ep", 300, 0.3, 1e-6, 0.99),
        ("mocov3_imagenet_1000ep", 1000, 0.3, 1.5e-6, 0.996),
        ("mocov3_vit_s_imagenet", 300, 1.5e-4, 0.1, 0.99),
        ("mocov3_vit_b_imagenet", 300, 1.5e-4, 0.1, 0.99),
    ):
        recipe = image(name)
        optimizer, run, method = recipe["optimizer"], recipe["run"], recipe["method"]
        assert [
            run["epochs"], optimizer["lr"], optimizer["weight_decay"], method["momentum"],
        ] == expected  # fmt: skip
        vit = "vit" in name
        assert (run["batch_size"], optimizer["lr_scaling"]) == (4096, "batch/256")
        assert method["temperature"] == (0.2 if vit else 1.0)
        assert recipe["schedule"]["warmup_epochs"] == (40 if vit else 10)
        assert recipe["views"]["crop"]["scale"][0] == (0.08 if vit else 0.2)


def test_mocov3s_vits_are_its_own() -> None:
    """12 heads at both widths, a class token, fixed positions, and a frozen patch embedding."""
    for name, width in (("mocov3_vit_s_imagenet", 384), ("mocov3_vit_b_imagenet", 768)):
        recipe = image(name)
        encoder = {
            key: recipe["encoder"][key] for key in ("kind", "width", "depth", "heads", "pool")
        }
        assert encoder == {"kind": "vit", "width": width, "depth": 12, "heads": 12, "pool": "cls"}
        assert recipe["encoder"]["initialization"] == "mocov3"
        assert recipe["method"]["stop_grad_patch_embed"] is True


def test_a_run_with_draws_for_each_branch(tmp_path: Path) -> None:
    recipe = tiny.config("mocov3")
    quantization = {"bins": 8, "p": 1.0}
    losses = []
    for per_branch in (False, True):
        views = {"kind": "two_views", "randomized_quantization": quantization}
        config = resolve_recipe({**recipe, "views": {**views, "per_branch": per_branch}})
        run = pretrain(Recipe.build(config), tmp_path / str(per_branch), progress="quiet")
        losses.append([line["loss"] for line in read_metrics(run / "metrics.jsonl")])
    assert None not in losses[1] and losses[0][0] != losses[1][0]


def supervised(name: str) -> dict[str, Any]:
    return read_recipe(f"supervised/{name}")


def milestones(recipe: dict[str, Any]) -> list[Any]:
    epochs: int = recipe["run"]["epochs"]
    return [pytest.approx(epochs * part) for part in recipe["schedule"]["milestones"]]


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "lr", "steps"),
    [
        ("linear_ssql_cifar10", 100, 512, 30.0, [60, 80]),
        ("linear_ssql_transfer", 100, 256, 30.0, [60, 80]),
        ("linear_solo_learn", 100, 256, 0.1, [60, 80]),
    ],
)
def test_linear_evaluation(name: str, epochs: int, batch: int, lr: float, steps: list[int]) -> None:
    """The authors' YAML files, and solo-learn's scripts/linear/imagenet/byol.yaml."""
    recipe = supervised(name)
    assert recipe["method"]["freeze"] is True and milestones(recipe) == steps
    assert (recipe["run"]["epochs"], recipe["run"]["batch_size"]) == (epochs, batch)
    optimizer = recipe["optimizer"]
    assert (optimizer["kind"], optimizer["lr"], optimizer["weight_decay"]) == ("sgd", lr, 0.0)
    assert recipe["views"]["crop"]["scale"] == [0.8 if "cifar" in name else 0.08, 1.0]
    assert recipe["views"]["policy"]["kind"] == "identity" and recipe["views"]["flip"] == 0.5


def test_linear_evaluation_of_ssql_on_imagenet_is_larc_without_clipping() -> None:
    recipe = supervised("linear_ssql_imagenet")
    optimizer = {k: recipe["optimizer"][k] for k in ("kind", "lr", "trust", "clip", "weight_decay")}
    assert optimizer == {"kind": "larc", "lr": 0.8, "trust": 1e-3, "clip": False, "weight_decay": 0}
    assert (recipe["schedule"]["kind"], recipe["schedule"]["per_epoch"]) == ("cosine", True)
    assert (recipe["run"]["epochs"], recipe["run"]["batch_size"]) == (60, 1024)


@pytest.mark.parametrize(
    ("name", "data"),
    [("aircraft", "aircraft"), ("caltech101", "caltech101"), ("dtd", "dtd"),
     ("flowers", "flowers102"), ("food101", "food101"), ("pets", "pets"), ("imagenet", ""),
     ("imagenet_r50", "")],
)  # fmt: skip
def test_fine_tuning_of_ssql(name: str, data: str) -> None:
    """Its YAML files: 4 GPUs of 64 images, 100 for the ResNet-50 on ImageNet, which has LARC."""
    recipe = supervised(f"ssql_finetune_{name}")
    source, optimizer, run = recipe["data"]["source"], recipe["optimizer"], recipe["run"]
    large = name == "imagenet_r50"
    assert source.get("name", "") == data and source["size"] == 224
    assert recipe["views"]["crop"]["scale"] == [0.08, 1.0] and recipe["method"]["freeze"] is False
    assert (optimizer["kind"], optimizer["weight_decay"]) == ("larc" if large else "sgd", 1e-4)
    assert optimizer["lr"] == (0.001 if data else 0.01)
    expected = (
        (50, 256, [30, 40]) if data else (60, 400, [30, 45]) if large else (90, 256, [30, 60])
    )
    assert (run["epochs"], run["batch_size"], milestones(recipe)) == expected
    assert recipe["evaluate"]["bits"] == [str(bits) for bits in GRID[1:]]
    classes = {"aircraft": 100, "caltech101": 102, "dtd": 47, "flowers": 102, "food101": 101}
    count = recipe["method"]["num_classes"]
    assert count == {**classes, "pets": 37}.get(name, 1000)
