"""Shards: many samples in a few tar files, with an index that says where each one lies.

    OUT/index.json        classes, splits, shards, and the SHA-256 of each column
    OUT/index/offset.npy  one row per sample: where it lies, its size, label, group, digest and id
    OUT/00000.tar         00000000.jpg, 00000000.cls, 00000001.png, …

The members have WebDataset's names, `key.ext`, so that other programs read them. Columns of a local
index stay on disk and are read as they are needed. Nothing is pickled. `webdataset.py` reads tar
files without an index, and `parquet.py` parquet files and Arrow data sets, as such shards.
"""

import hashlib
import io
import json
import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mezzotint import memory
from mezzotint.data.formats import storage
from mezzotint.data.formats.tar import MAX_MEMBER
from mezzotint.data.listing.layout import ROLES, role_of, role_of_file, scored_role

FORMAT, VERSION = "mezzotint shards", 1
INDEX, COLUMNS = "index.json", "index"
_TYPES = {
    "offset": np.int64,
    "size": np.int64,
    "label": np.int64,
    "group": np.int64,
    "digest": np.uint64,
    "scored": np.uint8,
    "end": np.int64,
    "ids": np.uint8,
}
_MAX_JSON = 64_000_000

Column = npt.NDArray[Any]


class DamagedShards(ValueError):
    """An index that is not what was written, or does not fit its shards."""


@dataclass(frozen=True)
class Ids(Sequence[str]):
    """Ids of samples in one block of bytes.

    Attributes:
        block: uint8, all ids one after the other, in UTF-8.
        ends: int64 `[N]`, where each one ends.
        samples: number of samples, the first ones.
    """

    block: Column
    ends: Column
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not -self.samples <= index < self.samples:
            raise IndexError(index)
        index %= self.samples
        start = int(self.ends[index - 1]) if index else 0
        return bytes(self.block[start : int(self.ends[index])]).decode(errors="replace")

    @classmethod
    def of(cls, ids: Sequence[str]) -> "Ids":
        """Pack ids into one block of bytes."""
        encoded = [name.encode(errors="surrogateescape") for name in ids]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends, len(encoded))


