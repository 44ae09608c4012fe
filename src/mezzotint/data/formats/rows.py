"""Read rows of parquet files and Arrow data sets that hold encoded images or sounds.

Samples are a column of bytes, or of `struct<bytes, path>`; no path in a row is opened. Arrow files
are mapped into memory, and a row of them is read alone. Parquet gives whole row groups only: each
process keeps the last ones, up to `CACHE` bytes, and larger data is shuffled in windows that fit.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mezzotint.data.formats.parquet import (
    Chosen,
    choose_columns,
    files_below,
    is_encoded,
    mapped_file,
    modality_of_content,
    parquet_file,
    partitions_of,
    path_of,
    readable,
    schema_of,
    split_name,
    with_partitions,
)
from mezzotint.data.formats.shards import Column, DamagedShards, ShardIndex, arranged
from mezzotint.data.listing.folder import extension_of, folder_of
from mezzotint.data.listing.groups import grouped
from mezzotint.data.listing.layout import SPLIT_COLUMN, nfc

CACHE = 2**28
"""Bytes of decoded row groups that a process keeps."""
MAX_GROUP = 2**31
"""Bytes of one row group's column that are read."""

_PEOPLE = 5  # fewer different entries of a column are kinds of rows, not people


@dataclass(frozen=True)
class RowIds(Sequence[str]):
    """Ids of rows: the file, and the number of the row in it.

    Attributes:
        names: of the files.
        firsts: int64 `[files + 1]`, the first row of each.
        samples: number of rows, the first ones.
    """

    names: tuple[str, ...]
    firsts: Column
    samples: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not -self.samples <= index < self.samples:
            raise IndexError(index)
        index %= self.samples
        file = int(np.searchsorted(self.firsts, index, side="right")) - 1
        return f"{self.names[file]}/{index - int(self.firsts[file]):06d}"


@dataclass(frozen=True)
class RowIndex(ShardIndex):
    """Rows with encoded images or sounds, as a `ShardIndex` whose shards are row groups.

    Attributes:
        column: of the encoded samples.
        files: int64 `[files + 1]`, the first row of each file.
        groups: file, and number of the row group in it, of each shard; -1 for all rows of a file.
        size: bytes of the column, uncompressed.
    """

    column: str = ""
    files: Column = field(default_factory=lambda: np.zeros(1, np.int64))
    groups: tuple[tuple[int, int], ...] = ()
    size: int = 0

    @property
    def window(self) -> int | None:
        """Rows to shuffle together, so that a process keeps their row groups; `None` for all."""
        fits = int(len(self) * CACHE / max(self.size, 1))
        return None if fits >= len(self) or self.groups[0][1] < 0 else max(fits, 1)

    def ids(self, count: int | None = None) -> Sequence[str]:
        """Return the ids of the first rows; of all by default."""
        return RowIds(self.shards, self.files, len(self) if count is None else count)

    def read(self, index: int) -> bytes:
        """Read the bytes of a row.

        Raises:
            DamagedShards: when the row has none, or its file is damaged.
            OSError: when the file is missing.
        """
        block = int(np.searchsorted(self.firsts, index, side="right")) - 1
        file, group = self.groups[block]
        path = os.path.join(self.root, self.shards[file])
        values = _blocks.get(path, group, self.column)
        value = values[index - int(self.firsts[block])].as_py()
        path_in_row = value.get("path") if isinstance(value, dict) else None
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            named = f", only the path {path_in_row!r}" if path_in_row else ""
            raise DamagedShards(f"the row has no bytes{named}")
        return bytes(content)


