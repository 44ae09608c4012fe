"""Read NumPy files without pickles, and the labels in them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.source import Index


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
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if single is None:
                raise ValueError("it has one array without a name")
            return {single: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except Exception as error:  # a damaged file can raise nearly any exception
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(
            f"`{path}` cannot be read ({detail}). It must be {expected}, never a pickle. Write it "
            "again with np.savez."
        ) from None


def label_indices(
    values: npt.NDArray[Any], count: int, name: str, what: str = "sample"
) -> tuple[Index, list[str]]:
    """Turn labels into indices of a sorted list of names; negative integers mean no label.

    Args:
        values: integers or strings, one for each sample.
        count: number of samples.
        name: name of the array, for messages.
        what: noun for a sample, for messages.

    Raises:
        ValueError: for other types or shapes.
    """
    if values.shape != (count,) or values.dtype.kind not in "iubU":
        raise ValueError(
            f"{name} must hold {count} integers or strings, one for each {what}, got type "
            f"{values.dtype} and shape {values.shape}. Correct it, or leave labels out with y=null."
        )
    known = values >= 0 if values.dtype.kind == "i" else np.ones(count, np.bool_)
    classes, indices = np.unique(values[known], return_inverse=True)
    labels = np.full(count, -1, np.int64)
    labels[known] = indices.reshape(-1)
    return labels, [str(name) for name in classes]
