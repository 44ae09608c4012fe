"""Check on the user's machine that a recipe keeps the promises of the training loop.

Each check trains a few steps in a process of its own (`runs.rehearsal`) and compares them with the
same steps as the recipe writes them. Where sums are taken in another order, results may differ by
rounding; how much this may be is measured, by a rehearsal with the last bit of the weights changed,
and for half precision by one with the weights rounded to bf16.
"""

import copy
import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mezzotint.files import write_json
from mezzotint.recipe.schema import RecipeError, nearest

Verdict = Literal["pass", "fail", "skip"]
ROUNDING = {"losses": 1e-5, "norms": 1e-3}
"""Differences of losses and of gradient norms that are always allowed, relative above 1. A single
ReLU that rounding turns over moves the gradient of a small network by 1e-4."""
NOISE_FACTOR = 10.0
"""More is allowed up to this factor of what changing the last bit of the weights does."""
CHAOS = 1e-3
"""Steps after one in which the last bit of the weights moves more than this are not compared: their
losses follow from rounding, and one change of the last bit does not show how far they may go."""
HALF_ROUNDING = {"first": 0.01, "later": 0.05}
"""Drifts of the loss in bf16 or fp16 that are always allowed, relative above 1: of the first step,
whose weights are the same, and of later ones. In fourteen runs, in batches of 16 to 128, the first
step drifted by up to 0.0044; by 0.015 where its targets are codes, which rounding turns over."""
HALF_CHAOS = 1e-2
"""Alike `CHAOS`, after the weights were rounded to bf16 once: in small batches and at high rates
their rounding alone soon moves the loss by more than a fault would."""
_LIMIT_S = 900.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of one check.

    Attributes:
        check: name of the check.
        claim: what should hold.
        verdict: `pass`, `fail`, or `skip` for a check that does not apply.
        found: what was measured, or why it fails or does not apply.
        tolerance: what is allowed.
        seconds: time that the check took.
    """

    check: str
    claim: str
    verdict: Verdict
    found: str
    tolerance: str
    seconds: float


class Failed(Exception):
    """A process of a check ended with an error."""


class Inapplicable(Exception):
    """A check that says nothing about this recipe or machine."""


class Rehearsals:
    """The processes of one check of a recipe.

    Args:
        config: checked recipe.
        folder: directory for their files.
        steps: steps of each.
        ranks: processes of the check of ranks.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, steps: int, ranks: int) -> None:
        self.config, self.folder, self.steps, self.ranks = config, folder, steps, ranks

    @functools.cached_property
    def base(self) -> dict[str, Any]:
        """The steps as the recipe writes them."""
        return self.run("base")

    @functools.cached_property
    def noise(self) -> dict[str, Any]:
        """The steps after the last bit of the weights has changed."""
        return self.run("noise", action="perturb")

    def run(
        self, name: str, *, action: str = "train", ranks: int = 1, **changes: Any
    ) -> dict[str, Any]:
        """Rehearse with changes of the section `run`, by dotted keys with `__`.

        Raises:
            Failed: with the error of the process, or the signal that ended it.
        """
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        for old in ("outcome.json", "error.txt"):
            (out / old).unlink(missing_ok=True)
        config = copy.deepcopy(dict(self.config))
        for key, value in changes.items():
            *path, last = key.split("__")
            section = config["run"]
            for part in path:
                section = section[part]
            section[last] = value
        spec = {
            "config": config, "steps": self.steps, "action": action, "out": str(out),
            "source": str(self.folder / "base"),
        }  # fmt: skip
        write_json(out / "spec.json", spec)
        command = [sys.executable, "-m"]
        if ranks > 1:
            command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        _finish([*command, "mezzotint.runs.rehearsal", str(out / "spec.json")], out)
        found: dict[str, Any] = json.loads((out / "outcome.json").read_text(encoding="utf-8"))
        return found


