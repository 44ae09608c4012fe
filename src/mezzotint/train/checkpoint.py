"""Checkpoints that survive a killed save, a full disk or a flipped bit.

A checkpoint is a directory of safetensors, JSON and a manifest with the size and SHA-256 of every
file. It is written under a temporary name next to the others, flushed, read back and hashed, and
only then renamed; older ones are removed after that. There is no pointer file: the newest directory
whose manifest is correct is the latest checkpoint. Nothing is pickled.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from mezzotint.train import faults

Tensors = Mapping[str, Tensor]
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})$")


class CheckpointCorrupt(ValueError):
    """A checkpoint whose files changed after it was saved."""


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        root: the run's `checkpoints/` directory.
        keep: number of checkpoints that stay after a save; at least 2.
    """

    def __init__(self, root: Path, *, keep: int = 2) -> None:
        self.root = root
        self.keep = max(2, keep)

    def save(self, step: int, model: Tensors, optimizer: Tensors, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint, verify it, then remove the oldest.

        Raises:
            OSError: when the disk is full or cannot be written; the previous checkpoints are
                untouched.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        target = self.root / f"step-{step:08d}"
        temporary = self.root / f".{target.name}.tmp-{os.getpid()}"
        faults.point("checkpoint.begin", step)
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._write_all(temporary, step, model, optimizer, state)
            verify(temporary)
            faults.point("checkpoint.before_rename", step)
            if target.exists():
                shutil.rmtree(target)
            os.rename(temporary, target)
            _flush_directory(self.root)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise _explained(error, self.root, model, optimizer) from error
        faults.point("checkpoint.after_rename", step)
        self._remove_old(just_saved=target)
        faults.point("checkpoint.after_retention", step)
        return target

    def _write_all(
        self, folder: Path, step: int, model: Tensors, optimizer: Tensors, state: Mapping[str, Any]
    ) -> None:
        files = {}
        contents: dict[str, Callable[[], bytes]] = {
            "model.safetensors": lambda: _serialize(model),
            "optimizer.safetensors": lambda: _serialize(optimizer),
            "state.json": lambda: json.dumps({"step": step, **state}, indent=1).encode(),
        }
        # One after the other, so that only one of them is in memory twice.
        for name, content in contents.items():
            data = content()
            files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            _write(folder / name, data)
            faults.point(f"checkpoint.after_{name.partition('.')[0]}", step)
        manifest = {"format": FORMAT, "step": step, "files": files}
        _write(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
        _flush_directory(folder)
        faults.point("checkpoint.after_manifest", step)

    def _remove_old(self, just_saved: Path) -> None:
        for folder in self.found()[: -self.keep]:
            if folder != just_saved:
                try:
                    shutil.rmtree(folder)
                except OSError as error:
                    warnings.warn(
                        f"The old checkpoint {folder} could not be removed: {error}", stacklevel=2
                    )

    def found(self) -> list[Path]:
        """List all checkpoint directories, oldest first, good or not."""
        if not self.root.is_dir():
            return []
        return sorted(
            (p for p in self.root.iterdir() if _NAME.match(p.name) and p.is_dir()), key=_step_of
        )

    def latest(self) -> tuple[Saved | None, list[CheckpointCorrupt]]:
        """Load the newest good checkpoint.

        Returns:
            The checkpoint, or `None` when there is no good one, and the problems of newer ones
            that were skipped.
        """
        problems: list[CheckpointCorrupt] = []
        for folder in reversed(self.found()):
            try:
                return load(folder), problems
            except CheckpointCorrupt as error:
                problems.append(error)
        return None, problems

    def sweep(self) -> list[Path]:
        """Remove the temporary directories of killed saves, whose process no longer runs."""
        removed = []
        for path in self.root.glob(".step-*.tmp-*") if self.root.is_dir() else ():
            owner = path.name.rpartition("-")[2]
            if owner.isdigit() and not alive(int(owner)):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        return removed


def verify(folder: Path) -> dict[str, bytes]:
    """Check every file of a checkpoint against its manifest.

    Returns:
        The files' contents by name, read once.

    Raises:
        CheckpointCorrupt: naming the file that differs from its manifest.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        expected, version = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"`{folder}` has no readable manifest ({error})") from error
    if version != FORMAT:
        raise CheckpointCorrupt(
            f"`{folder}` has the format {version}, and this version reads {FORMAT}; "
            "use the version of mezzotint that wrote it"
        )
    present = {p.name for p in folder.iterdir()} - {"manifest.json"}
    if present != set(expected):
        raise CheckpointCorrupt(
            f"`{folder}` must have the files {', '.join(sorted(expected))}, "
            f"got {', '.join(sorted(present))}"
        )
    contents = {}
    for name, stated in expected.items():
        data = (folder / name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if len(data) != stated["bytes"] or digest != stated["sha256"]:
            raise CheckpointCorrupt(
                f"`{folder / name}` must have {stated['bytes']} bytes with SHA-256 "
                f"{stated['sha256'][:12]}…, got {len(data)} with {digest[:12]}…"
            )
        contents[name] = data
    return contents


def load(folder: Path) -> Saved:
    """Verify and read a checkpoint.

    Raises:
        CheckpointCorrupt: when its files changed after it was saved.
    """
    contents = verify(folder)
    state = json.loads(contents["state.json"])
    if state["step"] != _step_of(folder):
        raise CheckpointCorrupt(f"`{folder}` has the state of step {state['step']}")
    model, optimizer = (
        from_bytes(contents["model.safetensors"]),
        from_bytes(contents["optimizer.safetensors"]),
    )
    return Saved(state.pop("step"), model, optimizer, state)


def size_of(model: Tensors, optimizer: Tensors) -> int:
    """Count the bytes of one checkpoint, up to a few kilobytes."""
    return sum(t.numel() * t.element_size() for part in (model, optimizer) for t in part.values())


def alive(pid: int) -> bool:
    """Tell whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _step_of(folder: Path) -> int:
    match = _NAME.search(folder.name)
    return int(match[1]) if match else -1


def _serialize(tensors: Tensors) -> bytes:
    return to_bytes({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, root: Path, model: Tensors, optimizer: Tensors) -> OSError:
    free = shutil.disk_usage(root).free
    need = size_of(model, optimizer)
    return OSError(
        error.errno,
        f"The checkpoint could not be saved ({error.strerror or error}): it needs "
        f"{need / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free. The previous one is kept. "
        "Free some space and use --resume. Directory:",
        str(root),
    )
