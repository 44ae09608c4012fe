"""Images of shards are those of the folder: samples, crops, tasks, and a whole run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint.data.image.folder import ImageFolder
from mezzotint.data.image.shards import ImageShards
from mezzotint.data.prepare.shard import shard
from mezzotint.recipe.reading import apply_overrides
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.embed import embed
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.types import Crop, Unreadable
from tests.tiny import config


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageFolder, ImageShards]:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 1)):
        for name in ("cat", "dog"):
            (root / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (20 + number, 26, 3), dtype=np.uint8)
                suffix = "jpg" if number % 2 else "png"
                Image.fromarray(pixels).save(root / "photos" / split / name / f"{number}.{suffix}")
    folder = ImageFolder(root=str(root / "photos"), size=16)
    shard(folder, root / "shards", samples=7)
    return folder, ImageShards(root=str(root / "shards"), size=16)


def test_samples_and_crops_are_those_of_the_folder(
    both: tuple[ImageFolder, ImageShards],
) -> None:
    folder, shards = both
    assert len(shards) == len(folder) and shards.classes == folder.classes
    where = {folder.id_of(i): i for i in range(len(folder))}
    for i in range(len(shards)):
        twin = where[shards.id_of(i)]
        found, expected = shards.read(i), folder.read(twin)
        assert torch.equal(found["x"], expected["x"]) and found["label"] == expected["label"]
        crops = [
            s.read_crops(n, lambda h, w: [Crop((1, 2, h - 3, w - 3), 8)])
            for s, n in ((shards, i), (folder, twin))
        ]
        assert torch.equal(crops[0][0], crops[1][0])


def test_tasks_and_splits_are_those_of_the_folder(both: tuple[ImageFolder, ImageShards]) -> None:
    (folder_samples, folder_tasks), (samples, tasks) = (source.evaluation() for source in both)
    assert [task.name for task in tasks] == [task.name for task in folder_tasks] == ["label/val"]
    for part in ("train", "test"):
        found, expected = (
            {(s.id_of(i), int(t.labels[i])) for i in getattr(t, part).tolist()}
            for s, t in ((samples, tasks[0]), (folder_samples, folder_tasks[0]))
        )
        assert found == expected
    (first, first_split), (other, other_split) = (source.everything() for source in both)
    assert {(first.id_of(i), s) for i, s in enumerate(first_split.tolist())} == {
        (other.id_of(i), s) for i, s in enumerate(other_split.tolist())
    }
    assert both[0].outcome().split(";")[:2] == both[1].outcome().split(";")[:2]


def test_a_held_out_part_stays_held_out(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (9, 9), (number, 7 * (name == "cat"), 0)).save(
                tmp_path / "photos" / name / f"{number}.png"
            )
    folder = ImageFolder(root=str(tmp_path / "photos"), size=8)
    shard(folder, tmp_path / "shards")
    shards = ImageShards(root=str(tmp_path / "shards"), size=8)
    assert len(shards) == len(folder) == 16
    scored = [
        {source.id_of(i) for i in source.evaluation()[1][0].test.tolist()}
        for source in (folder, shards)
    ]
    assert scored[0] == scored[1] and len(scored[0]) == 4


@pytest.mark.parametrize("window", [None, 6])
def test_a_run_on_shards_and_its_embeddings(
    window: int | None, both: tuple[ImageFolder, ImageShards], tmp_path: Path
) -> None:
    root = f"file://{both[1].root}" if window is None else both[1].root
    where = f"root: '{root}', size: 16, window: {'null' if window is None else window}"
    changes = [f"data={{kind: image_shards, {where}}}", "views.crop.size=16", "run.batch_size=8"]
    made = apply_overrides(config("simclr"), [*changes, "run.loader.workers=1"])
    recipe = Recipe.build(resolve_recipe(made))
    assert recipe.config()["data"]["window"] == window
    run = pretrain(recipe, tmp_path / "run", progress="quiet")
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [1, 2, 3]
    written = embed(recipe.encoder.eval(), recipe.data, tmp_path / "features.npz")
    assert dict(written.splits) == {"train": 24, "val": 8, "test": 2}


def test_damage_makes_a_sample_unreadable_and_no_more(
    both: tuple[ImageFolder, ImageShards], tmp_path: Path
) -> None:
    shard(both[0], tmp_path / "shards", samples=7)
    shards = ImageShards(root=str(tmp_path / "shards"), size=16)
    path = tmp_path / "shards" / "00000.tar"
    content = bytearray(path.read_bytes())
    content[int(shards.index.columns["offset"][3]) + 20] ^= 4
    path.write_bytes(content)
    with pytest.raises(Unreadable, match="changed after it was written"):
        shards.read(3)
    shards.read(2)
    path.unlink()
    with pytest.raises(Unreadable, match="missing: .*No such file"):
        shards.read(2)
    shards.read(7)


def test_a_window_is_positive(both: tuple[ImageFolder, ImageShards]) -> None:
    with pytest.raises(ValueError, match="`data.window` must be 1 or more, or null, got 0"):
        ImageShards(root=both[1].root, window=0)
