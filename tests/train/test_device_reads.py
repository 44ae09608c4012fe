"""A training step reads its device once, and never waits to send something to it.

All of it runs on a simulated device, which counts (`tests/simulated_device.py`).
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.augment.views import ViewContext, ViewGenerator
from mezzotint.data.loader import batches
from mezzotint.data.source import Source
from mezzotint.methods.method import Method
from mezzotint.methods.simsiam import SimSiam
from mezzotint.modality.modality import modality_of
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.recipe.schema import construct, resolve
from mezzotint.recipe.signatures import index
from mezzotint.seeding import Draws
from mezzotint.train.log import Meter, read_metrics
from mezzotint.train.loop import Trainer
from mezzotint.train.signals import StopFlag
from mezzotint.types import Batch, Views
from tests.recipes.keys import modality_of_data, recipes
from tests.simulated_device import DEVICE, SimulatedDevice
from tests.test_contract_methods import build, each_method, views_for
from tests.tiny import config

GUARD = "copy to the CPU in train/guard.py"
"""The read of a step: loss, norm, logs and whether all is finite."""


def _on_device(method: type[Method], step: int) -> Views:
    views = views_for(method, 8, step)
    ids, *x = (t.to(DEVICE, non_blocking=True) for t in (views.draws.ids, *views.x))
    return replace(views, x=tuple(x), draws=Draws(ids, views.draws.key))  # labels stay on the CPU


@each_method
def test_a_method_reads_nothing_after_its_first_step(cls: type[Method]) -> None:
    method = build(cls)
    with SimulatedDevice() as device:
        method.to(DEVICE)
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        for step in range(2):
            views = _on_device(cls, step)
            if step == 1:  # the first starts codebooks from what it sees
                device.reset()
            optimizer.zero_grad()
            method.before_step()
            method(views).loss.backward()
            optimizer.step()
            method.after_step((step + 1) / 10)
    assert not device.reads and not device.waits, (device.reads, device.waits)


@dataclass(frozen=True)
class _Chain:
    """The views of a recipe, which others may have too.

    Attributes:
        recipe: name of the first recipe.
        modality: of its data.
        views: its section.
    """

    recipe: str
    modality: str
    views: dict[str, Any]

    @property
    def parts(self) -> set[tuple[str, str]]:
        """The kinds of generators and transforms in it, for its modality."""
        return {(self.modality, kind) for kind in _kinds(self.views)}


def _kinds(section: Any) -> Iterator[str]:
    if isinstance(section, Mapping):
        yield from (value for key, value in section.items() if key == "kind")
        section = list(section.values())
    for value in section if isinstance(section, list) else ():
        yield from _kinds(value)


@functools.cache
def _chains() -> list[Any]:
    """All views of shipped recipes; those that have no other parts than earlier ones are slow."""
    found: dict[str, _Chain] = {}
    for name, sections, _ in recipes():
        modality = modality_of_data(sections["data"])
        key = modality + json.dumps(sections["views"], sort_keys=True)
        found.setdefault(key, _Chain(name, modality, sections["views"]))
    covered: set[tuple[str, str]] = set()
    marked = []
    for chain in sorted(found.values(), key=lambda chain: -len(chain.parts)):
        marks = [pytest.mark.slow] if chain.parts <= covered else []
        covered |= chain.parts
        marked.append(pytest.param(chain, id=chain.recipe, marks=marks))
    return marked


@functools.cache
def _source(modality: str) -> Source:
    made = construct(resolve(modality_of(modality).example.data, "Source", "data"), "Source", {})
    assert isinstance(made, Source)
    return made


def _rendered(
    views: ViewGenerator, source: Source, device: torch.device | None
) -> tuple[Tensor, ...]:
    """The views of a second batch: generators with a memory have one then."""
    context = ViewContext(source.input, seed=1, epoch=0)
    for start in (0, 4):
        ids = torch.arange(start, start + 4)
        x = torch.stack([source.read(int(index))["x"] for index in ids])
        made = views(Batch((x,), ids), context, step=start, device=device)
    return made.x


@pytest.mark.parametrize("chain", _chains())
def test_views_of_shipped_recipes_read_nothing(chain: _Chain) -> None:
    """They are those of the CPU, but for its rounding of crops to levels in between."""
    source = _source(chain.modality)
    views, other = (construct(chain.views, "ViewGenerator", {}) for _ in range(2))
    assert isinstance(views, ViewGenerator) and isinstance(other, ViewGenerator)
    with SimulatedDevice() as device:
        made = _rendered(views, source, DEVICE)
        assert not device.reads and not device.waits, (device.reads, device.waits)
        found = [x.to("cpu") for x in made]
    is_cropped = chain.modality in ("image", "video")
    for x, expected in zip(found, _rendered(other, source, None), strict=True):
        assert x.shape == expected.shape and x.dtype == expected.dtype
        difference = (x - expected).abs().float().mean()
        assert difference <= (0.02 if is_cropped else 0.0) * expected.float().std()


@pytest.mark.parametrize("wait", [True, False])
def test_a_step_of_the_loop_reads_once(wait: bool) -> None:
    """With all that reads losses, features or weights: accumulation, clipping, logs, average.

    Without waiting, a step reads the scalars of the one before, and the first one nothing.
    """
    sections = config("moco", batch_size=16)
    sections["run"] |= {"micro_batches": 2, "clip_norm": 1.0}
    sections["run"]["compute"] |= {"average": 0.9}
    sections["run"]["log"] |= {"classifier": {}}
    sections["data"] = {"kind": "labeled", "source": sections["data"]}
    recipe = Recipe.build(resolve_recipe(sections))
    with SimulatedDevice() as device:
        trainer = Trainer(recipe, DEVICE)
        steps = batches(recipe.data, recipe.views, trainer.plan, start=0, stop=2)
        for step, batch in enumerate(steps):
            if step == 1:
                device.reset()
            metrics = trainer.step(step, batch, Meter(), wait=wait)
            assert ("loss" in metrics) == wait
            if step == 0:
                assert sum(device.reads.values()) == wait and not trainer.state.guard.skipped
    assert [name.partition(":")[0] for name in device.reads] == [GUARD], device.reads
    assert sum(device.reads.values()) == 1
    assert not device.waits, device.waits


def test_a_logged_step_of_a_run_reads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line is written when the next step has been computed."""
    sections = config("moco", batch_size=128)
    sections["run"]["log"] |= {"every_steps": 1, "knn_epochs": 0, "map_epochs": 0}
    sections["run"]["guard"] = {"late": True}
    recipe = Recipe.build(resolve_recipe(sections))
    monkeypatch.setattr("mezzotint.timing.is_measured", lambda step: False)  # it waits by design
    found, step_of = [], Trainer.step
    with SimulatedDevice() as device:
        trainer = Trainer(recipe, DEVICE)

        def step(self: Trainer, *args: Any, **settings: Any) -> dict[str, float]:
            found.append((sum(device.reads.values()), sum(device.waits.values())))
            return step_of(self, *args, **settings)

        monkeypatch.setattr(Trainer, "step", step)
        trainer.fit(tmp_path, StopFlag(), resume=False, progress="quiet")
    assert len(found) == trainer.total == len(read_metrics(tmp_path / "metrics.jsonl"))
    assert all(one == (reads + 1, waits) for (reads, waits), one in pairwise(found[1:]))


