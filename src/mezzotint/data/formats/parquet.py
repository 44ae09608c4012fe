"""Read parquet files and Arrow data sets of others, by columns; never an object.

A root is one file, or a folder of files of the same columns: parquet files, Arrow files in the form
of a stream or of a file (Feather), and what `datasets.Dataset.save_to_disk` writes. Files and
folders are named for splits, such as `data/train-00000-of-00005.parquet` and `test/`; folders like
`label=cat/` (Hive) are columns of the files in them. The names of classes are those of `ClassLabel`
in the schema's own metadata. Extension types are read as what they are stored as, so that nothing
is unpickled. `rows.py` reads encoded images and sounds.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.columns import chosen_name
from mezzotint.data.formats.numpy_files import cell_names
from mezzotint.data.formats.shards import DamagedShards, arranged
from mezzotint.data.listing.folder import extension_of, folder_of, scan
from mezzotint.data.listing.groups import column_of_groups
from mezzotint.data.listing.layout import SPLIT_COLUMN, nfc, role_of

SUFFIXES = frozenset({".parquet", ".arrow"})
"""Suffixes of the files, in lower case."""

_LABEL = "label"
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # Hive's folder of rows without a value

_MAGIC = (
    (b"\xff\xd8\xff", "image", ".jpg"), (b"\x89PNG", "image", ".png"), (b"GIF8", "image", ".gif"),
    (b"BM", "image", ".bmp"), (b"II*\0", "image", ".tif"), (b"MM\0*", "image", ".tif"),
    (b"\0\0\0\x0cjP", "image", ".jp2"), (b"fLaC", "audio", ".flac"), (b"OggS", "audio", ".ogg"),
    (b"ID3", "audio", ".mp3"), (b"\xff\xfb", "audio", ".mp3"), (b"\xff\xf3", "audio", ".mp3"),
    (b"FORM", "audio", ".aiff"),
)  # fmt: skip


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn pyarrow's many errors for a damaged file into `DamagedShards`, in one line."""
    try:
        yield
    except (DamagedShards, FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError, LookupError, NotImplementedError, TypeError) as error:
        detail = " ".join(str(error).split())[:160]
        raise DamagedShards(
            f"`{path}` cannot be read ({detail}). It must be a parquet or Arrow file. Copy or "
            "write it again."
        ) from None


def require_pyarrow(path: str) -> None:
    """Refuse files that need pyarrow where it is missing; raise `ValueError`."""
    try:
        import pyarrow  # noqa: F401  # optional: only these files need it
    except ImportError:
        raise ValueError(
            f"`{path}` is read with pyarrow, which is not installed. Run `pip install "
            "'mezzotint[parquet]'`, or use other files."
        ) from None


def parquet_file(path: str) -> Any:
    """Open a parquet file; only its end is read."""
    from pyarrow import parquet

    return parquet.ParquetFile(path)


def mapped_file(path: str) -> Any:
    """Map an Arrow file, of either form."""
    import pyarrow

    if not os.path.getsize(path):
        raise DamagedShards(f"`{path}` is empty. Copy or write it again.")
    source = pyarrow.memory_map(path)
    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    return (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source).read_all()


def schema_of(path: str) -> Any:
    """Return the `pyarrow.Schema` of a file."""
    with readable(path):
        if extension_of(path) == ".parquet":
            return parquet_file(path).schema_arrow
        return mapped_file(path).schema


def files_below(root: str) -> list[str]:
    """List the parquet files of a root, or the Arrow files, relative to its folder.

    What `datasets` keeps next to them for itself (`cache-….arrow`) is left out.

    Raises:
        ValueError: when there are none.
    """
    require_pyarrow(root)
    if not os.path.exists(root):
        raise ValueError(f"`{root}` does not exist. Check the path.")
    names = scan(root, SUFFIXES, "parquet or Arrow files").images
    names = [name for name in names if not os.path.basename(name).startswith(("cache-", "tmp"))]
    parquet = [name for name in names if extension_of(name) == ".parquet"]
    if not names:
        raise ValueError(
            f"`{root}` has no parquet and no Arrow files. It must be such a file or a folder of "
            "them. Check the path."
        )
    return parquet or names


def path_of(folder: str, name: str) -> str:
    """Return the path of a file below a folder, without a leading `./`."""
    return name if folder == "." else os.path.join(folder, name)


def partitions_of(names: Sequence[str]) -> list[dict[str, int | str | None]]:
    """Return the columns that folders like `label=cat` (Hive) give each file.

    A column whose values are all integers has integers.
    """
    folders = [[part.partition("=") for part in name.split("/")[:-1]] for name in names]
    found: list[dict[str, int | str | None]] = [
        {unquote(k): None if v == _NO_VALUE else nfc(unquote(v)) for k, mark, v in own if mark}
        for own in folders
    ]
    for key in {key for own in found for key in own}:
        words = {own[key] for own in found if own.get(key) is not None}
        if all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", str(word)) for word in words):
            for own in found:
                own.update({} if own.get(key) is None else {key: int(str(own[key]))})
    return found