class _Blocks:
    """The row groups and mapped files that this process read last."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str | int, ...], tuple[Any, int]] = OrderedDict()

    def get(self, path: str, group: int, column: str) -> Any:
        """Return a column of a row group, or of a mapped file (-1)."""
        facts = os.stat(path)  # a file may be written again while a process has it
        key = (path, facts.st_mtime_ns, facts.st_size, group, column)
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key][0]
        with readable(path):
            if group < 0:
                values = mapped_file(path).column(column)
                values.validate(full=True)
                size = 0
            else:
                values = parquet_file(path).read_row_group(group, [column], False).column(0)
                values, size = values.combine_chunks(), values.nbytes
        self._known[key] = values, size
        while sum(size for _, size in self._known.values()) > max(CACHE, size):
            self._known.popitem(last=False)
        return values


_blocks = _Blocks()


def kind_of_rows(root: str) -> str:
    """Return the kind of source that reads a root, by the columns of its first file.

    Bytes that begin as an image are images, as a sound audio; a column `text` or `sentence` is
    tokens; everything else is a table.

    Raises:
        ValueError: when nothing can be read.
    """
    names = files_below(root)
    path = path_of(folder_of(root), names[0])
    schema = schema_of(path)
    if any(is_encoded(field.type) for field in schema):
        index = open_rows(root, "", None, None)
        content = _first_content(index)
        modality = modality_of_content(content)
        if not modality:
            raise ValueError(
                f"`{path}`: the column {index.column!r} has bytes that are no image and no sound. "
                "Supported: encoded files such as JPEG, PNG, WAV and FLAC. Say what it is with "
                "data.kind."
            )
        return f"{modality}_shards"
    return "tokens" if {"text", "sentence"} & set(schema.names) else "table"


def _first_content(index: RowIndex) -> bytes:
    """Return the bytes of the first row that has some.

    Raises:
        DamagedShards: when none of the first rows has.
    """
    for row in range(min(len(index), 100)):
        try:
            return index.read(row)
        except DamagedShards as error:
            last = error
    raise DamagedShards(
        f"`{index.root}`: the column {index.column!r} has no encoded files ({last}). Write the "
        "data again with the bytes of its files in the rows."
    )


@dataclass
class _Opened:
    """One file: its rows by row group, and the columns that are read at once."""

    name: str
    chosen: Chosen
    groups: list[tuple[int, int]] = field(default_factory=list)
    size: int = 0
    labels: list[Any] = field(default_factory=list)
    who: list[Any] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Number of rows of all groups."""
        return sum(rows for _, rows in self.groups)


def open_rows(root: str, modality: str, column: str | None, label: str | None) -> RowIndex:
    """Open files with a column of encoded images or sounds.

    Args:
        root: a file, or a folder of files.
        modality: of the samples.
        column: of the encoded samples; by default the only one of bytes.
        label: of the labels; `None` for none. Only `label` may be missing: the only `ClassLabel`
            then takes its part.

    Raises:
        ValueError: when no file can be read, or no such column is there.
    """
    folder, opened = folder_of(root), list[_Opened]()
    unreadable, first = list[tuple[str, str]](), None
    names = files_below(root)
    for name, values in zip(names, partitions_of(names), strict=True):
        try:
            found = _opened(folder, name, values, column, label)
            _require_same(found, opened)
        except (ValueError, OSError) as error:
            first = first or error
            unreadable.append((name, str(error)))
            continue
        opened += [found] if found.rows else []
    if not opened:
        raise first or ValueError(f"`{root}` has files without a row. Check the path.")
    has_label = [any(v is not None and v != -1 for v in one.labels) for one in opened]
    sizes = [one.rows for one in opened]
    files = arranged([split_name(one.name) for one in opened], sizes, has_label)
    opened = [opened[i] for i in files.order]
    classes, labels = _labels(opened, folder)
    chosen = opened[0].chosen
    counts = [rows for one in opened for _, rows in one.groups]
    index = RowIndex(
        folder, modality, classes, files.splits, tuple(one.name for one in opened),
        np.cumsum([0, *counts], dtype=np.int64), {"label": labels}, "",
        (*files.notes, *([chosen.note] if chosen.note else [])), tuple(unreadable),
        column=chosen.samples, files=np.cumsum([0, *(one.rows for one in opened)]),
        groups=tuple((i, n) for i, one in enumerate(opened) for n, _ in one.groups),
        size=sum(one.size for one in opened),
    )  # fmt: skip
    index.columns.update(group=_groups(index, opened), scored=np.zeros(len(index), np.uint8))
    return replace(index, fingerprint=_fingerprint(index))


