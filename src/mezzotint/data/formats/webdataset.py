"""Read tar files of WebDataset's form that others wrote: one header scan finds all samples.

A sample is `key.jpg` or another file of the modality. Its label is in `key.cls`, the number or the
name of a class, or in `key.json` under one of `LABELS`. `classnames.txt` or `classes.txt` next to
the tar files names the classes, one a line. Folders and files named for a split are splits, such as
`test/0.tar` and `imagenet-train-0001.tar`. The members are those that `tar.py` allows; nothing is
unpacked, and no `.pyd`, `.pth` or pickle of a sample is ever read.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

import numpy as np

from mezzotint.data.formats import storage
from mezzotint.data.formats.shards import (
    INDEX,
    Column,
    DamagedShards,
    Ids,
    ShardIndex,
    arranged,
)
from mezzotint.data.formats.tar import TarMember, UnsafeTar, members
from mezzotint.data.listing.folder import folder_of, scan
from mezzotint.data.listing.layout import nfc

LABELS = ("cls", "label", "class", "class_id", "class_name")
"""Keys of `key.json` that hold the class, by priority."""
NAMES = ("classnames.txt", "classes.txt")
"""Files next to the shards that name the classes, one a line."""

_MAX_CLASS_FILE = 4096  # bytes of a `.cls` member
_MAX_JSON_FILE = 1_000_000  # bytes of a `.json` member; larger ones have no label
_MAX_NAMES = 10_000_000  # bytes of a file of names


@dataclass
class _Shard:
    """Samples of one tar file: ids, where they lie, and the label of each as it is written."""

    name: str
    ids: list[str] = field(default_factory=list)
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    labels: list[int | str | None] = field(default_factory=list)


def scan_tars(root: str, suffixes: frozenset[str], modality: str) -> ShardIndex:
    """Find the samples of tar files without an index, and their labels.

    Args:
        root: folder or URL of the files, or one local file.
        suffixes: of the members that are samples.
        modality: of the samples.

    Raises:
        ValueError: when there are no samples, an archive is unsafe, or a label is no class.
    """
    if not storage.is_url(root):
        names = scan(root, frozenset({".tar"}), "tar files").images
        root = folder_of(root)
    else:
        names = storage.names_below(root, ".tar")
    shards, unreadable, first = [], [], None
    for name in names:
        try:
            shard = _scanned(root, name, suffixes)
        except UnsafeTar as error:
            first = first or error
            unreadable.append((name, str(error)))
            continue
        if shard.ids:
            shards.append(shard)
    if not shards:
        if first is not None:
            raise first
        raise ValueError(
            f"`{root}` has no shards: {len(names)} tar files and no {INDEX}. It must be a folder "
            "or a URL of tar files with samples. Write one with `mezzotint shard DATA OUT`, or "
            "check `data.root`."
        )
    return _index(root, shards, modality, tuple(unreadable))


def suffixes_in(root: str) -> set[str]:
    """Return the suffixes of the first members of local tar files, such as `.jpg`.

    Raises:
        UnsafeTar: when the first archive is damaged or unsafe.
    """
    names = scan(root, frozenset({".tar"}), "tar files").images
    for name in names:
        path = storage.join(folder_of(root), name)
        with storage.opened(path) as file:
            found = {
                f".{suffix.rpartition('.')[2]}" for _, suffix, _ in islice(_keyed(file, path), 100)
            }
        if found:
            return found
    return set()


def _index(
    root: str, shards: list[_Shard], modality: str, unreadable: tuple[tuple[str, str], ...]
) -> ShardIndex:
    classes, number_of = _classes(root, shards)
    has_label = [any(label is not None for label in shard.labels) for shard in shards]
    files = arranged([s.name for s in shards], [len(s.ids) for s in shards], has_label)
    shards = [shards[i] for i in files.order]
    labels = [-1 if label is None else number_of[label] for s in shards for label in s.labels]
    ids = Ids.of([name for shard in shards for name in shard.ids])
    count = len(labels)
    columns: dict[str, Column] = {
        "offset": np.concatenate([np.array(shard.offsets, np.int64) for shard in shards]),
        "size": np.concatenate([np.array(shard.sizes, np.int64) for shard in shards]),
        "label": np.array(labels, np.int64), "group": np.arange(count),
        "digest": np.zeros(count, np.uint64), "scored": np.zeros(count, np.uint8),
        "end": ids.ends, "ids": ids.block,
    }  # fmt: skip
    digest = hashlib.blake2b(digest_size=8)
    for name in ("offset", "label", "ids"):
        digest.update(columns[name].tobytes())
    firsts = np.cumsum([0, *(len(shard.ids) for shard in shards)], dtype=np.int64)
    return ShardIndex(
        root, modality, classes, files.splits, tuple(shard.name for shard in shards), firsts,
        columns, digest.hexdigest(), files.notes, unreadable,
    )  # fmt: skip


def _scanned(root: str, name: str, suffixes: frozenset[str]) -> _Shard:
    """Read the headers of one archive, and the labels."""
    path = storage.join(root, name)
    labels: dict[str, int | str] = {}
    found: list[tuple[str, TarMember]] = []
    with storage.opened(path) as file:
        for key, suffix, member in _keyed(file, path):
            if f".{suffix.rpartition('.')[2]}" in suffixes:
                found.append((key, member))
            elif suffix == "cls" and member.size <= _MAX_CLASS_FILE:
                labels[key] = _label(_content(file, member), f"`{path}`: {member.name!r}")
            elif suffix == "json" and member.size <= _MAX_JSON_FILE and key not in labels:
                label = _label_of_json(_content(file, member), f"`{path}`: {member.name!r}")
                labels |= {} if label is None else {key: label}
    shard = _Shard(name)
    for key, member in found:
        shard.ids.append(f"{name}/{member.name.removeprefix('./')}")
        shard.offsets.append(member.offset)
        shard.sizes.append(member.size)
        shard.labels.append(labels.get(key))
    return shard


def _keyed(file: BinaryIO, path: str) -> Iterator[tuple[str, str, TarMember]]:
    """Yield key, suffix in lower case and header of each member: `a/b.jpg` is `a/b` and `jpg`."""
    for member in members(file, storage.size_of(path), path):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if stem:  # names that begin with a dot are left behind by other programs
            yield folder + slash + stem, suffix.lower(), member


def _content(file: BinaryIO, member: TarMember) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _label(content: bytes, where: str) -> int | str:
    """Return the number of a class, or its name."""
    try:
        text = nfc(content.decode("utf-8").strip())
    except UnicodeDecodeError:
        text = ""
    if text.isascii() and text.isdecimal() and len(text) < 7:
        return int(text)
    if not text or not text.isprintable() or text.isdecimal() or len(text) > 200:
        raise ValueError(
            f"{where} must have the number of a class, below a million, or its name, got "
            f"{text[:40]!r}. Write the shard again."
        )
    return text


def _label_of_json(content: bytes, where: str) -> int | str | None:
    """Return the class in the description of a sample; `None` if it has none."""
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"{where} is not JSON. Write the shard again.") from None
    value = (
        next((facts[k] for k in LABELS if k in facts), None) if isinstance(facts, dict) else None
    )
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return _label(str(value).encode(), where)


def _classes(root: str, shards: list[_Shard]) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Return the names of the classes, and the number of each label."""
    labels = {label for shard in shards for label in shard.labels if label is not None}
    numbers = {label for label in labels if isinstance(label, int)}
    names = _named(root, max(numbers) + 1 if numbers else 0)
    if numbers and numbers != labels:
        other = sorted(str(label) for label in labels - numbers)[0]
        raise ValueError(
            f"`{root}` has labels that are numbers, such as {min(numbers)}, and names, such as "
            f"{other!r}. Write the shards again with one of them."
        )
    if numbers:
        return names or tuple(map(str, range(max(numbers) + 1))), {n: n for n in numbers}
    ordered = sorted(str(label) for label in labels)
    if names and set(ordered) <= set(names):
        ordered = list(names)
    return tuple(ordered), {name: i for i, name in enumerate(ordered)}


def _named(root: str, least: int) -> tuple[str, ...]:
    """Return the classes that a file next to the shards names; empty without one.

    Args:
        root: folder of the shards.
        least: number of names that there must be.

    Raises:
        DamagedShards: when there are fewer.
    """
    for name in NAMES:
        try:
            text = storage.read_range(storage.join(root, name), 0, _MAX_NAMES).decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        found = tuple(nfc(line.strip()) for line in text.splitlines() if line.strip())
        if len(found) < least:
            raise DamagedShards(
                f"`{storage.join(root, name)}` must have {least:,} names, one a line, for the "
                f"labels up to {least - 1:,}, got {len(found):,}. Correct or remove it."
            )
        # ImageNet has two classes `crane`, a bird and a machine.
        return tuple(n if found.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(found))
    return ()
