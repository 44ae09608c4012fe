"""NumPy's files, and labels as they stand in them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.source import Index


def numpy_arrays(
    path: Path, allowed: str, *, single: str | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file by name, never a pickle.

    Args:
        path: of the file.
        allowed: what it may be, in the message: `is an .npz file of numbers`.
        single: name of the array of an `.npy` file; `None` refuses such a file.

    Raises:
        ValueError: when it is damaged, or something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if single is None:
                raise ValueError("it holds one array without a name")
            return {single: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # whatever a reader raises on a damaged file; there is no list of it
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read ({detail}); allowed {allowed}, never a pickle: write it again with np.savez"
        ) from None


def label_places(
    values: npt.NDArray[Any], count: int, name: str, what: str = "sample"
) -> tuple[Index, list[str]]:
    """Labels as places in a sorted list of names; negative integers mean no label.

    Args:
        values: integers or strings, one for each sample.
        count: of the samples.
        name: of the array, in the message.
        what: a sample is called there.

    Raises:
        ValueError: for anything else.
    """
    if values.shape != (count,) or values.dtype.kind not in "iubU":
        raise ValueError(
            f"{name} is of type {values.dtype} and shape {values.shape}; allowed are {count} integers or strings, one "
            f"for each {what}: correct it, or leave labels out with y=null"
        )
    known = values >= 0 if values.dtype.kind == "i" else np.ones(count, np.bool_)
    classes, place = np.unique(values[known], return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[known] = place.reshape(-1)
    return labels, [str(name) for name in classes]
