"""Audio of shards is that of the folder."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mezzotint.data.audio.folder import AudioFolder
from mezzotint.data.audio.shards import AudioShards
from mezzotint.data.prepare.shard import shard


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[AudioFolder, AudioShards]:
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 2)):
        for name in ("bark", "meow"):
            (root / "audio" / split / name).mkdir(parents=True)
            for number in range(count):
                suffix = ("wav", "flac", "ogg")[number % 3]
                wave = rng.normal(0, 0.1, (5000 + number * 800, 1 + number % 2))
                soundfile.write(root / "audio" / split / name / f"{number}.{suffix}", wave, 16000)
    folder = AudioFolder(root=str(root / "audio"), seconds=0.3)
    shard(folder, root / "shards", samples=5)
    return folder, AudioShards(root=str(root / "shards"), seconds=0.3)


def test_samples_are_those_of_the_folder(both: tuple[AudioFolder, AudioShards]) -> None:
    folder, shards = both
    assert len(shards) == len(folder) == 12 and shards.classes == folder.classes
    assert shards.input.shape == folder.input.shape
    # Both measure all 12 files, in another order.
    assert shards.input.mean == pytest.approx(folder.input.mean, rel=1e-6)
    where = {folder.id_of(i): i for i in range(len(folder))}
    for i in range(len(shards)):
        found, expected = shards.read(i), folder.read(where[shards.id_of(i)])
        assert torch.equal(found["x"], expected["x"]) and found["label"] == expected["label"]


def test_tasks_are_those_of_the_folder(both: tuple[AudioFolder, AudioShards]) -> None:
    scored = []
    for source in both:
        samples, (task,) = source.evaluation()
        scored.append({(samples.id_of(i), int(task.labels[i])) for i in task.test.tolist()})
        assert task.name == "label/test"
    assert scored[0] == scored[1] and len(scored[0]) == 4


def test_a_bad_holdout_is_refused(both: tuple[AudioFolder, AudioShards], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`holdout` must be more than 0"):
        AudioShards(root=str(tmp_path), holdout=1.0)
