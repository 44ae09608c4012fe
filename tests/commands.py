"""Run commands of Mezzotint as processes that have imported everything already.

A command of its own interpreter imports PyTorch and the package for five seconds. A copy of the
process of `tests/ranks.py` does not: it has an environment, a working directory, streams, signals,
a process group and an exit code of its own, as every process has.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.ranks import PRELOADED

Streams = Sequence[str | Connection]
"""Standard output and error: paths of files, or writable ends of pipes."""


def _become(streams: Streams, cwd: str, environment: Mapping[str, str]) -> None:
    """Give a copy the streams, the working directory and the environment of a new process."""
    import torch

    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number in (signal.SIGTERM, signal.SIGHUP):  # tests may run under nohup
        signal.signal(number, signal.SIG_DFL)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, stream in enumerate(streams, start=1):
        source = os.open(stream, flags) if isinstance(stream, str) else stream.fileno()
        os.dup2(source, descriptor)
        if isinstance(stream, Connection):
            stream.close()
        else:
            os.close(source)
    # As an interpreter has them that a shell started.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )
    multiprocessing.set_start_method(None, force=True)  # a copy would have its parent's


def _process(place: tuple[Any, ...], function: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.setsid()
    _become(*place)
    function(*args)


def command(words: list[str]) -> None:
    """Become a command of Mezzotint; its exit code is that of the process."""
    from mezzotint.cli import main

    sys.argv = ["mezzotint", *words]
    main()


def _environment(fault: str, changes: Mapping[str, str]) -> dict[str, str]:
    fixed = {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "MEZZOTINT_FAULT": fault}
    return {**os.environ, **fixed, **changes}


@contextlib.contextmanager
def copied(
    function: Callable[..., None],
    args: tuple[Any, ...],
    streams: Streams,
    *,
    cwd: Path,
    fault: str = "",
    **changes: str,
) -> Iterator[BaseProcess]:
    """Start `function(*args)` in a process that fails at `fault`; it is killed at the end."""
    multiprocessing.set_forkserver_preload([*PRELOADED])
    context = multiprocessing.get_context("forkserver")
    place = (streams, str(cwd), _environment(fault, changes))
    process = context.Process(target=_process, args=(place, function, args))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def started(
    words: Sequence[str], streams: Streams, *, cwd: Path, fault: str = ""
) -> Iterator[BaseProcess]:
    """Start a command; it is killed at the end of the block."""
    with copied(command, (list(words),), streams, cwd=cwd, fault=fault) as process:
        yield process


def ended(
    function: Callable[..., None], *args: Any, cwd: Path, fault: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `function(*args)` in a process to its end; its exit code, and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        for path in files:
            path.touch()
        streams = [str(path) for path in files]
        with copied(function, args, streams, cwd=cwd, fault=fault, **changes) as process:
            process.join(180.0)
            assert process.exitcode is not None, files[1].read_text(encoding="utf-8")
            code = process.exitcode
        out, err = (path.read_text(encoding="utf-8") for path in files)
    return subprocess.CompletedProcess(args, code, out, err)


def completed(
    *words: str | Path, cwd: Path, fault: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its exit code, and what it printed."""
    return ended(command, [*map(str, words)], cwd=cwd, fault=fault, **changes)


def _agent(
    function: Callable[..., None], args: tuple[Any, ...], restarts: int, place: tuple[Any, ...]
) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, max_restarts=restarts,
        run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        start_method="forkserver",
    )  # fmt: skip
    elastic_launch(config, _rank)(place, function, args)


def _rank(place: tuple[Any, ...], function: Callable[..., None], args: tuple[Any, ...]) -> None:
    given = {name: value for name, value in os.environ.items() if name not in place[2]}
    _become(place[0], place[1], {**place[2], **given})
    try:
        function(*args)
    except SystemExit as end:
        if end.code:
            raise
    except BaseException:
        traceback.print_exc()
        raise


def by_agent(
    function: Callable[..., None], *args: Any, cwd: Path, restarts: int = 0, fault: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run `function(*args)` in two processes of torchrun's agent, which may restart them."""
    streams = [str(cwd / "ranks.txt")] * 2
    place = (streams, str(cwd), _environment(fault, {}))
    done = ended(_agent, function, args, restarts, place, cwd=cwd)
    done.stderr += Path(streams[0]).read_text(encoding="utf-8")
    return done
