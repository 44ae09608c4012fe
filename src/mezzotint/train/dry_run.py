"""A dry run: what a run will do and cost, in six facts: `mezzotint pretrain --dry-run`.

Everything is built and measured in another process (`preview`), so that a run that needs more
memory than there is ends that process and not the answer, and that the answer comes in time: the
process is stopped after `SECONDS`, and what it has not measured by then is said to be unknown.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mezzotint.recipe.schema import RecipeError

SECONDS = 11.0
"""Time of the other process; the command itself starts in about a second."""

_WAITS = 34  # one second each after these, on a machine that gives the process hardly any time

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
    late = "not known in the time of a dry run"
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
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        text: bytes | None = json.dumps([config, name]).encode()
        for number in range(_WAITS):
            try:
                out, errors = process.communicate(text, timeout=1.0 if number else SECONDS)
            except subprocess.TimeoutExpired as late:
                text, out = None, late.stdout or b""
                # On a busy machine it may not have had its time yet.
                if b'"training"' not in out and processor_seconds(process.pid) < SECONDS / 2:
                    continue
            else:
                return out.decode(), _out_of_memory(process.returncode, errors.decode())
            break
        process.kill()
        return out.decode(), False


def _out_of_memory(code: int, errors: str) -> bool:
    """Return whether a process that ended had too little memory.

    Raises:
        ValueError: when it ended for another reason than its end.
    """
    if code in (-9, 137) or "out of memory" in errors:
        return True
    if code:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"The steps of the dry run failed: {last}")
    return False


def processor_seconds(process: int) -> float:
    """Return the processor time that a process has used; inf where the system does not say."""
    try:
        # The fields after the name, which may have spaces, in its parentheses.
        fields = (
            Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        )
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
