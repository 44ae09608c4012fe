"""A cached gradient against that of the whole batch, for every method it can be computed for."""

import functools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mezzotint.data.loader import batches
from mezzotint.encoders.vit import ViT
from mezzotint.methods.method import Method
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.reading import apply_overrides
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.train.gradient_cache import GradientCache, require_cacheable
from mezzotint.train.log import Meter, read_metrics
from mezzotint.train.loop import Trainer, pretrain
from mezzotint.train.settings import Compute, Run
from mezzotint.types import Views
from tests.ranks import spawn
from tests.test_contract_methods import (
    INPUT,
    METHODS,
    assert_close,
    build,
    gradients,
    rows,
    views_for,
    without_batch_norm,
)
from tests.tiny import config

CACHEABLE = [cls for cls in METHODS if cls.has_rows]
by_name = pytest.mark.parametrize("cls", CACHEABLE, ids=lambda cls: cls.__name__)


def plain(cls: type[Method]) -> Method:
    method = build(cls)
    without_batch_norm(method)
    return method


def test_contrastive_methods_have_rows() -> None:
    names = {cls.__name__ for cls in CACHEABLE}
    assert names == {"SimCLR", "MoCoV3", "LeJEPA", "EmbeddingQuantization"}


@by_name
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_the_gradient_is_that_of_the_whole_batch(cls: type[Method], parts: int) -> None:
    whole, cached = plain(cls), plain(cls)
    views = views_for(cls, 8)
    expected, found = whole(views), GradientCache(cached, parts)(views)
    (3.0 * expected.loss).backward()
    (3.0 * found.loss).backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
    assert found.logs.keys() == expected.logs.keys()
    assert_close(gradients(cached), gradients(whole), 1e-5)


def test_other_methods_are_refused() -> None:
    for cls in CACHEABLE:
        require_cacheable(plain(cls))
    for other in set(METHODS) - set(CACHEABLE):
        method = build(other)
        reason = "so do its forward passes" if other.no_accumulation else "alone gives the gradient"
        with pytest.raises(RecipeError, match=reason):
            GradientCache(method, 2)


def test_settings_that_it_excludes() -> None:
    with pytest.raises(ValueError, match="run.micro_batches of at least 2"):
        Run(compute=Compute(gradient_cache=True))
    with pytest.raises(ValueError, match="random state"):
        Compute(gradient_cache=True, compile=True)
    kept = Run(micro_batches=4)
    with pytest.raises(RecipeError, match="Lower run.batch_size or set run.compute.gradient_cache"):
        kept.require_accumulable(Recipe.build(config("simclr")).method, 1)
    assert (
        kept.accumulated,
        Run(micro_batches=4, compute=Compute(gradient_cache=True)).accumulated,
    ) == (4, 1)


def with_dropped_branches() -> SimCLR:
    torch.manual_seed(0)
    encoder = ViT(INPUT, width=12, depth=3, heads=2, patch=2, drop_path=0.5)
    return SimCLR(encoder, hidden_dim=20, dim=8, hidden_norm=False, last_norm=False).train()


def test_a_part_is_encoded_again_with_its_random_state() -> None:
    """The masks of the second pass are those of the first, which computed the loss."""
    views = views_for(SimCLR, 8)
    method, twin = with_dropped_branches(), with_dropped_branches()
    torch.manual_seed(5)
    parts = [twin.rows(part)[0] for part in views.split(4)]
    zs = [torch.cat(column) for column in zip(*parts, strict=True)]
    expected = twin.compare_rows((zs, zs, dict(enumerate(zs))), views).loss
    expected.backward()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    found = GradientCache(method, 4)(views).loss
    found.backward()
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    assert_close(gradients(method), gradients(twin), 1e-5)
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.allclose(with_dropped_branches()(views).loss, expected)