def split_name(name: str) -> str:
    """Return a file's name without Hive's folders, but for those of the column `split`."""
    *folders, file = (part.removeprefix(f"{SPLIT_COLUMN}=") for part in name.split("/"))
    return "/".join([*(folder for folder in folders if "=" not in folder), file])


def with_partitions(schema: Any, values: dict[str, int | str | None]) -> Any:
    """Add the columns of a file's folders to its `pyarrow.Schema`; its own have precedence."""
    import pyarrow

    for key, value in values.items():
        if key not in schema.names:
            kind = pyarrow.int64() if isinstance(value, int) else pyarrow.string()
            schema = schema.append(pyarrow.field(key, kind))
    return schema


def is_list(kind: Any, depth: int = 2) -> bool:
    """Return whether a type is lists of numbers, or lists of such lists."""
    from pyarrow import types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    if depth == 0 or not any(test(kind) for test in tests):
        return False
    inner = kind.value_type
    return types.is_integer(inner) or types.is_floating(inner) or is_list(inner, depth - 1)


def lists_of(table: Any, name: str, path: str) -> list[npt.NDArray[np.float64] | None]:
    """Read a column of lists of numbers, or of lists of such: an array a row, `None` for null.

    Raises:
        ValueError: when the inner lists of a row have several lengths.
    """
    rows = []
    for number, value in enumerate(table.column(name).to_pylist()):
        try:
            rows.append(None if value is None else np.array(value, np.float64))
        except (TypeError, ValueError):
            raise ValueError(
                f"`{path}`, row {number}: the lists in the column {name!r} have several lengths. "
                "Lists in a list must be of one length. Correct the row."
            ) from None
    return rows


def entries_of(table: Any, name: str | None) -> list[str | None]:
    """Return the entries of a column as names of labels; `None` without the column."""
    here = name in table.column_names
    return cell_names(table.column(name).to_pylist()) if here else [None] * len(table)