@dataclass(frozen=True)
class ShardIndex:
    """Where samples lie, and what is known of them.

    Samples of one split follow each other: those of training first.

    Attributes:
        root: folder or URL of the shards.
        modality: of the samples.
        classes: names of the classes, by label.
        splits: name and number of samples of each split, in their order.
        shards: names of the tar files.
        firsts: int64 `[shards + 1]`, the first sample of each shard.
        columns: arrays by name, `[N]` but for `ids`; `scored` is 1 for samples of training whose
            labels are held out.
        fingerprint: a hash of all columns.
        notes: what a user should know, one clause each.
        unreadable: name and reason of each file that was left out.
    """

    root: str
    modality: str
    classes: tuple[str, ...]
    splits: tuple[tuple[str, int], ...]
    shards: tuple[str, ...]
    firsts: npt.NDArray[np.int64]
    columns: dict[str, Column]
    fingerprint: str
    notes: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getstate__(self) -> dict[str, Any]:
        """Let a spawned worker map the columns again, instead of copying them to it."""
        columns = {
            name: column.filename if isinstance(column, np.memmap) else column
            for name, column in self.columns.items()
        }
        return {**self.__dict__, "columns": columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        columns = {
            name: column if isinstance(column, np.ndarray) else _mapped(name, os.fspath(column))
            for name, column in state["columns"].items()
        }
        self.__dict__.update(state, columns=columns)

    def give_back(self) -> None:
        """Let go of pages of columns that were read, and of the memory of what was made of them.

        The columns are read again when needed.
        """
        for column in self.columns.values():
            mapped = getattr(column, "_mmap", None)
            if mapped is not None:
                mapped.madvise(mmap.MADV_DONTNEED)
        memory.give_back()

    def ids(self, count: int | None = None) -> Sequence[str]:
        """Return the ids of the first samples; of all by default."""
        return Ids(self.columns["ids"], self.columns["end"], len(self) if count is None else count)

    def read(self, index: int) -> bytes:
        """Read the bytes of a sample.

        Raises:
            DamagedShards: when they are not what was written.
            OSError: when the shard is missing or cannot be reached.
        """
        shard = int(np.searchsorted(self.firsts, index, side="right")) - 1
        offset, size = int(self.columns["offset"][index]), int(self.columns["size"][index])
        content = storage.read_range(storage.join(self.root, self.shards[shard]), offset, size)
        if len(content) != size:
            raise DamagedShards(f"{self.shards[shard]} ends within the sample")
        digest = int(self.columns["digest"][index])
        if digest and digest_of(content) != digest:
            raise DamagedShards(f"its bytes in {self.shards[shard]} changed after it was written")
        return content


def digest_of(content: bytes) -> int:
    """Return a hash of a sample's bytes, 64 bits; never 0, which stands for no hash."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") or 1


@dataclass(frozen=True)
class Arranged:
    """The files of packed samples, in the order of their splits.

    Attributes:
        order: numbers of the files: those of training first, then those that are scored.
        splits: name and number of samples of each split, in that order.
        notes: what a user should know, one clause each.
    """

    order: tuple[int, ...]
    splits: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]


def arranged(names: Sequence[str], sizes: Sequence[int], labeled: Sequence[bool]) -> Arranged:
    """Find the split of each file by its name or its folder, as the layout rule does for folders.

    `train-00000-of-00005.parquet`, `data/test.tar` and `validation/000.arrow` are of a split. Next
    to a training split, files of no known split are neither trained on nor scored; without one they
    are the training part.

    Args:
        names: relative paths of the files, with `/`.
        sizes: samples in each.
        labeled: whether each has a label.
    """
    splits = [_split_of(name) for name in names]
    notes = []
    if "train" not in splits:
        others = {split for split in splits if split not in ROLES}
        first = min(splits, key=[*ROLES, *others].index, default="")
        splits = ["train" if s in (others or {first}) else s for s in splits]
        notes += [] if others else [f"there is no training split, so `{first}` is trained on"]
    scored = scored_role([None if s == "train" else role_of(s) for s in splits], labeled)
    first_seen = {split: number for number, split in enumerate(dict.fromkeys(splits))}
    rank = {**first_seen, **({scored: -1} if scored else {}), "train": -2}
    order = sorted(range(len(names)), key=lambda i: rank[splits[i]])
    counts = {splits[i]: 0 for i in order}
    for split, size in zip(splits, sizes, strict=True):
        counts[split] += size
    notes += [
        f"`{split}` has {count:,} samples that are neither trained on nor scored"
        for split, count in counts.items()
        if split not in ("train", scored)
    ]
    return Arranged(tuple(order), tuple(counts.items()), tuple(notes))


def _split_of(name: str) -> str:
    """Return the split of a file: `train`, `val`, `test`, or the words of its own name."""
    *folders, file = name.split("/")
    roles = [role for folder in reversed(folders) if (role := role_of(folder))]
    stem = file.partition(".")[0].lower()
    role = roles[0] if roles else role_of_file(stem)
    words = re.sub(r"[-_]?\d+([-_]of[-_]\d+([-_][0-9a-f]{16})?)?$", "", stem)
    return role or words or (folders or ["other"])[-1].lower()


def write_index(
    folder: Path, facts: dict[str, Any], columns: dict[str, Column], ids: Sequence[str]
) -> None:
    """Write the index of shards into their folder.

    Args:
        folder: of the shards.
        facts: `modality`, `classes`, and `splits` and `shards` as [name, samples].
        columns: `offset`, `size`, `label`, `group`, `digest` and `scored`, `[N]`.
        ids: ids of the samples.
    """
    packed = Ids.of(ids)
    (folder / COLUMNS).mkdir()
    hashes = {}
    for name, kind in _TYPES.items():
        given = {"end": packed.ends, "ids": packed.block}.get(name, columns.get(name))
        path = folder / COLUMNS / f"{name}.npy"
        np.save(path, np.asarray(given, kind), allow_pickle=False)
        hashes[name] = _sha256(str(path))
    content = {"format": FORMAT, "version": VERSION, **facts, "columns": hashes}
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_index(root: str, modality: str) -> ShardIndex | None:
    """Open the index that `mezzotint shard` wrote; `None` where there is none.

    Args:
        root: folder or URL.
        modality: of the samples.

    Raises:
        ValueError: when the index is damaged or of another modality.
    """
    path = storage.join(root, INDEX)
    try:
        text = storage.read_range(path, 0, _MAX_JSON)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        facts = json.loads(text)
        if isinstance(facts, dict) and "wids_version" in facts:  # WebDataset's own, of no use here
            return None
        index = _from_index(root, facts)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        if isinstance(error, DamagedShards):
            raise
        raise DamagedShards(
            f"`{path}` cannot be used ({type(error).__name__}: {error}). It must be what "
            "`mezzotint shard` wrote. Copy or write the shards again."
        ) from error
    if index.modality != modality:
        raise ValueError(
            f"`{root}` has shards of {index.modality} samples, not of {modality}. Use data.kind="
            f"{index.modality}_shards, or other shards."
        )
    return index


def _from_index(root: str, facts: dict[str, Any]) -> ShardIndex:
    if facts["format"] != FORMAT or facts["version"] != VERSION:
        raise ValueError(f"format {facts['format']!r}, version {facts['version']!r}")
    shards = [(str(name), int(count)) for name, count in facts["shards"]]
    if any("/" in name or name.startswith(".") or count < 0 for name, count in shards):
        raise ValueError("a shard must be a file of the same folder")
    firsts = np.cumsum([0, *(count for _, count in shards)], dtype=np.int64)
    count = int(firsts[-1])
    splits = tuple((str(name), int(size)) for name, size in facts["splits"])
    if sum(size for _, size in splits) != count:
        raise ValueError(f"{count} samples in shards, {sum(s for _, s in splits)} in splits")
    columns = {name: _column(root, name, facts["columns"][name]) for name in _TYPES}
    for name, column in columns.items():
        if name != "ids" and len(column) != count:
            raise ValueError(f"{name}.npy has {len(column)} rows, and there are {count} samples")
    classes = tuple(str(name) for name in facts["classes"])
    limits = {"offset": (0, 2**62), "size": (0, MAX_MEMBER), "label": (-1, len(classes) - 1)}
    for name, (low, high) in limits.items():
        if count and not low <= int(columns[name].min()) <= int(columns[name].max()) <= high:
            raise ValueError(f"{name}.npy has values outside of {low} to {high:,}")
        path = getattr(columns[name], "filename", None)
        if path is not None:  # the pages that were read are given back
            columns[name] = _mapped(name, str(path))
    digest = hashlib.blake2b(json.dumps(facts["columns"]).encode(), digest_size=8).hexdigest()
    return ShardIndex(
        root, str(facts["modality"]), classes, splits, tuple(name for name, _ in shards), firsts,
        columns, digest,
    )  # fmt: skip


def _column(root: str, name: str, expected: str) -> Column:
    """Read a column, mapped into memory where it is local, and check its hash."""
    path = storage.join(root, f"{COLUMNS}/{name}.npy")
    if storage.is_url(path):
        content = storage.read_range(path, 0, storage.size_of(path))
        found = hashlib.sha256(content).hexdigest()
        column = _array(name, io.BytesIO(content), len(content), content)
    else:
        found, column = _sha256(path), _mapped(name, path)
    if found != expected:
        raise DamagedShards(
            f"`{path}` changed after it was written. Copy or write the shards again."
        )
    return column


def _mapped(name: str, path: str) -> Column:
    with open(path, "rb") as file:
        return _array(name, file, os.fstat(file.fileno()).st_size, None)


def _array(name: str, file: BinaryIO, size: int, content: bytes | None) -> Column:
    """Read an `.npy` file of one axis, whose header must fit its size; never a pickle.

    Args:
        name: of the column.
        file: opened at its beginning.
        size: bytes of the file.
        content: of the file; `None` to map it.
    """
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise DamagedShards(f"{name}.npy is no array ({error})") from error
    start = file.tell()
    if dtype != _TYPES[name] or len(shape) != 1 or shape[0] * dtype.itemsize != size - start:
        raise DamagedShards(f"{name}.npy has the type {dtype}, the shape {shape}, {size} bytes")
    if content is None and shape[0]:
        # Copied on writing: torch warns of arrays that cannot be written, and the file stays.
        return np.memmap(file, dtype, "c", start, shape)
    return np.frombuffer(bytearray(content or b""), dtype, shape[0], start if content else 0)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
