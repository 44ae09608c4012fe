"""The `run` section: bad values are refused by name, with a value to try."""

import math
from typing import Any

import pytest
import torch

from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import construct, resolve
from mezzotint.train.settings import Compute, Run
from tests.tiny import config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "`run.epochs` must be at least 1, got 0. Try 100."),
        ({"batch_size": -4}, "`run.batch_size` must be at least 1, got -4. Try 256."),
        ({"micro_batches": 0}, "`run.micro_batches` must be at least 1, got 0. Try 1."),
        ({"clip_norm": 0.0}, "`run.clip_norm` must be positive and finite, or null, got 0.0."),
        ({"clip_norm": math.inf}, "`run.clip_norm` must be finite in 32 bits, got inf."),
        ({"loader": {"workers": -1}}, "`run.loader.workers` must be at least 0, got -1."),
        (
            {"loader": {"max_unreadable_fraction": 1.0}},
            "`run.loader.max_unreadable_fraction` must be at least 0 and below 1, got 1.0. Try",
        ),
        ({"checkpoints": {"keep": 1}}, "`run.checkpoints.keep` must be at least 2, got 1."),
        (
            {"checkpoints": {"every_minutes": math.nan}},
            "`run.checkpoints.every_minutes` must be finite in 32 bits, got nan.",
        ),
        (
            {"checkpoints": {"every_steps": -1}},
            "`run.checkpoints.every_steps` must be at least 0, got -1.",
        ),
        ({"guard": {"patience": -1}}, "`run.guard.patience` must be at least 0, got -1."),
        ({"log": {"every_steps": 0}}, "`run.log.every_steps` must be at least 1, got 0. Try 10."),
        ({"log": {"knn_epochs": -1}}, "`run.log.knn_epochs` must be at least 0, got -1."),
        ({"log": {"map_epochs": -1}}, "`run.log.map_epochs` must be at least 0, got -1."),
        ({"log": {"map_layout": "mds"}}, "`run.log.map_layout` must be one of tsne, pca, umap,"),
        (
            {"log": {"classifier": {}}, "compute": {"compile": True}},
            "`run.log.classifier` needs the encoder's features",
        ),
    ],
)
def test_bad_values_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        construct(resolve(settings, "Run", "run"), "Run", {})
    assert str(caught.value).startswith(message)


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Compute().torch_device() == torch.device("cpu")
    with pytest.raises(ValueError, match="must be auto or cpu on a machine without CUDA, got cuda"):
        Compute(device="cuda").torch_device()


@pytest.mark.parametrize(("size", "parts", "processes"), [(250, 4, 1), (96, 4, 5), (6, 4, 2)])
def test_a_batch_must_divide_into_micro_batches_and_processes(
    size: int, parts: int, processes: int
) -> None:
    method = Recipe.build(config("byol")).method
    with pytest.raises(ValueError, match=f"= {parts} × {processes}, got {size}"):
        Run(batch_size=size, micro_batches=parts).require_accumulable(method, processes)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5])
def test_decays_out_of_range_are_refused(decay: float) -> None:
    with pytest.raises(
        ValueError,
        match=r"`run.compute.average` must be a decay between 0 and 1, or null, got",
    ):
        Compute(average=decay)


def test_a_seed_has_64_bits() -> None:
    assert Run(seed=-(2**63)).seed == -(2**63)
    for seed in (2**63, -(2**63) - 1):
        with pytest.raises(ValueError, match="`run.seed` must be within 64 bits, got"):
            Run(seed=seed)