def classes_of(schema: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes of each `ClassLabel` column."""
    features = _features(schema)
    return {
        name: tuple(nfc(str(own)) for own in feature["names"])
        for name, feature in features.items()
        if isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }


def _features(schema: Any) -> dict[str, Any]:
    """Return what `datasets` wrote of the columns into the schema; nothing from other writers."""
    try:
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        found = facts.get("info", {}).get("features") or {}
    except (ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def is_encoded(kind: Any) -> bool:
    """Return whether a type is bytes, or a struct with a field `bytes`."""
    from pyarrow import types

    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_encoded(kind.field(index).type)
    binary = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    return any(test(kind) for test in (*binary, types.is_binary_view))


def modality_of_content(content: bytes) -> str:
    """Return `image` or `audio` by the first bytes of a file; empty for others."""
    return _magic(content)[0]


def suffix_of_content(content: bytes) -> str:
    """Return the suffix of a file by its first bytes; empty for others."""
    return _magic(content)[1]


def _magic(content: bytes) -> tuple[str, str]:
    if content[:4] == b"RIFF":
        return ("image", ".webp") if content[8:12] == b"WEBP" else ("audio", ".wav")
    if content[4:12] in (b"ftypavif", b"ftypheic"):
        return "image", f".{content[8:12].decode()}"
    found = (rest for start, *rest in _MAGIC if content.startswith(start))
    modality, suffix = next(found, ("", ""))
    return modality, suffix


@dataclass(frozen=True)
class Chosen:
    """Columns of a file by their use.

    Attributes:
        samples: of the encoded files.
        label: of the labels; `None` for none.
        group: of the people or other sources; `None` for none.
        classes: names that the schema gives the labels; empty without.
        note: what a user should know of the choice; empty for nothing.
    """

    samples: str
    label: str | None
    group: str | None
    classes: tuple[str, ...]
    note: str = ""


def choose_columns(schema: Any, path: str, column: str | None, label: str | None) -> Chosen:
    """Choose the columns of a file by their names and types.

    Raises:
        ValueError: when there is no column of samples, several, or a label that is no class.
    """
    encoded = [one.name for one in schema if is_encoded(one.type)]
    if column is not None and column not in schema.names or column is None and not encoded:
        wrong = "no column of encoded files" if column is None else f"no column {column!r}"
        raise ValueError(
            f"`{path}` has {wrong}, only {', '.join(map(repr, schema.names))}. Samples must be a "
            "column of bytes, or of struct<bytes, path>. Set `data.column` to it."
        )
    if column is not None and column not in encoded:
        raise ValueError(
            f"`{path}`: the column {column!r} has {schema.field(column).type}. Samples must be "
            "bytes, or struct<bytes, path>. Set `data.column` to another."
        )
    if column is None and len(encoded) > 1:
        raise ValueError(
            f"`{path}` has several columns of encoded files: {', '.join(map(repr, encoded))}. Set "
            "`data.column` to one of them."
        )
    names = [name for name in schema.names if name not in encoded]
    classes, note = classes_of(schema), ""
    if label == _LABEL and label not in names and len(classes) == 1:
        label = next(iter(classes))
    elif label == _LABEL and label not in names and classes:
        note = f"no labels: set data.label to one of the columns {', '.join(classes)}"
    wanted = label
    label = chosen_name(label, names, default=_LABEL, key="data.label", path=path, noun="column")
    if label is not None and not _is_class(schema.field(label).type):
        kind = schema.field(label).type
        if wanted != _LABEL:
            raise ValueError(
                f"`{path}`: the column {label!r} has {kind}. A label must be an integer or a text "
                "in each row. Set `data.label` to another column, or to null."
            )
        label, note = None, f"no labels: the column {label} has {kind}"
    who = column_of_groups(name for name in names if name != label)
    usable = [n for n in names if n != who and _is_class(schema.field(n).type)]
    if label is None and wanted == _LABEL and usable and not note:
        note = f"no column `label`: data.label may name {' or '.join(usable[:4])}"
    if SPLIT_COLUMN in names:
        note = "; ".join([*filter(None, [note]), "splits are files, not the column `split`"])
    return Chosen(column or encoded[0], label, who, classes.get(label or "", ()), note)


def _is_class(kind: Any) -> bool:
    """Return whether values of a type name classes."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string)
    return types.is_string_view(kind) or any(test(kind) for test in tests)


def read_rows(root: str) -> Any:
    """Read all rows of a root as one `pyarrow.Table`, for data of numbers and texts.

    Columns of `ClassLabel` have the names of their classes, and folders like `label=cat` (Hive) are
    columns. Where files of several splits have no column `split`, it is added: train, val or test.

    Raises:
        ValueError: when a file is damaged, or has other columns than the first.
    """
    import pyarrow

    folder, tables = folder_of(root), []
    names = files_below(root)
    partitions = partitions_of(names)
    integers = {key for own in partitions for key, value in own.items() if isinstance(value, int)}
    for name, values in zip(names, partitions, strict=True):
        path = path_of(folder, name)
        with readable(path):
            is_parquet = extension_of(name) == ".parquet"
            table = parquet_file(path).read(use_threads=False) if is_parquet else mapped_file(path)
            table.validate(full=True)
            table = _with_class_names(table)
        for key in [key for key in values if key not in table.column_names]:
            kind = pyarrow.int64() if key in integers else pyarrow.string()
            table = table.append_column(key, pyarrow.array([values[key]] * len(table), kind))
        tables.append(table)
    tables, parts = _with_equal_columns(tables, names, folder), [*map(split_name, names)]
    files = arranged(parts, [len(table) for table in tables], [True] * len(tables))
    whole = pyarrow.concat_tables([tables[i] for i in files.order])
    if len(files.splits) < 2 or SPLIT_COLUMN in whole.column_names:
        return whole
    splits = [split for split, size in files.splits for _ in range(size)]
    whole = whole.append_column(SPLIT_COLUMN, pyarrow.array(splits))
    # Files of a split that the layout rule does not know are left out, as such folders are.
    return whole.filter(pyarrow.array([role_of(split) is not None for split in splits]))


def _with_equal_columns(tables: Sequence[Any], names: Sequence[str], folder: str) -> list[Any]:
    """Give all tables the columns of the first, with types that hold the values of all.

    pandas writes integers as floats where one is missing, and a column without values as nulls.

    Raises:
        ValueError: when a file has other columns, or a type that does not go with those before.
    """
    import pyarrow

    whole = tables[0].schema.remove_metadata()
    for name, table in zip(names, tables, strict=True):
        try:
            if other := {*table.column_names} ^ {*whole.names}:
                raise pyarrow.ArrowInvalid(f"not both have {sorted(other)[0]!r}")
            schemas = [whole, table.schema.remove_metadata()]
            whole = pyarrow.unify_schemas(schemas, promote_options="permissive")
        except pyarrow.ArrowException as error:
            raise ValueError(
                f"`{path_of(folder, name)}` has other columns than `{names[0]}` ({error}). Name "
                "one of them, or a folder of equal files."
            ) from None
    return [table.select(whole.names).cast(whole) for table in tables]


def _with_class_names(table: Any) -> Any:
    """Replace the numbers of `ClassLabel` columns by names; -1 is a missing value."""
    import pyarrow

    for name, classes in classes_of(table.schema).items():
        if name not in table.column_names:
            continue
        values = [
            classes[v] if v is not None and 0 <= v < len(classes) else None
            for v in table.column(name).to_pylist()
        ]
        number = table.column_names.index(name)
        table = table.set_column(number, name, pyarrow.array(values, pyarrow.string()))
    return table.replace_schema_metadata(None)
