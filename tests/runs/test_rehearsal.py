"""Rehearsals in this process: sound ones agree, and planted faults show."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint import dist
from mezzotint.methods.simclr import SimCLR
from mezzotint.recipe.recipe import Recipe
from mezzotint.runs.check import _same_bits, compare
from mezzotint.runs.rehearsal import rehearse
from mezzotint.types import Step, Views
from tests.tiny import config


def run(folder: Path, action: str, steps: int = 2) -> dict[str, Any]:
    spec = {"steps": steps, "action": action, "out": folder / action, "source": folder / "train"}
    state = torch.get_rng_state()
    try:
        return rehearse(spec, Recipe.build(config("simclr", batch_size=64, epochs=2)))
    finally:
        torch.set_rng_state(state)


def plant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss depend on a counter that no state dict has."""
    forward = SimCLR.forward

    def counted(self: Any, views: Views) -> Step:
        self.calls = getattr(self, "calls", 0) + 1
        step = forward(self, views)
        return Step(step.loss * (1.0 + 0.1 * self.calls), step.logs)

    monkeypatch.setattr(SimCLR, "forward", counted)


def test_resumed_steps_are_equal_and_a_changed_last_bit_is_small(tmp_path: Path) -> None:
    base = run(tmp_path, "train")
    assert base["first"] == 0 and len(base["losses"]) == len(base["norms"]) == 2
    resumed = run(tmp_path, "resume")
    assert resumed["first"] == 1 and _same_bits(resumed, base)[0]
    noise = run(tmp_path, "perturb")
    assert noise["hashes"] != base["hashes"]
    assert noise["losses"] == pytest.approx(base["losses"], rel=1e-3)
    assert compare(base, base, noise)[0]
    moved = abs(run(tmp_path, "round")["losses"][0] - base["losses"][0])
    assert 10 * abs(noise["losses"][0] - base["losses"][0]) < moved < 0.05
    assert (tmp_path / "train" / "run" / "encoder" / "encoder.json").is_file()


def test_hidden_state_shows_in_resumed_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    base = run(tmp_path, "train")
    good, found, allowed = _same_bits(run(tmp_path, "resume"), base)
    assert not good and "tensors differ" in found and "losses differ" in found
    assert allowed == "every bit"


def test_a_step_with_nan_changes_nothing_and_a_fault_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEZZOTINT_FAULT", "")
    assert run(tmp_path, "nan", steps=3)["changed"] == []
    from mezzotint.train.undo import ForwardState

    monkeypatch.setattr(ForwardState, "restore", lambda self: None)
    changed = run(tmp_path, "nan", steps=3)["changed"]
    assert any("running_mean" in name for name in changed)


def test_a_process_that_is_not_the_main_one_rehearses_without_the_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "is_main", lambda: False)
    assert len(run(tmp_path, "train")["losses"]) == 2 and not (tmp_path / "train").exists()
