"""Read the file formats of CIFAR, STL-10 and SVHN; nothing in a file is executed.

The Python version of CIFAR is a pickle, and unpickling can run any program. `Inert` builds nothing
but bytes, numbers, strings, lists, dictionaries and arrays of bytes: the three names that NumPy
writes into such a file map to the stand-ins below, and any other name is refused before anything is
called.
"""

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.source import Index

Pixels = npt.NDArray[np.uint8]


def find_folder(root: str, layouts: Mapping[str, str]) -> tuple[str, str]:
    """Find the folder of the files: `root` itself, or its subfolder of the usual name.

    Args:
        root: path that the user gave.
        layouts: usual name of the folder → a file that must be in it.

    Returns:
        The folder, and the name of its layout.
    """
    for name, file in layouts.items():
        for folder in (root, os.path.join(root, name)):
            if os.path.isfile(os.path.join(folder, file)):
                return folder, name
    wanted = " or ".join(f"{name}/{file}" for name, file in layouts.items())
    raise ValueError(
        f"`{root}` has no {wanted}. It must be the unpacked data set, or the folder above. Check "
        "`data.root`."
    )


def read_rows(path: str, width: int) -> Pixels:
    """Map a file of rows of bytes into memory, `[N, width]`."""
    if not os.path.isfile(path):
        raise _wrong(path, "it is missing", "all files of the data set")
    size = os.path.getsize(path)
    if size == 0 or size % width:
        raise _wrong(path, f"it has {size} bytes", f"rows of {width} bytes")
    # Copy-on-write, because torch wants its arrays writable; nothing is ever written.
    return np.memmap(path, np.uint8, mode="c").reshape(-1, width)


def read_records(
    path: str, classes: int, label_bytes: int = 1, label: int = 0
) -> tuple[Pixels, Index]:
    """Read the binary version of CIFAR: rows of `label_bytes` labels and 3 x 32 x 32 pixels.

    Args:
        path: path of the file.
        classes: number of classes.
        label_bytes: number of labels before the pixels.
        label: index of the label to take.
    """
    rows = read_rows(path, label_bytes + 3072)
    return rows[:, label_bytes:].reshape(-1, 3, 32, 32), _in_range(rows[:, label], classes, path)


def read_pickled(path: str, labels: bytes, classes: int) -> tuple[Pixels, Index]:
    """Read a batch of the Python version of CIFAR, unpickling plain data only."""
    content = read_inert(path)
    data = content.get(b"data")
    pixels = data.array() if isinstance(data, _Array) else None
    numbers = content.get(labels)
    if (
        pixels is None
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or not isinstance(numbers, list)
    ):
        raise _wrong(
            path, f"it has no pixels or no {labels.decode()}", "a batch of CIFAR, Python version"
        )
    if len(numbers) != len(pixels) or not all(isinstance(n, int) for n in numbers):
        raise _wrong(
            path,
            f"it has {len(pixels)} images but {len(numbers)} labels",
            "an integer for each image",
        )
    return pixels.reshape(-1, 3, 32, 32), _in_range(np.array(numbers, np.int64), classes, path)


def read_pickled_names(path: str, key: bytes) -> list[str]:
    """Read the class names of the Python version of CIFAR."""
    names = read_inert(path).get(key)
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise _wrong(
            path, f"it has no {key.decode()}", "the file of class names of CIFAR, Python version"
        )
    return [name.decode("utf-8", "replace") for name in names]


def read_names(path: str) -> list[str]:
    """Read class names, one a line."""
    try:
        with open(path, encoding="utf-8") as file:
            return [line.strip() for line in file if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise _wrong(path, "it is missing or not text", "the class names, one a line") from None


def read_matlab(path: str) -> tuple[Pixels, Index]:
    """Read a file of SVHN: `X` `[32, 32, 3, N]` and `y` with 10 for the digit 0; needs scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            "SVHN is stored in Matlab files, and scipy is not installed. Run `pip install scipy`."
        ) from None
    try:
        content = loadmat(path, variable_names=["X", "y"])
        x, y = np.asarray(content["X"]), np.asarray(content["y"]).reshape(-1).astype(np.int64)
    except Exception as error:  # whatever the reader raises on a damaged file
        raise _wrong(
            path, " ".join(str(error).split())[:120] or type(error).__name__, "a file of SVHN"
        ) from None
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.shape[3] != len(y):
        raise _wrong(
            path, f"X is {x.dtype} {x.shape}, y has {len(y)}", "uint8 [32, 32, 3, N] and N labels"
        )
    return x.transpose(3, 2, 0, 1), _in_range(np.where(y == 10, 0, y), 10, path)


def read_inert(path: str) -> dict[bytes, Any]:
    """Read a pickled dictionary of plain data and arrays of bytes.

    Raises:
        ValueError: when the file names anything else, or is not such a pickle.
    """
    try:
        with open(path, "rb") as file:
            content = Inert(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise _wrong(
            path, detail, "the pickle of CIFAR's authors, which holds plain data and bytes"
        ) from None
    if not isinstance(content, dict):
        raise _wrong(path, f"it has a {type(content).__name__}", "a dictionary")
    return content


class Inert(pickle.Unpickler):
    """Reads a pickle without calling anything that it names."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that NumPy writes; every other name is refused."""
        key = (module.replace("numpy._core", "numpy.core"), name)
        if key not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")
        return _STAND_INS[key]


class _Array:
    """Stand-in for an array: it keeps the state, without NumPy's own `__setstate__`."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> Pixels | None:
        """Return the bytes in their shape; `None` if this is not a C-ordered array of bytes."""
        if len(self.state) != 5:
            return None
        _, shape, dtype, fortran, content = self.state
        plain = isinstance(dtype, _DType) and dtype.name in ("u1", b"u1") and not fortran
        if not plain or not isinstance(content, bytes) or not isinstance(shape, tuple):
            return None
        if not all(isinstance(n, int) and n >= 0 for n in shape) or int(
            np.prod(shape, dtype=object)
        ) != len(content):
            return None
        return np.frombuffer(bytearray(content), np.uint8).reshape(shape)


class _DType:
    """Stand-in for a dtype: it keeps the name."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like mean nothing for bytes."""


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as Python 3 writes them in old pickle protocols."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError("it has text in an encoding other than latin1")
    return text.encode("latin1")


# A pickle can set attributes of these objects, so no attribute of them may have any effect.
_STAND_INS: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): None,  # passed to `_reconstruct`, never called
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


def _in_range(labels: npt.NDArray[Any], classes: int, path: str) -> Index:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise _wrong(
            path, f"it has labels from {labels.min()} to {labels.max()}", f"0 … {classes - 1}"
        )
    return labels.astype(np.int64)


def _wrong(path: str, problem: str, expected: str) -> ValueError:
    return ValueError(
        f"`{path}`: {problem}. Expected: {expected}. Download and unpack the data set again."
    )
