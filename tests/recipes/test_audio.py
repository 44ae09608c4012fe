"""Every shipped audio recipe builds and trains two steps with its method, views and optimizer."""

from pathlib import Path

import numpy as np
import pytest

from mezzotint.recipe.reading import shipped
from mezzotint.recipe.recipe import Recipe, read_recipe, resolve_recipe
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.signals import Interrupted
from tests.recipes.starts import with_start
from tests.tiny import is_masked

soundfile = pytest.importorskip("soundfile")

NAMES = [name for name in shipped() if name.startswith("audio/") and not is_masked(name)]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    for number in range(16):
        wave = rng.standard_normal((rng.integers(4000, 60000), 1 + number % 2)) * 0.1
        soundfile.write(folder / f"{number}.ogg", wave, 22050)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_two_steps(name: str, sounds: Path, tmp_path: Path) -> None:
    published = read_recipe(name)
    vit = published["encoder"]["kind"] == "vit"
    small = ["run.epochs=1", "run.batch_size=8", "run.loader.workers=0", "run.log.every_steps=1"]
    small += (
        ["encoder.width=24", "encoder.depth=1", "encoder.heads=2"] if vit else ["encoder.width=4"]
    )
    small += ["run.compute.precision=fp32"]
    sizes = {"hidden_dim": 16, "dim": 8}
    small += [f"method.{k}={v}" for k, v in sizes.items() if k in published["method"]]
    small += ["run.log.knn_epochs=0"]
    small += [f"data.root={sounds}"] if "root" in published["data"] else []
    small += ["run.batch_size=512"] if published["data"]["kind"] == "speech" else []
    recipe = Recipe.build(read_recipe(name, with_start(name, small, tmp_path)))
    assert (
        recipe.config()["views"] == published["views"]
        and recipe.config()["optimizer"] == published["optimizer"]
    )
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    losses = [line["loss"] for line in read_metrics(run / "metrics.jsonl")]
    assert len(losses) >= 2 and None not in losses


@pytest.mark.parametrize("bank", [0, 300, 700])
def test_a_resumed_run_mixes_with_the_same_earlier_samples(
    bank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe() -> Recipe:
        config = {
            "data": {"kind": "speech"},
            "views": {"kind": "byol_a", "frames": 32, "bank": bank},
            "encoder": {"kind": "audio_ntt", "width": 4, "dim": 16, "dropout": 0.0},
            "method": {"kind": "byol", "hidden_dim": 16, "dim": 8},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "run": {"epochs": 1, "batch_size": 200, "log": {"every_steps": 1, "knn_epochs": 0}},
        }
        return Recipe.build(resolve_recipe(config))

    def losses(folder: Path) -> list[float]:
        return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]

    pretrain(recipe(), tmp_path / "whole", progress="quiet")
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.after_backward:step=5:sigterm")
    with pytest.raises(Interrupted):
        pretrain(recipe(), tmp_path / "parts", progress="quiet")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    pretrain(recipe(), tmp_path / "parts", resume=True, progress="quiet")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 7
