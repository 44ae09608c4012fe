"""The directory of a run: who may write to it, and the record of where it was made."""

import datetime
import errno
import fcntl
import os
import platform
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from mezzotint._version import __version__
from mezzotint.files import sweep


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


_OWN = frozenset(
    """recipe.yaml seals.json metrics.jsonl environment.json checkpoints encoder start start.json
    start.tmp before_after.json encoder_trained maps tensorboard wandb mlflow.db mlruns
    evaluation.json baselines.json evaluated.json evaluated_on.json
    finetune.json layers.json layers.html invariances.json invariances.html codes.json codes.html
    report.html exports transfer.yaml network.safetensors metrics.json by_class.json table.json
    table.md index.html features.npz features.parquet
    postmortem""".split()
)
"""What a run, and the verbs that write into its directory, leave there."""
_LOCK = ".lock"
_PHASE = re.compile(r"\d+-\w+$")


def prepare(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Check that a run may use a directory, and create it.

    Raises:
        RunDirectoryInUse: when it is not empty, without `resume` or `overwrite`, or when it has
            files that no run made.
    """
    if out.is_symlink() and not out.exists():
        raise RunDirectoryInUse(
            f"--out {out} is a link to {out.readlink()}, which does not exist. Choose another "
            "--out."
        )
    if out.exists() and not out.is_dir():
        raise RunDirectoryInUse(
            f"--out must be a new or empty directory, and {out} is a file. Choose another --out."
        )
    if resume:
        if not (out / "checkpoints").is_dir():
            raise RunDirectoryInUse(
                f"--resume needs a run with checkpoints, and {out} has none. Start it with "
                "--overwrite, or choose another --out."
            )
    elif content := _content(out):
        if not overwrite:
            raise RunDirectoryInUse(
                f"--out must be a new or empty directory, and {out} has {content[0]!r}. Continue "
                "with --resume, start again with --overwrite, or choose another --out."
            )
        _remove_run(out, content)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryInUse(
            f"--out {out} cannot be created ({error.strerror}). Choose another directory."
        ) from error


def _content(out: Path) -> list[str]:
    """List a directory, without the temporary files of processes that are gone."""
    if not out.is_dir():
        return []
    sweep(out)
    names = sorted(p.name for p in out.iterdir())
    # Killed before it wrote its recipe, a run leaves its lock alone, which nobody holds.
    return [] if names == [_LOCK] and not _is_held(out / _LOCK) else names


def _is_held(lock: Path) -> bool:
    with lock.open("a", encoding="utf-8") as file:
        return not _lock(file)


def _remove_run(out: Path, content: Sequence[str]) -> None:
    """Remove what a run made, and nothing else.

    Raises:
        RunDirectoryInUse: before anything is removed, if the directory is not that of a run, is in
            use, or has files of the user's.
    """
    if not {"checkpoints", "environment.json", "metrics.jsonl", _LOCK} & set(content):
        raise RunDirectoryInUse(
            f"--overwrite removes only runs, and {out} is not a run. Choose another --out."
        )
    foreign = [name for name in content if name not in _OWN | {_LOCK} and not _PHASE.match(name)]
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise RunDirectoryInUse(
            f"--overwrite removes only what a run made, and {out} also has "
            f"{', '.join(foreign[:3])}{more}. Move them away, or choose another --out."
        )
    with locked(out):
        for name in (n for n in content if n != _LOCK):
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


_held: set[TextIO] = set()


def _close_copies() -> None:
    """Close the parent's locks: workers outlive a killed one by seconds, and would hold them."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_close_copies)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Lock a run's directory for this process.

    The lock belongs to the open file, so that it ends with its process, however that ends, on
    whatever host; forked processes, such as workers, close their copy. A file system without locks
    locks nothing.

    Raises:
        RunDirectoryInUse: when another running process has locked it.
    """
    lock = out / _LOCK
    while True:
        file = lock.open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            owner = file.read().split()
            file.close()
            who = f"process {owner[0]} on {owner[1]}" if len(owner) == 2 else "another process"
            raise RunDirectoryInUse(
                f"--out must be a directory of its own, and {who} writes to {out}. Wait until it "
                "ends, or choose another --out."
            )
        if _is_same_file(file, lock):
            break
        file.close()  # its owner removed it in the meantime: lock the new one
    with file:
        _held.add(file)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            _held.discard(file)
            lock.unlink(missing_ok=True)


def _lock(file: TextIO) -> bool:
    """Lock an open file if nobody else has; a file system without locks locks nothing."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
    return True


def _is_same_file(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


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
