"""What a step calls, from the settings of a run."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as td
from torch import nn

from mezzotint import dist
from mezzotint.methods.moco import MoCo
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.recipe import Recipe
from mezzotint.train.gradient_cache import GradientCache
from mezzotint.train.parallel import divide, entrance
from mezzotint.train.settings import Compute, Run
from tests.test_contract_methods import build
from tests.tiny import config

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
