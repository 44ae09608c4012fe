"""A run goes on with other numbers of processes and workers: 1 → 2 → 1, against one process."""

import copy
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as td
from PIL import Image

from mezzotint import dist
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.log import Meter, read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.signals import Interrupted, StopFlag
from mezzotint.types import Batch
from tests.ranks import spawn

CPU = torch.device("cpu")
SAMPLES, BATCH, STEPS = 26, 8, 9  # three steps an epoch, two samples are dropped
FIRST, SECOND = 2, 7  # steps after which the run moves: within the first and the third epoch
METHODS: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 16, "dim": 8, "hidden_norm": False, "last_norm": False},
    # The queue is no multiple of the batch, and wraps round within a batch.
    "moco": {"hidden_dim": 16, "dim": 8, "queue_size": 27, "momentum": 0.9, "symmetric": True},
}


def config(root: Path, method: str, workers: int) -> dict[str, Any]:
    return resolve_recipe(
        {
            "data": {"kind": "image_folder", "root": str(root), "size": 8},
            "views": {"kind": "two_views", "policy": {"kind": "simclr", "blur_p": 0.0}},
            "encoder": {
                "kind": "vit",
                "patch": 4,
                "width": 12,
                "depth": 1,
                "heads": 2,
            },
            "method": {"kind": method, **METHODS[method]},
            "optimizer": {"kind": "adamw", "lr": 1e-3},
            "schedule": {"kind": "cosine", "warmup_epochs": 1},
            "run": {
                "epochs": STEPS * BATCH // (SAMPLES - 2),
                "batch_size": BATCH,
                "loader": {"workers": workers},
                "log": {"every_steps": 1, "knn_epochs": 0},
            },
        }
    )


def train(made: dict[str, Any], out: Path, stop: int, *, resume: bool) -> dict[int, list[int]]:
    """Train up to a step; return the samples of each step on this process."""
    trainer = Trainer(Recipe.build(copy.deepcopy(made)), CPU)
    flag, seen, step_of = StopFlag(), dict[int, list[int]](), trainer.step

    def noted(step: int, batch: Batch, meter: Meter, *, wait: bool = True) -> dict[str, float]:
        seen[step] = batch.ids.tolist()
        flag.number = 15 if step + 1 == stop else 0
        return step_of(step, batch, meter, wait=wait)

    trainer.step = noted  # type: ignore[method-assign]
    out.mkdir(exist_ok=True)
    try:
        trainer.fit(out, flag, resume=resume, progress="quiet")
    except Interrupted:
        assert stop < STEPS
    return seen


def _worker(rank: int, folder: str, root: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2,
        timeout=timedelta(seconds=30),
    )  # fmt: skip
    seen = {
        method: train(config(Path(root), method, 1), Path(folder) / method, SECOND, resume=True)
        for method in METHODS
    }
    torch.save(seen, f"{folder}/seen-{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(SAMPLES):
        pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def moved(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Train each method on 1, 2 and 1 processes with 0, 1 and 0 workers."""
    folder = tmp_path_factory.mktemp("moved")
    seen: dict[str, Any] = {}
    for method in METHODS:
        seen[method] = train(config(photos, method, 0), folder / method, FIRST, resume=False)
    spawn(_worker, (str(folder), str(photos)), nprocs=2)
    ranks = [torch.load(folder / f"seen-{rank}.pt", weights_only=True) for rank in range(2)]
    for method in METHODS:
        first, second = (rank[method] for rank in ranks)
        assert sorted(first) == list(range(FIRST, SECOND)) and first.keys() == second.keys()
        seen[method] |= {step: first[step] + second[step] for step in first}
        seen[method] |= train(config(photos, method, 0), folder / method, STEPS, resume=True)
    return folder, seen


@pytest.mark.xdist_group("resume_elsewhere")
@pytest.mark.parametrize("method", METHODS)
def test_the_order_and_the_losses_are_those_of_an_uninterrupted_run(
    method: str, moved: tuple[Path, dict[str, Any]], photos: Path, tmp_path: Path
) -> None:
    folder, seen = moved
    alone = train(config(photos, method, 0), tmp_path / "alone", STEPS, resume=False)
    assert seen[method] == alone
    for epoch in range(3):
        samples = Counter(i for step in range(3 * epoch, 3 * epoch + 3) for i in alone[step])
        assert len(samples) == 24 and set(samples.values()) == {1}
    lines = [read_metrics(out / "metrics.jsonl") for out in (folder / method, tmp_path / "alone")]
    assert [line["step"] for line in lines[0]] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm"):
        found, expected = ([line[key] for line in run] for run in lines)
        assert found == pytest.approx(expected, abs=1e-5, rel=1e-5), key
    saved = [
        CheckpointStore(out / "checkpoints").latest()[0]
        for out in (folder / method, tmp_path / "alone")
    ]
    assert saved[0] is not None and saved[1] is not None
    for name, tensor in saved[1].model.items():
        other = saved[0].model[name]
        if name.endswith("qkv.bias"):
            # The bias of keys moves all logits of a query alike. Its gradient is rounding alone,
            # which Adam makes as large as any other.
            tensor, other = (t.view(3, -1)[::2] for t in (tensor, other))
        torch.testing.assert_close(other, tensor, atol=2e-5, rtol=0)


def test_processes_that_would_change_the_batch_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(photos, "simclr", 0)
    made["run"] |= {"batch_size": 256, "epochs": 1, "micro_batches": 1}
    made["data"]["root"] = str(photos)
    (photos / "25.png").rename(tmp_path / "25.png")  # an odd number of samples
    try:
        pretrain(Recipe.build(copy.deepcopy(made)), tmp_path / "run", progress="quiet")
        other = Recipe.build(made)
        other.run = other.run.lowered(25, 2)
        trainer = Trainer(other, CPU)
    finally:
        (tmp_path / "25.png").rename(photos / "25.png")
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    with pytest.raises(
        RecipeError,
        match="has batches of 25 samples, and 2 processes would make them 24, so that .* Resume it "
        "on the number of processes that it was started with",
    ):
        trainer.state.restore(CheckpointStore(tmp_path / "run" / "checkpoints"))
