"""Saving while training goes on: what is saved, when, and that no error is lost."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mezzotint.train.checkpoint import CheckpointStore
from mezzotint.train.saver import _Writer


class SlowStore(CheckpointStore):
    """A store whose saves wait for a signal of the test."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.go = threading.Event()

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> Path:
        assert self.go.wait(20)
        return super().save(step, model, optimizer, state)


def test_tensors_are_those_of_the_step_although_training_goes_on(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    writer = _Writer(store)
    weight, moment = torch.zeros(5), torch.ones(5, dtype=torch.bfloat16)
    for step in (1, 2, 3):
        store.go.clear()
        weight.fill_(step)
        moment.fill_(-step)
        writer.start(step, {"w": weight}, {"m": moment}, {"seconds": step})
        weight.fill_(99.0)  # the next update
        moment.fill_(99.0)
        store.go.set()
    writer.join()
    saved, problems = store.latest()
    assert saved is not None and saved.step == 3 and not problems
    assert saved.model["w"].tolist() == [3.0] * 5
    assert saved.optimizer["m"].tolist() == [-3.0] * 5 and saved.state == {"seconds": 3}


def test_training_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    store = SlowStore(tmp_path)
    writer = _Writer(store)
    began = time.monotonic()
    writer.start(1, {"w": torch.zeros(5)}, {}, {})
    assert time.monotonic() - began < 10.0 and store.latest()[0] is None
    store.go.set()
    writer.join()
    assert store.latest()[0] is not None


def test_an_error_of_the_disk_is_raised_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _Writer(CheckpointStore(tmp_path))
    monkeypatch.setenv("MEZZOTINT_FAULT", "checkpoint.after_model:step=1:enospc")
    writer.start(1, {"w": torch.zeros(5)}, {}, {})
    deadline = time.monotonic() + 20
    while not writer.has_failed and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OSError, match="No space left on device"):
        writer.join()
    writer.join()
    writer.start(2, {"w": torch.zeros(5)}, {}, {})
    writer.join()
    assert writer.store.latest()[0] is not None
