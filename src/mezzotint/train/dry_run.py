"""A dry run: what a run will do and cost, in six facts: `mezzotint pretrain --dry-run`.

Everything is built and measured in another process (`preview`), so that a run that needs more
memory than there is ends that process and not the answer, and that the answer comes in time: the
process is stopped after `SECONDS`, and what it has not measured by then is said to be unknown.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mezzotint.recipe.schema import RecipeError

SECONDS = 11.0
"""Time of the other process; the command itself starts in about a second."""

FACTS = ("data", "recipe", "run", "training", "evaluation", "memory")


def dry_run(config: Mapping[str, Any], name: str) -> list[str]:
    """Run a few steps in another process without writing anything, and estimate the whole run.

    Args:
        config: a checked recipe.
        name: of the recipe.

    Returns:
        The six facts, a line each, then the views and the parameter groups.

    Raises:
        ValueError: when the recipe cannot be built, or its steps fail.
        OSError: when its data cannot be opened.
    """
    out, out_of_memory = _measured(config, name)
    found: dict[str, Any] = {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError):  # the last line may be half a line
            found |= json.loads(line) if line.startswith("{") else {}
    if "refused" in found:
        raise (OSError if found["is_os"] else RecipeError)(found["refused"])
    known: dict[str, str] = found.get("known", {"recipe": name})
    late = f"not known after {SECONDS:.0f} s"
    if out_of_memory and "memory" not in known:
        small = "a step of a few samples already needs more than there is; choose a smaller "
        known["memory"] = f"{small}encoder or input"
    return [
        *facts({name: known.get(name, late) for name in FACTS} | known),
        *found.get("groups", ()),
    ]


def facts(known: Mapping[str, str]) -> list[str]:
    """Write facts, the six first, a line each."""
    order = (*FACTS, *(name for name in known if name not in FACTS))
    return [f"{name:<12}{known[name]}" for name in order]


def _measured(config: Mapping[str, Any], name: str) -> tuple[str, bool]:
    """Measure in another process: what it wrote, and whether the system ended it for its memory."""
    code = "from mezzotint.train.preview import measure_stdin; measure_stdin()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps([config, name]),
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        out = late.stdout or ""  # bytes, whatever was asked for
        return (out.decode() if isinstance(out, bytes) else out), False
    out_of_memory = done.returncode in (-9, 137) or "out of memory" in done.stderr
    if done.returncode and not out_of_memory:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"The steps of the dry run failed: {last}")
    return done.stdout, out_of_memory
