"""The directory of a run: who may write to it, and what it says about where it was made."""

import datetime
import os
import platform
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mezzotint._version import __version__
from mezzotint.train.checkpoint import alive


class RunDirectoryInUse(ValueError):
    """The output directory belongs to another run."""


def default_directory(recipe: str) -> Path:
    """`runs/RECIPE-DATE`, numbered when it exists."""
    name = f"{Path(recipe).stem}-{datetime.date.today():%Y%m%d}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may use a directory, and make it.

    Raises:
        RunDirectoryInUse: when it is not empty and neither `resume` nor `overwrite` was asked for.
    """
    if out.exists() and not out.is_dir():
        raise RunDirectoryInUse(
            f"got --out {out}, which is a file; allowed is a new or empty directory"
        )
    holds = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if holds and not resume:
        owned = (out / "recipe.yaml").is_file() or (out / "checkpoints").is_dir()
        if not overwrite:
            way_out = "use --resume to go on with it, --overwrite to start again, or another --out"
            raise RunDirectoryInUse(
                f"got --out {out}, which holds {holds[0]!r} and more; allowed is a new directory: {way_out}"
            )
        if not owned:
            raise RunDirectoryInUse(
                f"got --overwrite for {out}, which is not a run; allowed is a run's directory: choose another --out"
            )
        _refuse_live_owner(out)
        shutil.rmtree(out)
    if resume and not (out / "checkpoints").is_dir():
        raise RunDirectoryInUse(
            f"got --resume for {out}, which has no checkpoints; allowed is a run's directory: leave --resume out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryInUse(
            f"got --out {out}, which cannot be made ({error.strerror}); choose a place you can write to"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold a run's directory for this process.

    Raises:
        RunDirectoryInUse: when a process that still runs holds it.
    """
    lock = out / ".lock"
    _refuse_live_owner(out)
    lock.write_text(f"{os.getpid()} {socket.gethostname()}\n", encoding="utf-8")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _refuse_live_owner(out: Path) -> None:
    lock = out / ".lock"
    try:
        owner, host = lock.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return
    here = host == socket.gethostname()
    if int(owner) != os.getpid() and (not here or alive(int(owner))):
        raise RunDirectoryInUse(
            f"got --out {out}, which process {owner} on {host} is writing to; allowed is one run a directory: wait, "
            f"choose another --out, or remove {lock} if that process is gone"
        )


def refuse_if_too_small(out: Path, checkpoint_bytes: int, keep: int) -> None:
    """Check before the first step that the checkpoints will fit.

    Raises:
        OSError: when they will not.
    """
    free, need = shutil.disk_usage(out).free, checkpoint_bytes * (keep + 1)
    if free < need:
        raise OSError(
            f"{free / 1e6:.0f} MB are free at {out}; {keep} checkpoints and the one being written need "
            f"{need / 1e6:.0f} MB: free some space, or choose another --out"
        )


def environment(device: str) -> dict[str, Any]:
    """What a figure needs to be understood later: command, versions, hardware. No variable of the environment."""
    import torch

    return {
        "command": shlex.join(["mezzotint", *sys.argv[1:]])
        if sys.argv[0].endswith("mezzotint")
        else "Python",
        "mezzotint": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.system() + " " + platform.machine(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown",
    )