def test_running_statistics_move_once_for_each_part() -> None:
    method, twin = build(SimCLR, batch_norm=True), build(SimCLR, batch_norm=True)
    views = views_for(SimCLR, 8)
    GradientCache(method, 2)(views).loss.backward()
    for part in views.split(2):
        twin.rows(part)
    for (name, found), expected in zip(method.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(found, expected), name


def peak_of(call: Callable[[], Tensor]) -> int:
    """Most bytes of activations that graphs keep at a time, without the weights."""
    live = {"now": 0, "peak": 0}

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor
            self.bytes = tensor.numel() * tensor.element_size()
            live["now"] += self.bytes
            live["peak"] = max(live["peak"], live["now"])

        def __del__(self) -> None:
            live["now"] -= self.bytes

    with saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        call().backward()
    return live["peak"]


def loss_of(entered: nn.Module, views: Views) -> Tensor:
    loss: Tensor = entered(views).loss
    return loss


def test_activations_are_kept_for_one_part_at_a_time() -> None:
    views = views_for(SimCLR, 32)
    whole = peak_of(lambda: plain(SimCLR)(views).loss)
    peaks = {
        parts: peak_of(functools.partial(loss_of, GradientCache(plain(SimCLR), parts), views))
        for parts in (2, 8)
    }
    assert peaks[2] < 0.6 * whole and peaks[8] < 0.25 * whole


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    td.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2,
        timeout=timedelta(seconds=20),
    )  # fmt: skip
    results = {}
    for cls in CACHEABLE:
        method = plain(cls)
        if rank:
            nn.init.zeros_(next(method.parameters()))  # rank 0's weights count
        own = rows(views_for(cls, 8), 4 * rank, 4 * rank + 4)
        GradientCache(method, 2)(own).loss.backward()
        results[cls.__name__] = gradients(method)
    torch.save(results, f"{folder}/{rank}.pt")
    td.barrier()
    td.destroy_process_group()


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("two")
    spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.xdist_group("gradient_cache_ranks")
@by_name
def test_two_processes_have_the_gradient_of_one(
    cls: type[Method], on_two: list[dict[str, Any]]
) -> None:
    method = plain(cls)
    method(views_for(cls, 8)).loss.backward()
    for found in on_two:
        assert_close(found[cls.__name__], gradients(method), 1e-5)


def test_a_run_with_it_has_the_losses_of_the_whole_batch(tmp_path: Path) -> None:
    """The recipe's views, schedule, mixed precision and clipping are those of any run."""
    overrides = [
        "encoder={kind: vit, patch: 4, width: 12, depth: 1, heads: 2}",
        "method.hidden_norm=false", "method.last_norm=false",
        "run.compute.precision=bf16", "run.clip_norm=1.0",
    ]  # fmt: skip
    losses = []
    cached = ["run.micro_batches=4", "run.compute.gradient_cache=true"]
    for name, more in (("whole", []), ("cached", cached)):
        made = resolve_recipe(apply_overrides(config("simclr"), [*overrides, *more]))
        run = pretrain(Recipe.build(made), tmp_path / name, progress="quiet")
        losses.append([line["loss"] for line in read_metrics(run / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], abs=2e-3)


def test_views_split_into_consecutive_rows() -> None:
    views = views_for(SimCLR, 7)
    parts = views.split(3)
    assert [len(part.x[0]) for part in parts] == [3, 3, 1]
    assert isinstance(parts[0], Views) and parts[0].tags == views.tags
    ids = torch.cat([part.draws.ids for part in parts])
    assert torch.equal(ids, views.draws.ids)
    assert torch.equal(torch.cat([part.x[2] for part in parts]), views.x[2])
    assert parts[1].x[0].data_ptr() == views.x[0][3:].data_ptr()


def test_bf16_gradients_on_maps_of_one_pixel_are_sound() -> None:
    """The second encoding has the loop's way around torch's fault, in the backward pass too."""
    sections = config(
        "simclr", batch_size=64, micro_batches=2,
        compute={"precision": "bf16", "gradient_cache": True},
    )  # fmt: skip
    sections["encoder"] = {"kind": "resnet8", "stem": "patch", "width": 4}
    norms = []
    for _ in range(2):
        made = Recipe.build(resolve_recipe(sections))
        trainer = Trainer(made, torch.device("cpu"))
        found = []
        for step, batch in enumerate(batches(made.data, made.views, trainer.plan, start=0, stop=4)):
            for size in (64, 512, 1152, 4608, 18432):  # what is not written shows
                torch.full((size,), 1e30)
            found.append(trainer.step(step, batch, Meter())["grad_norm"])
        norms.append(found)
    assert norms[0] == norms[1] and max(norms[0]) < 100.0