def _finish(command: Sequence[str], out: Path) -> str:
    """Run a process to its end, and return its standard output.

    Raises:
        Failed: if it does not end well.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S,
            check=False, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"no end after {_LIMIT_S / 60:.0f} minutes") from error
    if done.returncode == 0:
        return done.stdout
    if (out / "error.txt").is_file():
        raise Failed((out / "error.txt").read_text(encoding="utf-8"))
    if done.returncode < 0:
        raise Failed(f"the process ended by {signal.Signals(-done.returncode).name}")
    lines = done.stderr.strip().splitlines()
    raise Failed(lines[-1] if lines else f"the process ended with exit code {done.returncode}")


# ---------------------------------------------------------------------- comparisons


def compare(
    found: Mapping[str, Any], base: Mapping[str, Any], noise: Mapping[str, Any]
) -> tuple[bool, str, str]:
    """Compare losses and gradient norms, step by step, within rounding.

    Returns:
        Whether they agree, and the difference and the tolerance where they are furthest apart.
    """
    worst, allowed, what, ratio = 0.0, 0.0, "", -1.0
    limits, steps = dict(ROUNDING), _comparable(base, noise)
    for step in range(steps):
        for key in ROUNDING:
            one, other, moved = (outcome[key][step] for outcome in (found, base, noise))
            limits[key] = max(limits[key], NOISE_FACTOR * _difference(moved, other))
            difference = _difference(one, other)
            if difference / limits[key] > ratio:
                ratio, worst, allowed = difference / limits[key], difference, limits[key]
                what = "loss" if key == "losses" else "gradient norm"
    some = _of(steps, len(base["losses"]))
    return ratio <= 1.0, f"the {what} differs by {worst:.1e}{some}", f"{allowed:.1e}"


def _comparable(base: Mapping[str, Any], noise: Mapping[str, Any]) -> int:
    """Count the steps up to the first in which the last bit of the weights has grown to chaos."""
    for step in range(len(base["losses"])):
        if any(_difference(noise[key][step], base[key][step]) > CHAOS for key in ROUNDING):
            return step + 1
    return len(base["losses"])


def _of(count: int, steps: int) -> str:
    return f" in the first {count} of {steps} steps" if count < steps else ""


def _difference(one: float, other: float) -> float:
    difference = abs(one - other) / max(1.0, abs(other))
    return difference if math.isfinite(difference) else math.inf


def _same_bits(found: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Compare all losses and the hashes of all tensors."""
    own, start = base["hashes"], found["first"]
    odd = [name for name in own | found["hashes"] if own.get(name) != found["hashes"].get(name)]
    late = found["losses"] != base["losses"][start:]
    if not odd and not late:
        return True, f"{len(own)} tensors are equal", "every bit"
    what = [f"{len(odd)} of {len(own)} tensors differ, first {odd[0]}"] if odd else []
    return False, "; ".join([*what, *(["losses differ"] if late else [])]), "every bit"


# ---------------------------------------------------------------------- checks


def _ranks(runs: Rehearsals) -> tuple[bool, str, str]:
    device = runs.config["run"]["compute"]["device"]
    gpus = torch.cuda.device_count()
    if device != "cpu" and 0 < gpus < runs.ranks:
        raise Inapplicable(f"the machine has {gpus} GPU; set run.compute.device=cpu")
    if reason := runs.base["process_dependence"]:
        raise Inapplicable(reason)
    return compare(runs.run("ranks", ranks=runs.ranks), runs.base, runs.noise)


def _micro_batches(runs: Rehearsals) -> tuple[bool, str, str]:
    if reason := runs.base["no_accumulation"]:
        raise Inapplicable(f"the method refuses micro-batches: {reason}")
    if runs.base["batch_norm"]:
        raise Inapplicable("BatchNorm normalizes each micro-batch by itself")
    return compare(runs.run("micro_batches", micro_batches=2), runs.base, runs.noise)


def _resumed(runs: Rehearsals) -> tuple[bool, str, str]:
    base = runs.base  # leaves the checkpoint
    return _same_bits(runs.run("resumed", action="resume"), base)


def _compiled(runs: Rehearsals) -> tuple[bool, str, str]:
    return compare(
        runs.run("compiled", compute__compile=True, log__classifier=None), runs.base, runs.noise
    )


def _precision(runs: Rehearsals) -> tuple[bool, str, str]:
    written = runs.config["run"]["compute"]["precision"]
    half = "bf16" if written == "fp32" else "fp32"
    other = runs.run("precision", compute__precision=half)
    rounded = runs.run("rounded", action="round", compute__precision="fp32")
    full = runs.base if written == "fp32" else other
    return compare_precision(
        other["losses"], runs.base["losses"], rounded["losses"], full["losses"]
    )


