"""What a checkpoint of a run holds: everything comes back, and without any one entry nothing does."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mezzotint.recipe.recipe import Recipe
from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.guard import StepGuard
from mezzotint.train.state import RunState
from tests.tiny import config

ENTRIES = ("seconds", "skipped", "in_a_row", "bad", "scaler", "data")


def state(scale: float, seed: int) -> RunState:
    torch.manual_seed(seed)
    made = Recipe.build(config("moco"))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    beside = {"average": nn.Linear(2, 2), "classifier": None}
    return RunState(
        made.method,
        made.optimizer.build(made.method, 256),
        scaler,
        made.data,
        StepGuard(3),
        beside=beside,
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def test_everything_comes_back(store: CheckpointStore) -> None:
    before, after = state(1234.0, 0), state(1.0, 1)
    before.guard.skipped, before.guard.in_a_row = [3, 4], 2
    before.bad, before.seconds = {"a.png": "truncated"}, 12.5
    before.save(store, 5)
    assert after.restore(store)[0] == 5
    assert (after.guard, after.bad, after.seconds) == (before.guard, before.bad, before.seconds)
    assert after.scaler.get_scale() == 1234.0
    for one, other in (
        (before.method, after.method),
        (before.beside["average"], after.beside["average"]),
    ):
        assert one is not None and other is not None
        found = other.state_dict()
        assert all(torch.equal(found[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize("entry", ENTRIES)
def test_without_an_entry_it_is_refused(entry: str, store: CheckpointStore) -> None:
    state(1.0, 0).save(store, 5)
    saved, _ = store.latest()
    assert saved is not None and set(saved.state) == set(ENTRIES)
    del saved.state[entry]
    store.save(5, saved.model, saved.optimizer, saved.state)
    with pytest.raises(KeyError, match=entry):
        state(1.0, 0).restore(store)


def test_without_any_tensor_of_the_method_it_is_refused_by_name(store: CheckpointStore) -> None:
    made = state(1.0, 0)
    made.save(store, 5)
    saved, _ = store.latest()
    assert saved is not None and {"queue", "pointer", "key_encoder.conv1.weight"} <= set(
        saved.model
    )
    for name in ("queue", "pointer", "key_encoder.conv1.weight", "encoder.bn1.running_mean"):
        rest = {key: value for key, value in saved.model.items() if key != name}
        store.save(5, rest, saved.optimizer, saved.state)
        with pytest.raises(
            ValueError, match=f"differ, first in '{name}'; resume with the run's own recipe"
        ):
            made.restore(store)