def _opened(
    folder: str,
    name: str,
    values: dict[str, int | str | None],
    column: str | None,
    label: str | None,
) -> _Opened:
    """Open a file; `values` are the columns that its folders give it."""
    path = path_of(folder, name)
    values = {key: value for key, value in values.items() if key != SPLIT_COLUMN}
    with readable(path):
        is_parquet = extension_of(name) == ".parquet"
        file = parquet_file(path) if is_parquet else mapped_file(path)
        schema = file.schema_arrow if is_parquet else file.schema
        values = {key: value for key, value in values.items() if key not in schema.names}
    one = _Opened(name, choose_columns(with_partitions(schema, values), path, column, label))
    chosen = one.chosen
    with readable(path):
        if is_parquet:
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                parts = [group.column(i) for i in range(group.num_columns)]
                size = sum(
                    part.total_uncompressed_size
                    for part in parts
                    if part.path_in_schema.partition(".")[0] == chosen.samples
                )
                if size > MAX_GROUP:
                    raise DamagedShards(
                        f"`{path}` has a row group of {size / 1e9:.1f} GB, and at most "
                        f"{MAX_GROUP / 1e9:.1f} are read at once. Write it again with "
                        "row_group_size=1000."
                    )
                one.groups.append((number, group.num_rows))
                one.size += size
        elif len(file):
            one.groups, one.size = [(-1, len(file))], file.column(chosen.samples).nbytes
        used = {chosen.label, chosen.group} - {None}
        names = [name for name in schema.names if name in used]
        rest = file.read(names, use_threads=False) if is_parquet else file.select(names)
        one.labels = _values(rest, chosen.label, values, one.rows)
        one.who = _values(rest, chosen.group, values, one.rows)
    return one


def _values(
    table: Any, name: str | None, partition: dict[str, int | str | None], rows: int
) -> list[Any]:
    if name is None or name in partition:
        return [None if name is None else partition[name]] * rows
    table.column(name).validate(full=True)
    values: list[Any] = table.column(name).to_pylist()
    return values


def _require_same(found: _Opened, opened: Sequence[_Opened]) -> None:
    """Refuse a file whose columns have other uses than those of the first."""
    if opened and found.chosen != opened[0].chosen:
        raise ValueError(
            f"`{found.name}` has other columns, or other names of classes, than "
            f"`{opened[0].name}`. Name one of them, or a folder of equal files."
        )


def _labels(opened: Sequence[_Opened], folder: str) -> tuple[tuple[str, ...], Column]:
    """Return the names of the classes, and the label of each row; negative without one."""
    values = [value for one in opened for value in one.labels]
    names = opened[0].chosen.classes
    if names:
        labels = np.array([-1 if value is None else value for value in values], np.int64)
        if len(labels) and labels.max() >= len(names):
            raise ValueError(
                f"`{folder}`: the column {opened[0].chosen.label!r} has {labels.max()}, and there "
                f"are {len(names)} classes. Write the files again, or set `data.label`."
            )
        return names, np.maximum(labels, -1)
    known = sorted({v for v in values if v is not None and v != "" and v != -1}, key=_by_size)
    number_of = {value: number for number, value in enumerate(known)}
    labels = np.array([number_of.get(value, -1) for value in values], np.int64)
    return tuple(nfc(str(value)) for value in known), labels


def _by_size(value: int | str) -> tuple[bool, int | str]:
    return isinstance(value, str), value


def _groups(index: RowIndex, opened: Sequence[_Opened]) -> Column:
    """Return the first row of the group of each: of one person, or else of the same bytes."""
    who = [None if value is None else str(value) for one in opened for value in one.who]
    counts = np.unique([name for name in who if name is not None], return_counts=True)[1]
    if len(counts) >= _PEOPLE and counts.max() > 1:
        return grouped(who)
    if index.size > CACHE:  # reading all of it takes too long to be done at each start
        return np.arange(len(index))
    names: list[str | None] = []
    for row in range(len(index)):
        try:
            names.append(hashlib.blake2b(index.read(row), digest_size=16).hexdigest())
        except (DamagedShards, OSError):
            names.append(None)
    return grouped(names)


def _fingerprint(index: RowIndex) -> str:
    """Hash names and sizes of the files, rows of their groups, labels and classes."""
    digest = hashlib.blake2b(digest_size=8)
    for name in index.shards:
        size = os.path.getsize(os.path.join(index.root, name))
        digest.update(f"{name}\0{size}\n".encode(errors="surrogateescape"))
    digest.update(repr((index.column, index.classes)).encode())
    digest.update(index.firsts.tobytes() + index.columns["label"].tobytes())
    return digest.hexdigest()
