"""Maps of the features that a run writes while it trains, and reading them back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.image.embedded import EmbeddedImages
from mezzotint.encoders.saving import load_encoder
from mezzotint.evaluation.features import extract
from mezzotint.evaluation.projection import components
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.report.atlas import maps_section
from mezzotint.train.callbacks import read_maps
from mezzotint.train.loop import pretrain

CONFIG = {
    "data": {"kind": "embedded_images", "name": "digits"},
    "views": {"kind": "two_views", "policy": {"kind": "identity"}},
    "encoder": {"kind": "resnet8", "stem": "patch", "width": 4},
    "method": {"kind": "simclr", "hidden_dim": 8, "dim": 4},
    "optimizer": {"kind": "sgd", "lr": 0.1},
    "run": {"epochs": 5, "batch_size": 256, "log": {"knn_epochs": 0, "map_epochs": 2}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrain(
        Recipe.build(resolve_recipe(CONFIG)),
        tmp_path_factory.mktemp("watch") / "run",
        progress="quiet",
    )


def test_a_map_before_training_at_each_interval_and_at_the_end(run: Path) -> None:
    assert [p.name for p in sorted((run / "maps").iterdir())] == [
        f"epoch-000{epoch}.npz" for epoch in (0, 2, 4, 5)
    ]
    maps = read_maps(run)
    assert [one.epoch for one in maps] == [0, 2, 4, 5]
    _, tasks = EmbeddedImages(name="digits").evaluation()
    task = next(t for t in tasks if t.kind == "classify")
    for one in maps:
        assert len(one.samples) == 500 and not set(one.samples) & set(task.test)
        assert np.array_equal(one.labels, task.labels[one.samples])
        assert np.array_equal(one.samples, maps[0].samples)
        assert one.components.dtype == np.float16


def test_the_last_map_is_of_the_encoder_that_is_left(run: Path) -> None:
    source, _ = EmbeddedImages(name="digits").evaluation()
    last = read_maps(run)[-1]
    features = extract(load_encoder(run), source, indices=torch.from_numpy(last.samples))
    expected = components(torch.nn.functional.normalize(features, dim=1), 0)
    # Components have no sign of their own: distances do not depend on it.
    found = last.components.astype(np.float64)
    ours, theirs = (np.linalg.norm(x[:50, None] - x[None, :50], axis=2) for x in (found, expected))
    assert np.abs(ours - theirs).max() < 5e-3 and theirs.max() > 0.05


def test_a_resumed_run_leaves_the_same_maps(run: Path, tmp_path: Path) -> None:
    config = {**CONFIG, "run": {**CONFIG["run"], "checkpoints": {"every_steps": 3}}}  # type: ignore[dict-item]
    again = pretrain(Recipe.build(resolve_recipe(config)), tmp_path / "run", progress="quiet")
    newest = sorted((again / "checkpoints").glob("step-*"))
    for path in [newest[-1], *(again / "maps").iterdir()]:
        _remove(path)
    pretrain(Recipe.build(resolve_recipe(config)), again, resume=True, progress="quiet")
    assert [p.name for p in (again / "maps").iterdir()] == ["epoch-0005.npz"]
    assert np.array_equal(read_maps(again)[0].components, read_maps(run)[-1].components)


def _remove(path: Path) -> None:
    for inner in path.iterdir() if path.is_dir() else ():
        inner.unlink()
    path.rmdir() if path.is_dir() else path.unlink()


def test_without_the_option_there_is_no_map(tmp_path: Path) -> None:
    config = {**CONFIG, "run": {"epochs": 1, "batch_size": 256, "log": {"knn_epochs": 0}}}
    out = pretrain(Recipe.build(resolve_recipe(config)), tmp_path / "run", progress="quiet")
    assert (
        not (out / "maps").exists()
        and read_maps(out) == []
        and maps_section(out, "tsne", 0) is None
    )


def test_samples_that_one_map_lacks_are_left_out_and_a_damaged_file_too(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "maps").mkdir()
    for epoch, samples in ((1, [3, 1, 2]), (10, [2, 4, 3])):
        indices = np.array(samples)
        path = tmp_path / "maps" / f"epoch-{epoch:04d}.npz"
        np.savez(path, components=indices[:, None] * 0.5, samples=indices, labels=indices * 10)
    (tmp_path / "maps" / "epoch-0011.npz").write_bytes(b"PK\x03\x04 half")
    first, second = read_maps(tmp_path)
    assert (first.epoch, second.epoch) == (1, 10)
    for one in (first, second):
        assert one.samples.tolist() == [2, 3] and one.labels.tolist() == [20, 30]
        assert one.components[:, 0].tolist() == [1.0, 1.5]


def test_the_section_shows_at_most_eight_maps_with_a_dot_for_each_sample(run: Path) -> None:
    section = maps_section(run, "pca", 0)
    assert section is not None
    assert [m["title"] for m in section["maps"]] == [
        "before training",
        "epoch 2",
        "epoch 4",
        "epoch 5",
    ]
    for one in section["maps"]:
        assert sum(path["d"].count("M") for path in one["paths"]) == 500
        assert [path["label"] for path in one["paths"]] == list(range(10))
    assert section["how"].startswith(
        "The same 500 training samples during training, laid out by two principal components"
    )


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
    assert (found["views"], found["forward_passes"], found["forward_passes_without_gradient"]) == (
        2,
        2.0,
        2.0,
    )
