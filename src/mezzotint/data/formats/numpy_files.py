"""Read NumPy files without pickles, and the labels in them."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.columns import ColumnUse
from mezzotint.data.source import Index

CLASSES = "classes"
"""Array of an `.npz` with the name of each class, where labels are numbers."""
_OBJECTS = "Python objects: write text with .astype(str), and pad rows of several lengths with NaN"
MAX_RATIO, SMALL = 100, 256 << 20
"""An archive may announce this multiple of its own size, or this many bytes."""


def numpy_arrays(
    path: Path, expected: str, *, single: str | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a file by name; pickles are refused.

    Args:
        path: path of the file.
        expected: what the file must be, for messages: `an .npz file of numbers`.
        single: name to give the array of an `.npy` file; `None` refuses `.npy` files.

    Raises:
        ValueError: when the file is damaged or of another kind.
    """
    reading = "it has"
    try:
        refuse_bomb(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if single is None:
                raise ValueError("it has one array without a name")
            return {single: loaded}
        with loaded:
            arrays = {}
            for name in loaded.files:
                reading = f"its array {name!r} has"
                arrays[name] = _text(loaded[name])
        other = next((n for n, found in arrays.items() if not isinstance(found, np.ndarray)), None)
        if other is not None:
            raise ValueError(f"its member {other!r} is not an array")
        return arrays
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        if "allow_pickle" in detail:  # numpy's own advice is to read it unsafely
            with Path(path).open("rb") as file:
                is_numpy = file.read(6).startswith((b"\x93NUMPY", b"PK"))
            detail = f"{reading} {_OBJECTS}" if is_numpy else "it is no file of numpy"
        raise ValueError(
            f"`{path}` cannot be read ({detail}). It must be {expected}, never a pickle. Write it "
            "again with np.savez."
        ) from None


def _text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array of bytes as text, if it is UTF-8; others as they are."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "S":
        return array
    try:
        decoded: npt.NDArray[Any] = np.char.decode(array, "utf-8")
    except UnicodeDecodeError:
        return array
    return decoded


def kind_of_arrays(path: str) -> str:
    """Return the kind of source of a file of arrays, by the shape and type of the first.

    Raises:
        ValueError: when it cannot be read, or has no array.
    """
    arrays = numpy_arrays(Path(path), "a file of arrays", single="x")
    if not arrays:
        raise ValueError(f"`{path}` has no array. Write it again with np.savez.")
    x = arrays["x"] if "x" in arrays else next(iter(arrays.values()))
    if x.ndim == 4 or x.dtype.kind == "u" and x.ndim == 3:
        return "arrays"
    if x.ndim == 3:
        return "point_clouds" if 3 in x.shape[1:] else "series"
    return "tokens" if x.ndim == 2 and x.dtype.kind in "iu" else "table"


def refuse_bomb(path: str | Path) -> None:
    """Refuse an archive whose contents do not fit, by the sizes it announces; nothing is read.

    zipfile never reads more of a member than it announces, so the sizes cannot be too small.

    Raises:
        ValueError: when it announces more than `SMALL` bytes and `MAX_RATIO` times its own size,
            or more than the memory of this machine.
        zipfile.BadZipFile: when it is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        announced = sum(member.file_size for member in archive.infolist())
    most = max(SMALL, MAX_RATIO * os.path.getsize(path))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if announced > min(most, memory):
        raise ValueError(
            f"it unpacks to {announced / 1e6:,.0f} MB, more than {min(most, memory) / 1e6:,.0f}"
        )


def named_array(
    name: str, arrays: Mapping[str, object], path: object, noun: str, *, key: str = "data.x"
) -> str:
    """Return the name of an array; a single array of a file needs no name.

    Args:
        name: the wanted name.
        arrays: arrays of the file.
        path: path of the file, for messages.
        noun: what the array holds, in the plural, for messages: `points`.
        key: key of the recipe that names it, for messages.

    Raises:
        ValueError: when there is no such array, and several others.
    """
    if name in arrays:
        return name
    if len(arrays) == 1 and name == "x":
        return next(iter(arrays))
    raise ValueError(
        f"`{path}` has no array {name!r}, only {', '.join(arrays) or 'none'}. Name the {noun} with "
        f"`{key}`."
    )


def one_column(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return labels `[N, 1]` as `[N]`, and others as they are."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def with_class_names(
    values: npt.NDArray[Any], arrays: Mapping[str, npt.NDArray[Any]], path: object
) -> npt.NDArray[Any]:
    """Replace numbers of classes by the names in an array `classes`, as `mezzotint embed` has it.

    Args:
        values: labels; other types than whole numbers are names already.
        arrays: arrays of the file.
        path: path of the file, for messages.

    Raises:
        ValueError: when a label has no name.
    """
    names, values = arrays.get(CLASSES), one_column(values)
    if names is not None and values.dtype.kind == "f" and _are_whole(values):
        values = np.where(np.isfinite(values), values, -1).astype(np.int64)
    if names is None or names.ndim != 1 or names.dtype.kind != "U" or values.dtype.kind not in "iu":
        return values
    if values.size and values.max() >= len(names):
        raise ValueError(
            f"`{path}`: {CLASSES} must name every label, got {len(names)} names and the label "
            f"{values.max()}. Add names, or leave the array out."
        )
    return np.where(values < 0, "", names[values.clip(min=0)])


def array_uses(
    arrays: Mapping[str, npt.NDArray[Any]], uses: Mapping[str | None, str]
) -> list[ColumnUse]:
    """Say what each array of a file is used for; the others are left out."""
    return [
        ColumnUse(
            name,
            uses.get(name, "left out"),
            f"{array.dtype} of shape {', '.join(map(str, array.shape))}",
        )
        for name, array in arrays.items()
    ]


def label_names(values: npt.NDArray[Any]) -> list[str | None]:
    """Return labels as names; `None` for negative integers, NaN and empty strings.

    Labels that are only -1 and 1 are two classes, as for support vector machines.

    Args:
        values: integers, floats or strings `[N]`.
    """
    if values.dtype.kind == "f":
        known = np.isfinite(values)
        # The shortest text of each type: 0.1 of float32 is no 0.10000000149.
        whole = _are_whole(values)
        names = label_names(values[known].astype(np.int64)) if whole else map(str, values[known])
        rest = iter(names)
        return [next(rest) if one else None for one in known.tolist()]
    numbers = values.dtype.kind == "i" and set(np.unique(values).tolist()) != {-1, 1}
    return [
        None if (value == "" or (numbers and value < 0)) else str(value)
        for value in values.tolist()
    ]


def cell_names(values: Sequence[Any]) -> list[str | None]:
    """Return the cells of a column of labels as names, as `label_names` does for an array.

    Args:
        values: cells of a table, such as those of a parquet file; `None` for missing ones.
    """
    known = [value for value in values if value is not None and value == value]
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)
    if known and numbers:
        whole = all(float(value).is_integer() for value in known)
        found = [int(value) if whole else float(value) for value in known]
        rest = iter(label_names(np.array(found)))
        return [None if v is None or v != v else next(rest) for v in values]
    texts = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values]
    return [None if v is None or v == "" else str(v) for v in texts]


def _are_whole(values: npt.NDArray[Any]) -> bool:
    """Return whether floats are whole numbers, where they are numbers."""
    known = values[np.isfinite(values)]
    return bool((known % 1 == 0).all())


def label_indices(
    values: npt.NDArray[Any], count: int, name: str, what: str = "sample"
) -> tuple[Index, list[str]]:
    """Turn labels into indices of a sorted list of names, numbers by their value.

    Args:
        values: integers, whole floats, NaN for none, or strings, one for each sample, `[N]` or
            `[N, 1]`; see `label_names`.
        count: number of samples.
        name: name of the array, for messages.
        what: noun for a sample, for messages.

    Raises:
        ValueError: for other types or shapes.
    """
    values = _text(one_column(values))
    whole = values.dtype.kind == "f" and _are_whole(values)
    if values.shape != (count,) or not (values.dtype.kind in "iubU" or whole):
        raise ValueError(
            f"{name} must hold {count} integers or strings, one for each {what}, got type "
            f"{values.dtype} and shape {values.shape}. Correct it, or leave labels out with y=null."
        )
    known = np.array([found is not None for found in label_names(values)], np.bool_)
    given = values[known].astype(np.int64) if whole else values[known]
    classes, indices = np.unique(given, return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[known] = indices.reshape(-1)
    return labels, [str(class_name) for class_name in classes]
