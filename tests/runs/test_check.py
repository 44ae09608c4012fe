"""`mezzotint check`: comparisons, the page, and planted faults that must be red."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mezzotint.recipe.recipe import Recipe
from mezzotint.recipe.schema import RecipeError
from mezzotint.runs import check as module
from mezzotint.runs.check import (
    CHECKS,
    Failed,
    Outcome,
    Rehearsals,
    check,
    compare,
    compare_precision,
)
from tests.tiny import config

# A start-up file: it gives SimCLR a fault in every process, as a user's own method may have it.
HIDDEN = """
from mezzotint.methods.simclr import SimCLR
from mezzotint.types import Step
forward = SimCLR.forward
def counted(self, views):
    self.calls = getattr(self, "calls", 0) + 1  # in no state dict
    step = forward(self, views)
    return Step(step.loss * (1.0 + 0.1 * self.calls), step.logs)
SimCLR.forward = counted
"""
OF_RANK = """
from mezzotint import dist
from mezzotint.methods import simclr
simclr.dist = type("Local", (), {**vars(dist), "gather": staticmethod(lambda x: x),
    "rank": staticmethod(lambda: 0), "world_size": staticmethod(lambda: 1)})
"""
CRASH = """
import ctypes
from mezzotint.methods.simclr import SimCLR
SimCLR.forward = lambda self, views: ctypes.string_at(0)
"""


def outcome(losses: list[float], norms: list[float] | None = None) -> dict[str, Any]:
    return {"losses": losses, "norms": norms or losses}


def test_rounding_is_allowed_and_more_is_not() -> None:
    base, noise = outcome([2.0, 0.5], [1.0, 1.0]), outcome([2.0, 0.5], [1.0, 1.0])
    assert compare(outcome([2.0, 0.500009], [1.0, 1.0]), base, noise)[0]
    good, found, allowed = compare(outcome([2.0, 0.5002], [1.0, 1.0]), base, noise)
    assert (good, found, allowed) == (False, "the loss differs by 2.0e-04", "1.0e-05")
    assert not compare(outcome([2.0, 0.5], [1.0, 1.01]), base, noise)[0]
    assert not compare(outcome([2.0, math.nan], [1.0, 1.0]), base, noise)[0]
    # The last bit of the weights moves the second loss by 1e-4, so that 1e-3 is allowed there.
    noise = outcome([2.0, 0.5001], [1.0, 1.0])
    assert compare(outcome([2.0, 0.5002], [1.0, 1.0]), base, noise)[0]
    assert not compare(outcome([2.001, 0.5], [1.0, 1.0]), base, noise)[0]


def test_what_follows_from_rounding_alone_is_not_compared() -> None:
    """The last bit moves the norm of the second step by 1e-2, so that the third may be anything."""
    base, noise = outcome([2.0, 2.0, 2.0], [1.0] * 3), outcome([2.0] * 3, [1.0, 1.01, 1.0])
    good, found, _ = compare(outcome([2.0, 2.0, 3.0], [1.0, 1.0, 9.0]), base, noise)
    assert good and found.endswith(" in the first 2 of 3 steps")
    assert not compare(outcome([2.0, 2.1, 2.0], [1.0] * 3), base, noise)[0]
    assert not compare(outcome([2.1, 2.0, 2.0], [1.0] * 3), base, noise)[0]


def test_half_precision_may_drift_as_far_as_rounded_weights() -> None:
    full = [4.0, 4.0, 4.0]
    assert compare_precision([4.02, 4.19, 4.0], full, full, full)[0]
    good, found, allowed = compare_precision([4.06, 4.0, 4.0], full, full, full)
    assert (good, found, allowed) == (False, "the loss drifts by 1.5e-02", "1.0e-02")
    assert not compare_precision([4.0, 4.21, 4.0], full, full, full)[0]
    assert not compare_precision([4.0, math.nan, 4.0], full, full, full)[0]
    # Speech in batches of 16: 0.054 in bf16, and 0.024 after the weights were rounded.
    rounded = [4.0, 4.02, 4.096]
    good, found, allowed = compare_precision([4.008, 4.02, 4.216], full, rounded, full)
    assert (good, found, allowed) == (True, "the loss drifts by 5.4e-02", "2.4e-01")
    assert not compare_precision([4.008, 4.08, 5.0], full, rounded, full)[0]
    # Rounding decides the third loss, so that it may be anything.
    good, found, _ = compare_precision([4.0, 4.1, 9.0], full, [4.0, 4.048, 4.0], full)
    assert good and found.endswith(" in the first 2 of 3 steps")
    # In a recipe with bf16, rounding is that of the fp32 run.
    assert compare_precision(full, [4.02, 4.0, 4.0], full, full)[0]


def test_errors_crashes_and_unfit_checks_are_rows_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"no_accumulation": "of its queue", "batch_norm": False, "in_memory": True}
    facts |= {"process_dependence": ""}

    def run(self: Rehearsals, name: str, **changes: Any) -> dict[str, Any]:
        if name == "nan":
            raise Failed("the process ended by SIGSEGV")
        if name in ("base", "rounded"):
            return outcome([1.0]) | facts
        return outcome([1.1]) | facts

    monkeypatch.setattr(Rehearsals, "run", run)
    said: list[Outcome] = []
    names = ["micro_batches", "workers", "nan", "precision"]
    rows = check(config(), tmp_path, checks=names, say=said.append)
    assert [row.verdict for row in rows] == ["skip", "skip", "fail", "fail"] and said == rows
    assert [row.found for row in rows] == [
        "the method refuses micro-batches: of its queue",
        "the data is in memory, so that no workers read it",
        "the process ended by SIGSEGV",
        "the loss drifts by 1.0e-01",
    ]
    assert [row["check"] for row in json.loads((tmp_path / "check.json").read_text())] == names


def test_an_unknown_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="`--checks` must be of ranks.*Did you mean 'resumed'"):
        check(config(), tmp_path, checks=["resume"])
    assert {"ranks", "resumed", "nan"} < CHECKS.keys()


def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(fault)
    source = Path(module.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{source}")


@pytest.mark.slow
def test_a_method_with_hidden_state_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(tmp_path, monkeypatch, HIDDEN)
    [row] = check(config(batch_size=64), tmp_path / "out", checks=["resumed"], steps=2)
    assert row.verdict == "fail" and "tensors differ" in row.found and "losses" in row.found


@pytest.mark.slow
def test_a_sound_recipe_is_green_and_a_method_of_its_rank_red(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(config(batch_size=64)))
    command = [sys.executable, "-m", "mezzotint", "check", str(recipe)]
    options = ["--checks", "ranks,resumed,nan", "--steps", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("✓ holds") == 3 and (tmp_path / "out" / "index.html").is_file()
    planted(tmp_path, monkeypatch, OF_RANK)
    [row] = check(config(batch_size=64), tmp_path / "two", checks=["ranks"], steps=2)
    assert row.verdict == "fail" and "differs by" in row.found


@pytest.mark.slow
def test_a_crash_of_the_interpreter_is_a_red_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(tmp_path, monkeypatch, CRASH)
    [row] = check(config(batch_size=64), tmp_path / "out", checks=["nan"], steps=2)
    assert (row.verdict, row.found) == ("fail", "the process ended by SIGSEGV")


def test_each_process_gets_a_recipe_that_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check changes keys of the recipe; the others stay, at any depth."""
    built: list[str] = []

    def finish(command: list[str], out: Path) -> str:
        if not (out / "spec.json").is_file():  # an export
            file = out / "exports" / "onnx-fp32" / "verification.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({"batches": {"1": {"max_error": 2e-6}}}))
            return ""
        spec = json.loads((out / "spec.json").read_text())
        Recipe.build(spec["config"])
        built.append(out.name)
        facts = {
            "no_accumulation": "",
            "batch_norm": False,
            "in_memory": False,
            "changed": [],
            "process_dependence": "",
        }
        same = {**outcome([1.0, 2.0]), "first": 0, "hashes": {"weight": "0"}, **facts}
        (out / "outcome.json").write_text(json.dumps(same))
        return ""

    monkeypatch.setattr(module, "_finish", finish)
    rows = check(config(batch_size=64), tmp_path, steps=2)
    assert [row.verdict for row in rows] == ["pass"] * len(CHECKS), rows
    assert {"base", "ranks", "micro_batches", "compiled", "precision", "nan"} <= set(built)
    assert rows[list(CHECKS).index("exported")].found.endswith("2.0e-06")
