"""A tiny complete run, as `mezzotint pretrain` leaves it, made in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mezzotint.encoders.saving import save_encoder
from mezzotint.recipe.recipe import Recipe

CLASSES = ("red", "green", "blue")

MakeRun = Callable[..., Path]


def colored(count: int, names: tuple[str, ...] = CLASSES, size: int = 16) -> dict[str, Any]:
    """Noisy images, each of the color of its class: `x` and `y` of an npz."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % len(names)
    x = rng.integers(0, 176, (count, size, size, 3))
    x[np.arange(count), :, :, labels % 3] += 80
    return {"x": x.astype(np.uint8), "y": np.array([names[label] for label in labels])}


def _row(probe: str, metric: str, value: float, seed: int = 0) -> dict[str, Any]:
    bits = {"bits": "fp32", "compute": "float32"}
    return {
        "probe": probe,
        "metric": metric,
        "value": value,
        **bits,
        "seed": seed,
        "protocol": {
            "probe": probe,
            "version": 1,
            "settings": {"k": 10},
            "train": 48,
            "test": 12,
        },
    }


def _metric_lines(count: int) -> list[dict[str, Any]]:
    lines = []
    for step in range(1, count + 1):
        line = {
            "step": step,
            "epoch": step / 4,
            "seconds": step * 0.5,
            "skipped": 0,
            "unreadable": 1,
            "loss": 3.0 / step,
            "lr": 0.1,
            "grad_norm": 1.0 / step,
            "images_per_second": 500.0 + step,
            "data_wait": 0.01,
            "augment_share": 0.1,
        }
        lines.append(line | ({"knn/label/holdout": 0.5 + step / 100} if step % 4 == 0 else {}))
    return lines


@pytest.fixture
def colored_images() -> Callable[..., dict[str, Any]]:
    """Takes how many, the names of the classes, and the side; returns arrays `x` and `y`."""
    return colored


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run directory; `classes`, `name` and `data` change its content."""

    def make(
        *,
        classes: tuple[str, ...] = CLASSES,
        name: str = "tiny",
        data: dict[str, Any] | None = None,
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        if data is None:
            np.savez(tmp_path / "images.npz", **colored(60, classes))
            data = {"kind": "arrays", "path": str(tmp_path / "images.npz")}
        sections = {
            "data": data,
            "encoder": {"kind": "resnet18", "stem": "small", "width": 4},
            "method": {"kind": "simclr", "hidden_dim": 16, "dim": 8},
            "optimizer": {"kind": "sgd", "lr": 0.1},
            "run": {"epochs": 1, "batch_size": 16},
        }
        (run / "recipe.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
        recipe = Recipe.load(run)
        (run / "recipe.yaml").write_text(recipe.to_yaml())
        save_encoder(recipe.encoder, run / "encoder")
        (run / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in _metric_lines(8))
        )
        linear = [
            _row("linear", "label/holdout/top1", 0.8 + 0.01 * seed, seed) for seed in range(3)
        ]
        rank = [_row("rank", "all/spread", 0.9), _row("rank", "all/rank_ratio", 0.4)]
        rows = [
            *linear,
            _row("linear", "label/holdout/gap", 1e-5),
            _row("knn", "label/holdout/top1", 0.75),
            *rank,
        ]
        (run / "evaluation.json").write_text(json.dumps(rows))
        baselines = {
            "raw": [
                _row("linear", "label/holdout/top1", 0.5),
                _row("knn", "label/holdout/top1", 0.55),
            ],
            "handmade": [_row("linear", "label/holdout/top1", 0.7)],
            "untrained": [
                _row("linear", "label/holdout/top1", 0.6),
                _row("knn", "label/holdout/top1", 0.4),
            ],
        }
        (run / "baselines.json").write_text(json.dumps(baselines))
        environment = {
            "command": "mezzotint pretrain tiny.yaml --out runs/tiny",
            "torch": "2.14.1",
            "cpu": "a <fast> one",
            "parameters": 12345,
            "samples": 60,
            "steps": 8,
            "seconds": 4.0,
            "skipped_steps": [3],
            "unreadable": {
                "bad1.jpg": "truncated",
                "bad2.jpg": "truncated",
                "huge.png": "too many pixels",
            },
        }
        (run / "environment.json").write_text(json.dumps(environment))
        return run

    return make
