"""Stopped at odd points and resumed: bit for bit the uninterrupted run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.signals import Interrupted
from tests.tiny import config
from tests.train.test_loop import digest

SMALL = {"encoder": {"kind": "resnet8", "stem": "small", "width": 2}}


def made(**run: Any) -> Recipe:
    return Recipe.build(resolve_recipe({**config("byol", **run), **SMALL}))


@pytest.mark.parametrize(
    ("points", "run"),
    [
        (["loop.after_step:step=6", "loop.after_backward:step=7"], {"epochs": 2}),
        (["loop.after_backward:step=3"], {"micro_batches": 2, "clip_norm": 1.0}),
        (["checkpoint.after_model:step=4"], {"checkpoints": {"every_steps": 4}}),
        (["loop.after_step:step=6"], {"epochs": 2, "log": {"every_steps": 1, "knn_epochs": 1}}),
    ],
    ids=["ends of epochs", "after accumulation", "during a save", "before online kNN"],
)
def test_a_signal_at_an_odd_point_costs_nothing(
    points: list[str], run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(made(**run), tmp_path / "whole", progress="quiet")
    for number, point in enumerate(points):
        monkeypatch.setenv("MEZZOTINT_FAULT", f"{point}:sigterm")
        with pytest.raises(Interrupted):
            pretrain(made(**run), tmp_path / "parts", resume=number > 0, progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    pretrain(made(**run), tmp_path / "parts", resume=True, progress="quiet")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_another_number_of_workers_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(24):
        pixels = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{number}.png")

    def images(workers: int) -> Recipe:
        changed = {
            **config("byol", batch_size=8, epochs=2, loader={"workers": workers}), **SMALL,
            "data": {"kind": "image_folder", "root": str(tmp_path / "photos"), "size": 16},
            "views": {"kind": "two_views", "crop": {"size": 16}},
        }  # fmt: skip
        return Recipe.build(resolve_recipe(changed))

    pretrain(images(0), tmp_path / "whole", progress="quiet")
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=3:sigterm")
    with pytest.raises(Interrupted):
        pretrain(images(2), tmp_path / "parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    pretrain(images(1), tmp_path / "parts", resume=True, progress="quiet")
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert len(read_metrics(tmp_path / "parts/metrics.jsonl")) == 6
