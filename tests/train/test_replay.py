"""Replays of stopped runs: the same step in a new process, and where it began."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mezzotint.train.replay import _Finder, replay
from mezzotint.types import Step, Views
from tests.commands import completed
from tests.train.test_postmortem import stopped


def test_a_new_process_stops_at_the_same_step_and_names_the_module(tmp_path: Path) -> None:
    _, folder = stopped(tmp_path / "run", 1e38)
    done = completed("replay", folder, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["step"], facts["loss"], facts["grad_norm"]) == (6, "nan", "nan")
    assert facts["same"] and facts["first"].startswith("the output of encoder.")
    again = replay(str(folder))
    assert again.first == facts["first"] and list(again.samples) == facts["samples"]
    assert "step 6: loss nan, gradient norm nan, as in the run" in str(again)


def test_weights_that_an_update_ruined_are_named(tmp_path: Path) -> None:
    _, folder = stopped(tmp_path / "run", 3e38, checkpoints={"every_steps": 1})
    again = replay(str(folder))
    assert again.is_same and again.first.startswith("the weights ")
    assert again.first.endswith(", before the step")


def test_a_cause_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "loop.loss:step=2:nan")
    _, folder = stopped(tmp_path / "run", 0.01, guard={"action": "abort"})
    same = replay(str(folder))
    assert same.is_same and same.step == 2
    assert same.first.startswith("the gradient of ") and same.first.endswith("of a finite loss")
    monkeypatch.delenv("MEZZOTINT_FAULT")
    gone = replay(str(folder))
    assert gone.step is None and not gone.is_same
    assert str(gone).startswith("Steps 2 to 2 ran through: nothing was NaN or inf.")


class Toy(nn.Module):
    """Two layers and a loss; `ruin` makes the output of the second NaN in one row."""

    def __init__(self, *, ruin: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.ruin = nn.Linear(3, 3), nn.Linear(3, 3), ruin

    def forward(self, views: Views) -> Step:
        hidden = self.first(views.x[0])
        if self.ruin:
            hidden = hidden * torch.tensor([1.0, torch.inf, 1.0, 1.0])[:, None]
        return Step(self.second(hidden).mean())


def views() -> Views:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    return Views((x, x.clone()), ("global", "global"), draws=None)  # type: ignore[arg-type]


def found(method: nn.Module, of: Views) -> tuple[str, list[int]]:
    finder = _Finder(method)
    finder.start()
    step = method(of)
    if torch.isfinite(step.loss):
        step.loss.backward()
    finder.stop()
    assert not any(module._forward_hooks for module in method.modules())
    return finder.first, list(finder.rows)


def test_the_first_of_each_kind_is_found() -> None:
    torch.manual_seed(0)
    assert found(Toy(), views()) == ("", [])
    ruined = Toy()
    with torch.no_grad():
        ruined.second.bias[1] = torch.nan
    assert found(ruined, views()) == ("the weights second.bias, before the step", [])
    with_nan = views()
    with_nan.x[1][2, 0] = torch.nan
    assert found(Toy(), with_nan) == ("view 2 of the samples", [2])
    assert found(Toy(ruin=True), views()) == ("the output of second (Linear)", [1])
    everything = replace(views(), x=(torch.full((4, 3), torch.inf),))
    assert found(Toy(), everything) == ("view 1 of the samples", [])