def compare_precision(
    found: Sequence[float], base: Sequence[float], rounded: Sequence[float], full: Sequence[float]
) -> tuple[bool, str, str]:
    """Compare the losses of two precisions, step by step, with what rounding of weights does.

    Args:
        found: losses in the other precision.
        base: losses as the recipe writes them.
        rounded: losses in fp32, after the weights were rounded to bf16.
        full: losses in fp32.

    Returns:
        Whether they agree, and the drift and the tolerance where they are furthest apart.
    """
    worst, allowed, ratio, moved, steps = 0.0, 0.0, -1.0, 0.0, 0
    for one, other, near, exact in zip(found, base, rounded, full, strict=True):
        moved = max(moved, _difference(near, exact))
        limit = max(HALF_ROUNDING["later" if steps else "first"], NOISE_FACTOR * moved)
        drift = _difference(one, other)
        steps += 1
        if drift / limit > ratio:
            ratio, worst, allowed = drift / limit, drift, limit
        if moved > HALF_CHAOS:
            break
    return ratio <= 1.0, f"the loss drifts by {worst:.1e}{_of(steps, len(base))}", f"{allowed:.1e}"


def _workers(runs: Rehearsals) -> tuple[bool, str, str]:
    if runs.base["in_memory"]:
        raise Inapplicable("the data is in memory, so that no workers read it")
    one, two = (runs.run(f"workers-{n}", loader__workers=n) for n in (0, 2))
    return _same_bits(two, one)


def _exported(runs: Rehearsals) -> tuple[bool, str, str]:
    assert runs.base
    folder = runs.folder / "base" / "run"
    command = [sys.executable, "-m", "mezzotint", "export", str(folder)]
    _finish([*command, "--format", "onnx", "--bits", "fp32"], folder)
    file = folder / "exports" / "onnx-fp32" / "verification.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    worst = max(batch["max_error"] for batch in written["batches"].values())
    return True, f"features of the ONNX file differ by {worst:.1e}", "that of `mezzotint export`"


def _nan(runs: Rehearsals) -> tuple[bool, str, str]:
    found = runs.run("nan", action="nan", guard__action="skip", guard__patience=5)
    changed = found["changed"]
    if changed:
        return False, f"{len(changed)} tensors changed, first {changed[0]}", "every bit"
    return True, f"{len(found['hashes'])} tensors are as before", "every bit"


Check = Callable[[Rehearsals], tuple[bool, str, str]]
CHECKS: dict[str, tuple[str, Check]] = {
    "ranks": ("{ranks} processes train as one", _ranks),
    "micro_batches": ("two micro-batches train as one batch", _micro_batches),
    "resumed": ("a resumed run is the uninterrupted one", _resumed),
    "compiled": ("the compiled method trains as the eager one", _compiled),
    "precision": ("half and full precision train alike", _precision),
    "workers": ("the number of workers does not matter", _workers),
    "exported": ("the exported encoder is the trained one", _exported),
    "nan": ("a step with a NaN loss leaves nothing behind", _nan),
}


def check(
    config: Mapping[str, Any],
    out: Path,
    *,
    checks: Sequence[str] = tuple(CHECKS),
    steps: int = 6,
    ranks: int = 2,
    say: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Check a recipe, and write `check.json`.

    Args:
        config: checked recipe.
        out: directory for the result and the files of the processes.
        checks: names of `CHECKS`.
        steps: steps of each process; at least 2.
        ranks: processes of the check of ranks.
        say: called after each check.

    Raises:
        RecipeError: for an unknown check.
    """
    for name in checks:
        if name not in CHECKS:
            raise RecipeError(
                f"`--checks` must be of {', '.join(CHECKS)}, got {name!r}.{nearest(name, CHECKS)}"
            )
    runs = Rehearsals(config, out / "processes", steps, ranks)
    outcomes = []
    for name in checks:
        claim, act = CHECKS[name]
        began = time.monotonic()
        try:
            good, found, tolerance = act(runs)
            verdict: Verdict = "pass" if good else "fail"
        except Inapplicable as reason:
            verdict, found, tolerance = "skip", str(reason), ""
        except Failed as error:
            verdict, found, tolerance = "fail", str(error), ""
        seconds = time.monotonic() - began
        outcomes.append(
            Outcome(name, claim.format(ranks=ranks), verdict, found, tolerance, seconds)
        )
        say(outcomes[-1])
        write_json(out / "check.json", [vars(outcome) for outcome in outcomes])
    return outcomes
