"""What sources of shards share, on an index that is not of files; and orders within windows."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mezzotint.data.formats.shards import write_index
from mezzotint.data.image.shards import ImageShards
from mezzotint.data.listing import sharded
from mezzotint.data.listing.sharded import ShardOrder
from mezzotint.seeding import Draws, key_of, sample_order


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


@pytest.mark.parametrize(("samples", "window"), [(100, 10), (95, 7), (100, 1000), (41, 1)])
def test_an_order_is_a_permutation_within_windows(samples: int, window: int) -> None:
    firsts = np.array([0, 13, 40, 40, 77, 100])
    order = ShardOrder(firsts, samples, window)
    first, other = order.order(3, 0), order.order(3, 1)
    assert torch.equal(first.sort().values, torch.arange(samples))
    assert torch.equal(first, order.order(3, 0)) and not torch.equal(first, other)
    assert not torch.equal(first, order.order(4, 0))
    # The samples of the first windows are those of the first shards of the epoch.
    shard = torch.from_numpy(np.searchsorted(firsts, first.numpy(), side="right") - 1)
    for start in range(0, samples, window):
        part = first[start : start + window]
        touched = set(shard[start : start + window].tolist())
        assert len(touched) <= 2 + window // 13
        assert window <= 2 or len(part) < 5 or not torch.equal(part, part.sort().values)


@pytest.mark.parametrize("at_once", [1 << 18, 20])
@pytest.mark.parametrize("window", [1, 7, 10, 1000])
def test_an_order_within_windows_is_that_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch, window: int, at_once: int
) -> None:
    monkeypatch.setattr(sharded, "_AT_ONCE", at_once)
    bounds = [0, 13, 40, 40, 77, 95]
    walk = torch.cat([torch.arange(bounds[i], bounds[i + 1]) for i in sample_order(5, 3, 1)])
    draws = Draws(torch.arange(95), key_of(3, 1, "order within windows"))
    keys = draws.bits("order") + (torch.arange(95) // window << 32)
    order, whole = ShardOrder(np.array([0, 13, 40, 40, 77, 100]), 95, window), keys.argsort()
    assert torch.equal(order.order(3, 1), walk[whole])
    for start, stop in ((0, 5), (3, 50), (40, 41), (77, 95), (90, 200), (95, 120)):
        part = order.order(3, 1, start=start, stop=stop)
        assert torch.equal(part, walk[whole[start:stop]])


def test_every_shard_and_window_is_shuffled() -> None:
    order = ShardOrder(np.arange(0, 10_001, 100), 10_000, 500)
    positions = torch.stack([order.order(0, epoch).argsort() for epoch in range(60)]).double()
    middle = positions.mean(dim=0)
    # Of 60 uniform positions, the mean has the standard deviation 10,000 / √12 / √60 = 373.
    assert float((middle - 4999.5).abs().max()) < 6 * 373
