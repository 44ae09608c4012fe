"""Start commands to be killed: as new interpreters, or forked from one that has imported all.

A fork works from its first millisecond on, so that a kill costs no import; all else about it is a
command's own: session, directory, arguments, output, the end of the interpreter. `python -m
tests.faults.victims` is the process that is forked. It has one thread, and has read nothing but the
package.
"""

import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from mezzotint.recipe.signatures import index

MARK = "MEZZOTINT_SOAK"
_LAZY = (
    "torchvision", "torchvision.transforms.v2", "torchvision.models.detection", "onnxruntime",
    "onnx", "onnxscript", "soundfile", "torch.utils.data", "torch.onnx", "torch.export", "networkx",
    "rich.progress", "rich._emoji_codes", "pydantic",
    "sklearn.linear_model", "sklearn.manifold", "multiprocessing.spawn",
    "multiprocessing.sharedctypes", "multiprocessing.popen_fork", "numpy.ctypeslib",
)  # fmt: skip


class Victim:
    """A command that runs, in a session of its own.

    Args:
        pid: of the process, which leads its session.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self, seconds: float) -> int | None:
        """Wait for the end; return its code, negative for a signal, or `None` if it runs on."""
        raise NotImplementedError

    def kill(self, *, group: bool) -> None:
        """Kill the process, or all of its group."""
        try:
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # it leads no group yet
            os.kill(self.pid, signal.SIGKILL)


class _Started(Victim):
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        super().__init__(process.pid)
        self._process = process

    def wait(self, seconds: float) -> int | None:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


class _Forked(Victim):
    def __init__(self, pid: int, words: Any) -> None:
        super().__init__(pid)
        self._words = words
        self._code: int | None = None

    def wait(self, seconds: float) -> int | None:
        if self._code is None and select.select([self._words], [], [], seconds)[0]:
            self._code = int(self._words.readline())
        return self._code


def start(command: list[str], at: Path, mark: str) -> Victim:
    """Start a new interpreter in a directory, with a mark in its environment; words go to `log`."""
    with (at / "log").open("wb") as log:
        return _Started(
            subprocess.Popen(
                [sys.executable, "-m", "mezzotint", *command], cwd=at, stdout=log, stderr=log,
                env=_environment(mark), start_new_session=True,
            )
        )  # fmt: skip


def _environment(mark: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", MARK: mark}


class Stem:
    """The process that is forked; a context."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victims"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=_environment("stem"), start_new_session=True, bufsize=0,
        )  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def start(self, command: list[str], at: Path, mark: str) -> Victim:
        """Fork a command, as `start` starts it; the last one has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"command": command, "at": str(at), "mark": mark}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return _Forked(int(self._process.stdout.readline()), self._process.stdout)


def _import_all() -> None:
    import mezzotint

    for module in pkgutil.walk_packages(mezzotint.__path__, "mezzotint."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)
    Image.init()
    assert index().kinds  # the sources of the package, parsed


def _next_order(words: Any) -> Mapping[str, Any]:
    """Fork for each order, and return it in the child."""
    while line := sys.stdin.buffer.readline():
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        lost = [name for name in names[1:] if name != "jemalloc_bg_thd"]  # it starts again itself
        assert not lost, f"threads that a fork would lose: {lost}"
        if (pid := os.fork()) == 0:
            return json.loads(line)  # type: ignore[no-any-return]
        words.write(b"%d\n" % pid)
        words.write(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)


def main() -> None:
    """Import, then become each command that is asked for."""
    words = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    _import_all()
    order = _next_order(words)
    os.setsid()
    words.close()
    os.chdir(order["at"])
    with Path("log").open("wb") as log, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ[MARK] = order["mark"]
    sys.argv = ["mezzotint", *order["command"]]
    runpy.run_module("mezzotint", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