@pytest.mark.parametrize("kind", sorted(index().members("Optimizer")))
def test_optimizers_read_nothing(kind: str) -> None:
    made = construct(resolve({"kind": kind, "lr": 1e-3}, "Optimizer", "optimizer"), "Optimizer", {})
    method = build(SimSiam)
    with SimulatedDevice() as device:
        method.to(DEVICE)
        optimizer = made.build(method, 8)
        for step in range(2):
            method(_on_device(SimSiam, step)).loss.backward()
            made.set_rates(optimizer, 1.0, 0.0)
            device.reset()
            optimizer.step()
    assert not device.reads and not device.waits, (device.reads, device.waits)


READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x[0] > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "copy": lambda x: torch.zeros(3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "assignment by mask": lambda x: x.clone().__setitem__(x > 0, x.new_zeros(())),
    "where": lambda x: torch.where(x > 0),
    "bincount": lambda x: x.long().bincount(),
    "unique": lambda x: x.unique(),
    "repeats": lambda x: x.repeat_interleave(x.long()),
}


@pytest.mark.parametrize("name", READS)
def test_the_simulated_device_counts_reads(name: str) -> None:
    with SimulatedDevice() as device:
        x = torch.arange(3.0, device=DEVICE)
        y = x.gather(0, x.long().flip(0)) * 2.0 + torch.ones(3).to(DEVICE, non_blocking=True)
        assert not device.reads and not device.waits
        READS[name](y)
        assert len(device.reads) == 1 and not device.waits, (device.reads, device.waits)


@pytest.mark.parametrize(
    "send",
    [
        lambda x: torch.ones(3).to(DEVICE),
        lambda x: torch.tensor([1.0], device=DEVICE),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_the_simulated_device_counts_waits(send: Callable[[Tensor], object]) -> None:
    with SimulatedDevice() as device:
        send(torch.arange(3.0, device=DEVICE))
        assert sum(device.waits.values()) == 1 and not device.reads
