"""The state of a run: everything comes back from a checkpoint, and nothing without one entry."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from mezzotint import load_encoder
from mezzotint.encoders.rows import TableMLP
from mezzotint.methods.supervised import Supervised
from mezzotint.optim.optimizer import LARS, SGD, AdamW, Optimizer
from mezzotint.recipe.recipe import Recipe, resolve_recipe
from mezzotint.runs.reuse import trained_method
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import StepGuard
from mezzotint.train.loop import pretrain
from mezzotint.train.state import (
    Average,
    RunState,
    load_optimizer_state,
    optimizer_state,
    tensors_of,
)
from mezzotint.types import Input
from tests.tiny import config

ENTRIES = ("seconds", "skipped", "in_a_row", "bad", "scaler", "batch_size", "data")


def state(scale: float, seed: int) -> RunState:
    torch.manual_seed(seed)
    made = Recipe.build(config("moco"))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    modules = {"average": nn.Linear(2, 2), "classifier": None}
    return RunState(
        made.method,
        made.optimizer.build(made.method, 256),
        scaler,
        made.data,
        StepGuard(3),
        256,
        modules=modules,
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def test_everything_comes_back(store: CheckpointStore) -> None:
    before, after = state(1234.0, 0), state(1.0, 1)
    before.guard.skipped, before.guard.in_a_row = [3, 4], 2
    before.bad, before.seconds = {"a.png": "truncated"}, 12.5
    store.save(5, *before.parts(5))
    assert after.restore(store)[0] == 5
    assert (after.guard, after.bad, after.seconds) == (before.guard, before.bad, before.seconds)
    assert after.scaler.get_scale() == 1234.0
    for one, other in (
        (before.method, after.method),
        (before.modules["average"], after.modules["average"]),
    ):
        assert one is not None and other is not None
        found = other.state_dict()
        assert all(torch.equal(found[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize("entry", ENTRIES)
def test_without_an_entry_it_is_refused(entry: str, store: CheckpointStore) -> None:
    store.save(5, *state(1.0, 0).parts(5))
    saved, _ = store.latest()
    assert saved is not None and set(saved.state) == set(ENTRIES)
    del saved.state[entry]
    store.save(5, saved.model, saved.optimizer, saved.state)
    with pytest.raises(KeyError, match=entry):
        state(1.0, 0).restore(store)


def test_without_any_tensor_of_the_method_it_is_refused_by_name(store: CheckpointStore) -> None:
    made = state(1.0, 0)
    store.save(5, *made.parts(5))
    saved, _ = store.latest()
    assert saved is not None and {"queue", "pointer", "key_encoder.conv1.weight"} <= set(
        saved.model
    )
    for name in ("queue", "pointer", "key_encoder.conv1.weight", "encoder.bn1.running_mean"):
        rest = {key: value for key, value in saved.model.items() if key != name}
        store.save(5, rest, saved.optimizer, saved.state)
        with pytest.raises(
            ValueError, match=f"'{name}' is only in one of them. Resume with the run's own recipe"
        ):
            made.restore(store)


def test_the_window_opens_and_buffers_are_the_last() -> None:
    torch.manual_seed(0)
    method = Supervised(
        TableMLP(Input((4,), (0.0,) * 4, (1.0,) * 4, "table")), num_classes=3, logit_norm=True
    )
    average = Average(method, 0.3)
    naive = method.head.weight.detach().clone()
    for step in range(6):
        with torch.no_grad():
            method.head.weight.normal_()
            method.logit_norm.get_buffer("running_mean").fill_(float(step))
        average.follow(method, step)
        decay = [0.1, 2 / 11, 3 / 12, 0.3, 0.3, 0.3][step]
        naive = decay * naive + (1 - decay) * method.head.weight.detach()
        torch.testing.assert_close(average.method.get_parameter("head.weight").detach(), naive)
    assert torch.equal(average.method.get_buffer("logit_norm.running_mean"), torch.full((3,), 5.0))
    assert not any(p.requires_grad for p in average.method.parameters())


def test_a_run_leaves_the_average_and_trains_as_without(tmp_path: Path) -> None:
    plain = config("simclr", batch_size=64)
    data = {"kind": "labeled", "source": plain["data"], "fraction": 0.1}

    def made(average: float | None) -> Recipe:
        run = plain["run"] | {"compute": plain["run"]["compute"] | {"average": average}}
        return Recipe.build(
            resolve_recipe(
                {
                    **plain,
                    "data": data,
                    "method": {"kind": "supervised", "num_classes": 10},
                    "run": run,
                }
            )
        )

    runs = {
        value: pretrain(made(value), tmp_path / str(value), progress="quiet")
        for value in (None, 0.9)
    }
    last, averaged = (CheckpointStore(run / "checkpoints").latest()[0] for run in runs.values())
    assert last is not None and averaged is not None and not tensors_of(last, "average")
    assert all(torch.equal(averaged.model[name], tensor) for name, tensor in last.model.items())
    average = tensors_of(averaged, "average")
    for name, tensor in load_encoder(runs[0.9]).state_dict().items():
        assert torch.equal(tensor, average[f"encoder.{name}"])
    assert not torch.equal(average["encoder.conv1.weight"], last.model["encoder.conv1.weight"])
    scored = trained_method(made(0.9), runs[0.9]).method.state_dict()
    assert all(torch.equal(scored[name], tensor) for name, tensor in average.items())


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("settings", [SGD(lr=0.1), AdamW(lr=0.01), LARS(lr=0.1)])
def test_a_loaded_state_continues_to_the_bit(settings: Optimizer) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = settings.build(model, 8)
    steps(model, optimizer, range(3))
    saved = optimizer_state(optimizer)
    assert {name.partition("/")[0] for name in saved} == {"weight", "bias"}
    resumed = copy.deepcopy(model)
    other = settings.build(resumed, 8)
    load_optimizer_state(other, saved)
    steps(model, optimizer, range(3, 6))
    steps(resumed, other, range(3, 6))
    for one, two in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_state_of_an_unknown_parameter_is_refused() -> None:
    optimizer = SGD(lr=0.1).build(nn.Linear(4, 3), 8)
    with pytest.raises(ValueError, match=r"state of 'head\.weight', but the method has no such"):
        load_optimizer_state(optimizer, {"head.weight/momentum_buffer": torch.zeros(3, 4)})
