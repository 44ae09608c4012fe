"""What sources of shards share, on an index that is not of files."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.formats.shards import write_index
from mezzotint.data.image.shards import ImageShards


def synthetic(root: Path, count: int, scored: int = 0) -> Path:
    """An index without shards: of `count` samples, the last tenth of which is `val`."""
    root.mkdir()
    numbers = np.arange(count)
    per_shard = max(1, count // 50)
    sizes = [min(per_shard, count - first) for first in range(0, count, per_shard)]
    facts = {
        "modality": "image", "classes": [f"class {i}" for i in range(10)],
        "splits": [["train", count - count // 10], ["val", count // 10]],
        "shards": [[f"{i:05d}.tar", size] for i, size in enumerate(sizes)],
    }  # fmt: skip
    columns = {
        "offset": numbers * 1024, "size": np.full(count, 900), "label": numbers % 10,
        "group": numbers, "digest": np.ones(count), "scored": numbers < scored,
    }  # fmt: skip
    write_index(root, facts, columns, [f"{i % 97}/{i}.jpg" for i in range(count)])
    return root


def test_a_source_travels_to_a_worker_without_its_columns(tmp_path: Path) -> None:
    source = ImageShards(root=str(synthetic(tmp_path / "shards", 20_000)), size=8)
    stored = pickle.dumps(source)
    assert len(stored) < 5000
    again = pickle.loads(stored)
    assert len(again) == len(source) == 18_000 and again.id_of(17_999) == source.id_of(17_999)
    assert np.array_equal(again.labels, source.labels) and again.classes == source.classes
    both = pickle.loads(pickle.dumps(source.evaluation()[0]))
    assert len(both) == 20_000


def test_opening_and_ordering_are_quick(tmp_path: Path) -> None:
    root = synthetic(tmp_path / "shards", 200_000)
    begin = time.process_time()
    source = ImageShards(root=str(root), size=8, window=1000)
    assert source.weighting is not None
    order = source.weighting.order(0, 0)
    assert torch.equal(order.sort().values, torch.arange(180_000))
    assert time.process_time() - begin < 2.0


def test_a_run_without_a_window_shuffles_all(tmp_path: Path) -> None:
    assert ImageShards(root=str(synthetic(tmp_path / "shards", 100)), size=8).weighting is None


@pytest.mark.parametrize("scored", [0, 30])
def test_without_a_split_a_part_is_held_out(tmp_path: Path, scored: int) -> None:
    root = synthetic(tmp_path / "shards", 100, scored)
    facts = json.loads((root / "index.json").read_text())
    (root / "index.json").write_text(json.dumps(facts | {"splits": [["train", 100]]}))
    source = ImageShards(root=str(root), size=8, holdout=0.2)
    samples, (task,) = source.evaluation()
    assert samples is source and task.name == "label/holdout"
    assert len(task.test) == (scored or 20) and len(task.train) == 100 - len(task.test)
