"""The walk of `mezzotint evaluate RUN`: what a reader opens between the command and the rows.

Print it with `python -m tests.test_walk`. It is traced in a real evaluation, by this rule:

- A *stay* is a function of the package that calls another function of it. It is counted once.
- Not opened, nor is what they call: constructors, properties and checks (`check_`, `refuse_`,
  `require_`), whose names say what they give; the words of every file (`WORDS`); and what lies
  behind a contract: the forward pass of an encoder, the reading of a source, and the inside of a
  probe, which counts as one stay however many probes run.
- A function that calls none is a *leaf*: it is a step too, but its name says what it gives.
- A *climb* is a stay that calls into a package that comes after its own (constructors count here).

The walk begins with `main` and ends when the evaluation returns its rows to `runs`.
"""

import contextlib
import inspect
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from mezzotint.cli.app import main
from mezzotint.data.source import Source
from mezzotint.encoders.encoder import Encoder
from mezzotint.evaluation.probe import Probe
from mezzotint.evaluation.results import Evaluation
from mezzotint.recipe.reading import dump_yaml, read_yaml
from tests.test_tree import ORDER, PACKAGE
from tests.untrained_run import make_run

WORDS = (
    "_lazy.py", "files.py", "dist.py", "seeding.py", "timing.py", "workers.py", "types.py",
    "modality/", "recipe/component.py", "evaluation/progress.py",
)  # fmt: skip
"""Files whose functions every other file uses: a reader knows them by name."""

ROOM = f"{PACKAGE}{os.sep}"
PROBE = "evaluation/probe.py:Probe.run"
"""Name of the one stay that all probes are."""

CHECKS = ("check_", "refuse_", "require_")


def room(function: str) -> int:
    """Position in the order of packages."""
    return ORDER.index(function.split(":")[0].split("/")[0].removesuffix(".py"))


def is_constructor(frame: FrameType) -> bool:
    return frame.f_code.co_name in ("__init__", "__new__", "__post_init__")


def is_closed(frame: FrameType, function: str) -> bool:
    """Whether a reader passes a function by."""
    name = frame.f_code.co_name
    own = frame.f_locals.get("self")
    return (
        function.startswith(WORDS)
        or is_constructor(frame)
        or name.lstrip("_").startswith(CHECKS)
        or isinstance(own, (Encoder, Source, Probe))
        or (own is not None and isinstance(inspect.getattr_static(own, name, None), property))
    )


@dataclass
class Walk:
    """Functions of the package that an evaluation enters, by the rule of this module.

    Attributes:
        called: by function, the functions that it calls.
        climbs: functions that call into a later package, and the first function there.
    """

    called: dict[str, list[str]] = field(default_factory=dict)
    climbs: dict[str, str] = field(default_factory=dict)

    @property
    def stays(self) -> list[str]:
        return [name for name, inner in self.called.items() if inner or name == PROBE]

    @property
    def leaves(self) -> list[str]:
        return [name for name in self.called if name not in self.stays]

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(name.split(":")[0] for name in self.stays))


class Arrived(BaseException):
    """Raised when the rows are there; the command does not write them."""


class Tracer:
    """Follow the frames of the package; see the rule above.

    Each entry of the stack is the function that a frame belongs to, and whether a reader is still
    there; what a closed function calls is closed.
    """

    def __init__(self) -> None:
        self.walk = Walk()
        self.stack: list[tuple[str, bool]] = []

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        # Asked of every call of every library, so by text.
        if event not in ("call", "return") or not code.co_filename.startswith(ROOM):
            return
        if event == "return":
            name, _ = self.stack.pop()
            outer = self.stack[-1][0] if self.stack else ""
            if isinstance(value, Evaluation) and outer.startswith("runs/"):
                raise Arrived
            return
        above, is_open = self.stack[-1] if self.stack else ("", True)
        file = code.co_filename.removeprefix(ROOM).replace(os.sep, "/")
        function = f"{file}:{code.co_qualname}"
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or class
            function, is_open = above, False
        elif code.co_name.startswith("<"):  # a lambda or a comprehension belongs to its function
            function = above
        elif is_open and code.co_name == "run" and isinstance(frame.f_locals.get("self"), Probe):
            function = PROBE
            self.enter(above, function)
            is_open = False
        elif is_open and is_closed(frame, function):
            is_open = False
            self.climb(above, function)
            function = above
        elif is_open:
            self.climb(above, function)
            self.enter(above, function)
        elif is_constructor(frame) and not function.startswith(WORDS):
            self.climb(above, function)
        self.stack.append((function, is_open))

    def enter(self, above: str, function: str) -> None:
        self.walk.called.setdefault(function, [])
        if above and function != above and function not in self.walk.called[above]:
            self.walk.called[above].append(function)

    def climb(self, above: str, function: str) -> None:
        words = function.startswith(WORDS)
        if above in self.walk.called and not words and room(function) > room(above):
            self.walk.climbs.setdefault(above, function)


def walk_of(folder: Path) -> Walk:
    """Trace `mezzotint evaluate RUN` on a run of few samples, which is written for it."""
    run = make_run(folder / "run", {"kind": "resnet8", "stem": "small", "width": 2})
    recipe = read_yaml(run / "recipe.yaml")
    recipe["evaluate"]["probes"] = [{"kind": "knn"}]
    few = dump_yaml({**recipe, "budget": {"samples": 40}})
    (run / "recipe.yaml").write_text(few, encoding="utf-8")
    tracer, kept = Tracer(), (sys.argv, sys.stdout, sys.stderr)
    sys.argv = ["mezzotint", "evaluate", str(run)]
    sys.setprofile(tracer)
    try:
        with contextlib.suppress(Arrived):
            main()
    finally:
        sys.setprofile(None)
        sys.argv, sys.stdout, sys.stderr = kept
    return tracer.walk


def test_the_walk_of_evaluate_stays_short(tmp_path: Path) -> None:
    walk = walk_of(tmp_path)
    assert PROBE in walk.stays
    assert len(walk.stays) <= 23, walk.stays
    assert len(walk.files) <= 14, walk.files
    assert len(walk.climbs) <= 1, walk.climbs
    assert len(walk.stays + walk.leaves) <= 56, walk.leaves


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        walk = walk_of(Path(folder))
    for function in walk.stays:
        print(function)
    print(f"stays {len(walk.stays)}, files {len(walk.files)}, climbs {len(walk.climbs)}")
    print("climbs:", *(f"{a} -> {b}" for a, b in walk.climbs.items()), sep="\n  ")
    print(f"leaves: {len(walk.leaves)}", *walk.leaves, sep="\n  ")
