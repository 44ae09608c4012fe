"""Checkpoints that survive a killed save, a full disk or a flipped bit.

A checkpoint is a directory of safetensors, JSON and a manifest with the size and SHA-256 of every
file. It is written under a temporary name next to the others, flushed, read back, compared and
hashed, and only then renamed; older ones are verified and removed after that. While a file is
written, other threads flush and read back what is written already. There is no pointer file: the
newest directory whose manifest is correct is the latest checkpoint. Nothing is pickled.
"""

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mezzotint.files import flush
from mezzotint.train import faults

Tensors = Mapping[str, Tensor]
_Content = Callable[[], Iterable[memoryview]]
FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})$")
_CHUNK = 1 << 20
_PIECE = 1 << 23
_FLUSHED = 1 << 25
_SAFETENSORS_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


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
        target = self.root / f"step-{step:08d}"
        temporary = self.root / f".{target.name}.tmp-{os.getpid()}"
        faults.point("checkpoint.begin", step)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            with ThreadPoolExecutor(4) as pool:
                _write_all(temporary, pool, step, model, optimizer, state)
            faults.point("checkpoint.before_rename", step)
            if target.exists():
                shutil.rmtree(target)
            os.rename(temporary, target)
            flush(self.root)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise self._explained(error, size_of(model, optimizer)) from error
        faults.point("checkpoint.after_rename", step)
        self.remove_older(target)
        faults.point("checkpoint.after_retention", step)
        return target

    def _explained(self, error: OSError, need: int) -> OSError:
        """Say why a save failed, and whether there is a checkpoint to go on from."""
        there = next(path for path in (self.root, *self.root.parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        good = self.newest_good()
        state = "There is no earlier checkpoint" if good is None else f"`{good.name}` is kept"
        return OSError(
            error.errno,
            f"A checkpoint could not be saved in `{self.root}` ({error.strerror or error}): it "
            f"needs {need / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free. {state}. "
            f"{'Check the disk' if error.errno == errno.EIO else 'Free some space'}.",
        )

    def remove_older(self, newest: Path) -> None:
        """Verify the checkpoints that stay next to one that was just saved, and remove the rest."""
        good, superfluous = 1, []
        for folder in reversed(self.found()):
            if folder == newest:
                continue
            if good < self.keep:
                good += _is_good(folder)  # a damaged one does not count, and stays to be looked at
            else:
                superfluous.append(folder)
        _remove(superfluous)

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

    def newest_good(self) -> Path | None:
        """Return the newest checkpoint whose files match its manifest; `None` without one."""
        return next((folder for folder in reversed(self.found()) if _is_good(folder)), None)

    def sweep(self) -> list[Path]:
        """Remove the temporary directories of killed saves.

        The caller has locked the run, so that no other process is saving.
        """
        removed = []
        for path in self.root.glob(".step-*.tmp-*") if self.root.is_dir() else ():
            if path.name.rpartition("-")[2] != str(os.getpid()):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        return removed


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest.

    Returns:
        The manifest.

    Raises:
        CheckpointCorrupt: naming the file that differs from its manifest, or cannot be read.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        version, step = manifest["format"], manifest["step"]
        expected = {
            name: (int(stated["bytes"]), str(stated["sha256"]))
            for name, stated in manifest["files"].items()
        }
        digest = manifest.pop("sha256", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointCorrupt(f"`{folder}` has no readable manifest ({error})") from error
    if version != FORMAT:
        raise CheckpointCorrupt(
            f"`{folder}` has the format {version}, and this version reads {FORMAT}; "
            "use the version of mezzotint that wrote it"
        )
    if digest is not None and digest != _digest_of(manifest) or step != _step_of(folder, step):
        raise CheckpointCorrupt(f"`{folder / 'manifest.json'}` changed after it was written")
    try:
        present = {p.name for p in folder.iterdir()} - {"manifest.json"}
        if present != set(expected):
            raise CheckpointCorrupt(
                f"`{folder}` must have the files {', '.join(sorted(expected))}, "
                f"got {', '.join(sorted(present))}"
            )
        for name, (size, stated) in expected.items():
            length, digest = _hash(folder / name)
            if (length, digest) != (size, stated):
                raise CheckpointCorrupt(
                    f"`{folder / name}` must have {size} bytes with SHA-256 {stated[:12]}…, "
                    f"got {length} with {digest[:12]}…"
                )
    except OSError as error:
        raise CheckpointCorrupt(f"`{folder}` cannot be read ({error})") from error
    return manifest


def load(folder: Path) -> Saved:
    """Verify and read a checkpoint.

    Raises:
        CheckpointCorrupt: when its files changed after it was saved.
    """
    verify(folder)
    try:
        state = json.loads((folder / "state.json").read_bytes())
        step = state.pop("step")
        model = load_file(folder / "model.safetensors")
        optimizer = load_file(folder / "optimizer.safetensors")
    except OSError as error:
        raise CheckpointCorrupt(f"`{folder}` cannot be read ({error})") from error
    # The files are those of the manifest: somebody wrote them so.
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise CheckpointCorrupt(f"`{folder}` is not a checkpoint ({error})") from error
    if step != _step_of(folder):
        raise CheckpointCorrupt(f"`{folder}` has the state of step {step}")
    return Saved(step, model, optimizer, state)


def size_of(model: Tensors, optimizer: Tensors) -> int:
    """Count the bytes of one checkpoint, up to a few kilobytes."""
    return sum(t.numel() * t.element_size() for part in (model, optimizer) for t in part.values())


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except OSError as error:
            warnings.warn(
                f"The old checkpoint {folder} could not be removed: {error}", stacklevel=3
            )


def _is_good(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointCorrupt:
        return False
    return True


def _step_of(folder: Path, otherwise: int = -1) -> int:
    match = _NAME.search(folder.name)
    return int(match[1]) if match else otherwise


def _safetensors(tensors: Tensors) -> Iterator[memoryview]:
    """Serialize tensors in the safetensors format, one at a time, without a copy of all of them.

    The library's own writer copies everything into one buffer first. Its reader reads this.
    """
    # Wide types first, as the format wants it: every tensor then starts at a multiple of its size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        dtype = _SAFETENSORS_NAMES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(struct.pack("<Q", len(text)) + text)
    for _, tensor in ordered:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy().data)


def _write_all(
    folder: Path,
    pool: Executor,
    step: int,
    model: Tensors,
    optimizer: Tensors,
    state: Mapping[str, Any],
) -> None:
    """Write all files of a checkpoint, and wait until they are on disk and were read back.

    Threads help, because writing, flushing and hashing let the interpreter go.
    """
    contents: dict[str, _Content] = {
        "model.safetensors": functools.partial(_safetensors, model),
        "optimizer.safetensors": functools.partial(_safetensors, optimizer),
        "state.json": _json({"step": step, **state}),
    }
    found, flushed = {}, []
    for name, content in contents.items():
        found[name], flushes = _write(folder / name, content(), pool)
        flushed += flushes
        faults.point(f"checkpoint.after_{name.partition('.')[0]}", step)
    files = {name: facts.result() for name, facts in found.items()}
    manifest: dict[str, Any] = {"format": FORMAT, "step": step, "files": files}
    manifest["sha256"] = _digest_of(manifest)
    read_back, flushes = _write(folder / "manifest.json", _json(manifest)(), pool)
    read_back.result()
    for done in (*flushed, *flushes):
        done.result()
    flush(folder)
    faults.point("checkpoint.after_manifest", step)


def _json(value: Mapping[str, Any]) -> _Content:
    text = json.dumps(value, indent=1).encode()
    return lambda: [memoryview(text)]


def _write(
    path: Path, content: Iterable[memoryview], pool: Executor
) -> tuple[Future[dict[str, Any]], list[Future[None]]]:
    """Write a file, while threads read back and flush what is written already.

    Returns:
        Its size and SHA-256 once it was read back, and all flushes.
    """
    written: SimpleQueue[memoryview | None] = SimpleQueue()
    flushes: list[Future[None]] = []
    unflushed = 0
    with path.open("wb") as file:
        found = pool.submit(_read_back, path, iter(written.get, None))
        try:
            for part in content:
                for start in range(0, len(part), _PIECE):
                    piece = part[start : start + _PIECE]
                    _append(file, piece)
                    written.put(piece)
                    unflushed += len(piece)
                    # The disk has work to do from the start; one thread flushes a file at a time.
                    if unflushed >= _FLUSHED and (not flushes or flushes[-1].done()):
                        flushes.append(pool.submit(flush, path))
                        unflushed = 0
        finally:
            written.put(None)
    flushes.append(pool.submit(flush, path))
    return found, flushes


def _append(file: BinaryIO, piece: memoryview) -> None:
    file.write(piece)
    file.flush()


def _read_back(path: Path, pieces: Iterable[memoryview]) -> dict[str, Any]:
    """Compare a file with the pieces that were written to it; return its size and SHA-256.

    Raises:
        OSError: when the file differs.
    """
    digest, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(_CHUNK))
    with path.open("rb") as file:
        for piece in pieces:
            for start in range(0, len(piece), _CHUNK):  # hashed while it is in the cache
                chunk = piece[start : start + _CHUNK]
                read = buffer[: len(chunk)]
                is_whole = file.readinto(read) == len(chunk)
                # Views of bytes compare one by one, arrays of numpy many at once.
                if not (is_whole and np.array_equal(np.asarray(read), np.asarray(chunk))):
                    raise OSError(errno.EIO, f"`{path.name}` is not what was written")
                digest.update(read)
            size += len(piece)
        if file.read(1):
            raise OSError(errno.EIO, f"`{path.name}` is longer than what was written")
    return {"bytes": size, "sha256": digest.hexdigest()}


def _hash(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")  # through one small buffer
        return file.tell(), digest.hexdigest()


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
