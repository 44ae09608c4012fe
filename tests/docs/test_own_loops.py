"""The loops of docs/own-loops.md run as they stand: plain, and in a LightningModule."""

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mezzotint
from tests import ROOT

PLAIN, LIGHTNING = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "own-loops.md").read_text(encoding="utf-8"), re.S
)


class StandInModule(nn.Module):
    """What the example uses of Lightning's module."""

    global_step = 0

    def log_dict(self, values: dict[str, Any]) -> None:
        self.logged = {name: float(value) for name, value in values.items()}


class StandInTrainer:
    """Automatic optimization: step, backward and update, and then the hook of the batch's end."""

    def __init__(self, *, max_steps: int, logger: bool, enable_checkpointing: bool) -> None:
        self.max_steps = max_steps

    def fit(self, module: Any, loader: Any) -> None:
        optimizer = module.configure_optimizers()
        batches = iter(loader)
        while module.global_step < self.max_steps:
            batch = next(batches)
            loss = module.training_step(batch, module.global_step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            module.global_step += 1
            module.on_train_batch_end(loss, batch, module.global_step - 1)


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("lightning") is None:
        stand_in = types.ModuleType("lightning")
        stand_in.LightningModule = StandInModule  # type: ignore[attr-defined]
        stand_in.Trainer = StandInTrainer  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lightning", stand_in)


def test_both_loops_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lightning: None) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "loop"}
    exec(compile(PLAIN, "docs/own-loops.md", "exec"), names)
    method, encoder = names["method"], names["encoder"]
    target = next(method.branches()["target"].encoder.parameters()).detach().clone()
    x = torch.rand(2, 3, 32, 32)
    saved = mezzotint.load_encoder(tmp_path / "encoder")
    assert torch.equal(saved(x), encoder.eval()(x))
    online = next(encoder.parameters()).detach().clone()
    assert not torch.equal(online, target), "the momentum copy follows behind"
    encoder.train()
    exec(compile(LIGHTNING, "docs/own-loops.md", "exec"), names)
    assert not torch.equal(next(encoder.parameters()), online)
    moved = next(method.branches()["target"].encoder.parameters())
    assert not torch.equal(moved, target), "after_step moved the momentum copy"
