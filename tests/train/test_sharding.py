"""FSDP2 on two gloo processes against DDP, and what one process makes of its checkpoints."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mezzotint import dist, load_encoder
from mezzotint.encoders.resnet import resnet8
from mezzotint.encoders.vit import Block
from mezzotint.methods.bridle import BRIDLEJoint
from mezzotint.methods.byol import BYOL
from mezzotint.methods.mae import MAE
from mezzotint.methods.method import Method
from mezzotint.methods.moco import MoCo
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.reading import apply_overrides
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.gradient_cache import GradientCache
from mezzotint.train.log import read_metrics
from mezzotint.train.loop import pretrain
from mezzotint.train.settings import Compute, Run
from mezzotint.train.sharding import (
    divide,
    entrance,
    require_shardable,
    shard,
    whole,
    whole_encoder,
)
from tests.ranks import spawn
from tests.test_contract_methods import INPUT, METHODS, build, rows, views_for
from tests.tiny import config

pytestmark = pytest.mark.xdist_group("sharding")

TRAINED: tuple[type[Method], ...] = (SimCLR, BYOL, MAE)


def on_blocks(cls: type[Method]) -> Method:
    """A method on a transformer, also one that takes any encoder."""
    before = cls.needs_patches
    cls.needs_patches = True
    try:
        return build(cls)
    finally:
        cls.needs_patches = before


def losses(method: Method, entered: nn.Module, cls: type[Method]) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    found = []
    for step in range(2):
        views = rows(views_for(cls, 8, step), 4 * dist.rank(), 4 * dist.rank() + 4)
        optimizer.zero_grad()
        method.before_step()
        loss: Tensor = entered(views).loss
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / 10)
        found.append(float(dist.mean(loss.detach())))
    return found


def recipe(sharding: str, **run: Any) -> Recipe:
    """Train a ViT in muP with AdamW; clipping, micro-batches, mixed precision and online kNN."""
    made = config("simsiam", checkpoints={"every_steps": 3}, **run)
    changes = [
        "encoder={kind: vit, patch: 4, width: 16, depth: 2, heads: 2}",
        "mup={base_width: 8}", "run.clip_norm=0.5", "run.log.knn_epochs=1", "run.epochs=1",
        "run.batch_size=400", f"run.compute.sharding={sharding}",
    ]  # fmt: skip
    return Recipe.build(resolve_recipe(apply_overrides(made, changes)))


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    results: dict[str, Any] = {}
    for cls in TRAINED:
        method = on_blocks(cls)
        parallel = nn.parallel.DistributedDataParallel(method, broadcast_buffers=False)
        expected = losses(method, parallel, cls)
        divided = on_blocks(cls)
        if rank:
            nn.init.zeros_(next(divided.parameters()))  # rank 0's weights count
        twin = shard(divided)
        results[cls.__name__] = (losses(divided, divided, cls), expected)
        x = views_for(cls, 4).x[0]
        with torch.no_grad():
            results[f"{cls.__name__} features"] = (
                whole_encoder(divided.encoder, twin)(x), method.encoder(x)
            )  # fmt: skip
        own = sum(p.to_local().numel() for p in divided.parameters() if isinstance(p, DTensor))
        results[f"{cls.__name__} size"] = own / sum(p.numel() for p in method.parameters())
        results[f"{cls.__name__} gathered"] = len(whole(divided.state_dict()))
    pretrain(recipe("fsdp2"), Path(folder) / "fsdp2", progress="quiet")
    _stopped_and_resumed(Path(folder) / "stopped")
    torch.save(results, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


def _stopped_and_resumed(out: Path) -> None:
    """Go on from the last checkpoint but one of a finished run."""

    def prepare() -> None:
        shutil.copytree(out.with_name("fsdp2"), out)
        shutil.rmtree(out / "checkpoints" / "step-00000004")

    dist.on_main(prepare)
    pretrain(recipe("fsdp2"), out, progress="quiet", resume=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    pretrain(recipe("none"), folder / "none", progress="quiet")
    spawn(_worker, (str(folder),), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


Trained = tuple[Path, list[dict[str, Any]]]


@pytest.mark.parametrize("cls", TRAINED, ids=lambda cls: cls.__name__)
def test_losses_are_those_of_ddp(cls: type[Method], trained: Trained) -> None:
    for rank, results in enumerate(trained[1]):
        found, expected = results[cls.__name__]
        assert found == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(*results[f"{cls.__name__} features"], atol=1e-5, rtol=1e-5)
        assert results[f"{cls.__name__} size"] < 0.6
        assert (results[f"{cls.__name__} gathered"] > 0) == (rank == 0)


def lines(run: Path, key: str) -> list[float]:
    return [line[key] for line in read_metrics(run / "metrics.jsonl") if key in line]


def test_a_run_has_the_losses_and_the_checkpoints_of_one_process(trained: Trained) -> None:
    plain, divided = (trained[0] / name for name in ("none", "fsdp2"))
    for key in ("loss", "grad_norm", "knn/digit/holdout"):
        assert lines(divided, key) == pytest.approx(lines(plain, key), abs=1e-5), key
    assert len(lines(divided, "loss")) > 3 and len(lines(divided, "knn/digit/holdout")) == 1
    one, other = (CheckpointStore(run / "checkpoints").latest()[0] for run in (plain, divided))
    assert one is not None and other is not None
    assert other.model.keys() == one.model.keys() and other.optimizer.keys() == one.optimizer.keys()
    for name, tensor in one.model.items():
        # Adam moves a weight whose gradient is noise by up to lr a step: the bias of keys, and the
        # last bias of the encoder, which the head's BatchNorm takes out again.
        torch.testing.assert_close(other.model[name], tensor, atol=5e-3, rtol=0)
        assert other.model[name].shape == tensor.shape
    for name, tensor in one.optimizer.items():
        assert other.optimizer[name].shape == tensor.shape, name
    x = torch.randn(4, 1, 8, 8)
    features = [load_encoder(run)(x) for run in (divided, plain)]
    found, expected = (f - f.mean(dim=0) for f in features)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_it_resumes_divided_and_on_one_process(trained: Trained) -> None:
    folder, _ = trained
    whole_run, resumed = folder / "fsdp2", folder / "stopped"
    assert lines(resumed, "loss") == pytest.approx(lines(whole_run, "loss"), abs=1e-6)
    shutil.rmtree(resumed / "checkpoints" / "step-00000004")
    pretrain(recipe("fsdp2"), resumed, progress="quiet", resume=True)
    assert lines(resumed, "loss") == pytest.approx(lines(whole_run, "loss"), abs=1e-5)


def test_what_cannot_be_divided_is_refused_by_name() -> None:
    refused = {cls.__name__ for cls in METHODS if cls.unshardable}
    assert refused == {"BRIDLEJoint"}
    with pytest.raises(
        RecipeError, match="must be none for bridle_joint, because some of its parts"
    ):
        require_shardable(on_blocks(BRIDLEJoint), "adamw")
    with pytest.raises(RecipeError, match="needs an encoder of transformer blocks.* got resnet8"):
        require_shardable(SimCLR(resnet8(INPUT, width=4)), "adamw")
    for kind in ("lars", "larc", "muon"):
        with pytest.raises(RecipeError, match=f"adamw or sgd, got {kind}. Change `optimizer.kind`"):
            require_shardable(on_blocks(SimCLR), kind)
    require_shardable(on_blocks(SimCLR), "sgd")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"compile": True}, "compile"),
        ({"gradient_cache": True}, "gradient_cache"),
        ({"average": 0.9}, "average"),
        ({"precision": "fp16"}, "precision: fp16"),
    ],
)
def test_settings_that_it_excludes(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"fsdp2` works without run.compute.{name}"):
        Compute(sharding="fsdp2", **settings)


def test_without_sharding_nothing_is_copied() -> None:
    method = on_blocks(SimCLR)
    assert whole_encoder(method.encoder, None) is method.encoder
    tensors = method.state_dict()
    assert all(a is b for a, b in zip(whole(tensors).values(), tensors.values(), strict=True))
    assert sum(isinstance(m, Block) for m in method.encoder.modules()) == 1


CPU = torch.device("cpu")


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process alone that counts as two."""
    store = td.TCPStore("127.0.0.1", 0, 1, is_master=True)  # type: ignore[attr-defined]
    td.init_process_group("gloo", store=store, rank=0, world_size=1)
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    yield
    td.destroy_process_group()


def test_one_process_calls_the_method_itself() -> None:
    method = build(SimCLR)
    assert entrance(method, Run(), CPU) is method


def test_parts_are_cached_on_request() -> None:
    method = build(SimCLR)
    entered = entrance(method, Run(micro_batches=4, compute=Compute(gradient_cache=True)), CPU)
    assert isinstance(entered, GradientCache) and (entered.method, entered.parts) == (method, 4)


@pytest.mark.parametrize(("synchronized", "sent"), [(True, False), (False, True), ("online", True)])
def test_buffers_are_sent_only_where_they_differ(
    synchronized: bool, sent: bool, two_processes: None
) -> None:
    """A queue of 65,536 keys is equal on all processes, and larger than most networks."""
    run = Run(compute=Compute(sync_batch_norm=synchronized))
    entered = entrance(build(MoCo), run, CPU)
    assert isinstance(entered, nn.parallel.DistributedDataParallel)
    assert entered.will_sync_module_buffers() == sent  # type: ignore[no-untyped-call]


def test_nothing_is_divided_unless_the_recipe_says_so() -> None:
    recipe = Recipe.build(config("simclr"))
    assert divide(recipe.method, recipe) is None
