"""The directory of a run: who may write to it, and the record of where it was made."""

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
    """The output directory cannot be used for this run."""


def default_directory(recipe: str) -> Path:
    """Choose `runs/RECIPE-DATE`, with a number when that exists."""
    name = f"{Path(recipe).stem}-{datetime.date.today():%Y%m%d}"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may use a directory, and create it.

    Raises:
        RunDirectoryInUse: when it is not empty, without `resume` or `overwrite`.
    """
    if out.exists() and not out.is_dir():
        raise RunDirectoryInUse(
            f"--out must be a new or empty directory, and {out} is a file. Choose another --out."
        )
    content = sorted(p.name for p in out.iterdir()) if out.is_dir() else []
    if content and not resume:
        owned = (out / "recipe.yaml").is_file() or (out / "checkpoints").is_dir()
        if not overwrite:
            raise RunDirectoryInUse(
                f"--out must be a new or empty directory, and {out} has {content[0]!r}. Continue "
                "with --resume, start again with --overwrite, or choose another --out."
            )
        if not owned:
            raise RunDirectoryInUse(
                f"--overwrite removes only runs, and {out} is not a run. Choose another --out."
            )
        _refuse_live_owner(out)
        shutil.rmtree(out)
    if resume and not (out / "checkpoints").is_dir():
        raise RunDirectoryInUse(
            f"--resume needs a run with checkpoints, and {out} has none. Leave --resume out."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryInUse(
            f"--out {out} cannot be created ({error.strerror}). Choose another directory."
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock a run's directory for this process.

    Raises:
        RunDirectoryInUse: when another running process has locked it.
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
            f"--out must be a directory of its own, and process {owner} on {host} writes to {out}. "
            f"Choose another --out, or remove {lock} if that process is gone."
        )


def refuse_if_too_small(out: Path, checkpoint_bytes: int, keep: int) -> None:
    """Check before the first step that the checkpoints will fit.

    Raises:
        OSError: when they will not.
    """
    free, need = shutil.disk_usage(out).free, checkpoint_bytes * (keep + 1)
    if free < need:
        raise OSError(
            f"{free / 1e6:.0f} MB are free at {out}, and {keep} checkpoints and a temporary one "
            f"need {need / 1e6:.0f} MB. Free some space, or choose another --out."
        )


def environment(device: str) -> dict[str, Any]:
    """Describe how a result was made: command, versions, hardware; no environment variables."""
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
