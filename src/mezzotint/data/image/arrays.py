"""Images in a NumPy file: an `.npz` with images and labels, or an `.npy` with images alone.

No pickle is ever read: an array of objects is refused, whatever it holds.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.memory import InMemory, moments
from mezzotint.data.numpy_files import label_places
from mezzotint.data.sampling import held_out
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.types import Input

Layout = Literal["auto", "NHW", "NHWC", "NCHW"]

_MOST_CHANNELS = 4  # up to here "auto" takes an axis for the channels


class Arrays(InMemory):
    """Images held in a NumPy file.

    Values are uint8, or floats in [0, 1], which are rounded to 8 bits. A part of each class is held
    out for the task `label/holdout`; with fewer than two classes there is none.

    Args:
        path: of the `.npz` or `.npy` file.
        x: name of the images in an `.npz`.
        y: name of the labels in an `.npz`: integers (negative: no label) or strings; `null` leaves
            them out.
        layout: of the images; `auto` takes an axis of at most 4 for the channels.
        size: side in pixels to which all images are brought; by default they stay as they are.
        holdout: part of each class to be scored.
        mean: of each channel, of values in [0, 1]; by default measured over all images.
        std: of each channel; by default measured.

    Attributes:
        classes: names of the classes; a label is a place in this list.

    Raises:
        ValueError: when the file is missing or damaged, holds objects, or holds no images.
    """

    opens = frozenset({".npz", ".npy"})

    def __init__(
        self,
        *,
        path: str,
        x: str = "x",
        y: str | None = "y",
        layout: Layout = "auto",
        size: int | None = None,
        holdout: float = 0.2,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        if not 0.0 < holdout < 1.0:
            raise ValueError(
                f"got holdout={holdout}; allowed is more than 0 and less than 1: give 0.2 for a fifth"
            )
        self.path, self.holdout = path, holdout
        arrays = _load(path, x, y)
        pixels = _channels_first(arrays[x], layout, f"{path}: {x}")
        self.images = _resized(torch.from_numpy(_eight_bits(pixels, f"{path}: {x}")), size)
        self.labels, self.classes = _labels(arrays.get(y or ""), len(self.images), f"{path}: {y}")
        self.ids = x
        measured = moments(self.images) if mean is None or std is None else ((), ())
        self.input = Input(
            tuple(self.images.shape[1:]),
            tuple(mean) if mean is not None else measured[0],
            # A channel that never changes must not be divided by zero.
            tuple(std) if std is not None else tuple(s or 1.0 for s in measured[1]),
        )

    @classmethod
    def open(cls, path: str, input: Input) -> Source:
        return cls(path=path)

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """All images, and the task where there are at least two classes."""
        if len(self.classes) < 2:
            return self, []
        chosen = held_out(self.labels, self.holdout, "label")
        return self, label_tasks("label/holdout", self.labels, chosen, self.classes)


def _load(path: str, x: str, y: str | None) -> dict[str, npt.NDArray[Any]]:
    """The images, under `x`, and the labels, under `y`, where there are any."""
    try:
        file = open(path, "rb")
    except OSError as error:
        raise ValueError(
            f"{path} cannot be opened ({error.strerror}); allowed is an .npz or .npy file: check the path"
        ) from None
    with file:
        start = file.read(6)
        if start != b"\x93NUMPY" and not start.startswith(b"PK"):
            raise ValueError(
                f"{path} is no NumPy file (it begins with {start!r}); allowed is an .npz or .npy file: "
                "write it with np.savez or np.save"
            )
        file.seek(0)
        try:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {x: loaded}
            names = list(loaded.files)
            found = {name: loaded[name] for name in (x, y) if name is not None and name in names}
            if not all(isinstance(value, np.ndarray) for value in found.values()):
                raise ValueError("a member of the archive is no array")
        except (
            Exception
        ) as error:  # whatever a reader raises on a damaged file; there is no list of it
            objects = "Object arrays" in str(error)
            detail = "it holds Python objects" if objects else " ".join(str(error).split())[:160]
            raise ValueError(
                f"{path} cannot be read ({detail or type(error).__name__}); allowed are arrays of numbers, never a "
                "pickle, which could run a program: write it again with np.savez"
            ) from None
    if x not in found or (y not in (None, "y") and y not in found):
        raise ValueError(
            f"{path} has no array {x if x not in found else y!r}; it has {', '.join(names) or 'none'}: "
            "name the images with x= and the labels with y="
        )
    return found


def _channels_first(values: npt.NDArray[Any], layout: Layout, name: str) -> npt.NDArray[Any]:
    """Any layout as `[N, C, H, W]`."""
    if layout == "auto":
        if values.ndim == 3:
            layout = "NHW"
        elif values.ndim == 4 and (values.shape[1] <= _MOST_CHANNELS) != (
            values.shape[3] <= _MOST_CHANNELS
        ):
            layout = "NCHW" if values.shape[1] <= _MOST_CHANNELS else "NHWC"
        else:
            raise ValueError(
                f"{name} has the shape {values.shape}; understood are [N, H, W], [N, H, W, C] and [N, C, H, W] with at "
                f"most {_MOST_CHANNELS} channels: say which with layout=NHWC or layout=NCHW"
            )
    if values.ndim != len(layout) or 0 in values.shape:
        raise ValueError(
            f"{name} has the shape {values.shape}; allowed for layout={layout} are {len(layout)} dimensions, none of "
            "them empty: reshape the array"
        )
    if layout == "NHW":
        return values[:, None]
    return values if layout == "NCHW" else values.transpose(0, 3, 1, 2)


def _eight_bits(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """uint8 as it is, floats in [0, 1] rounded to 8 bits; C-contiguous."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise ValueError(
            f"{name} is of type {values.dtype}; allowed are uint8, and floats in [0, 1]: convert it, with "
            ".astype(np.uint8) when its values lie in 0 … 255"
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of {len(values)} images; allowed are finite values in [0, 1]: "
            "leave these images out or repair them"
        )
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; allowed are uint8, and floats in [0, 1]: scale it first"
        )
    whole = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 1024):  # in parts, so that no copy of all in float is made
        whole[start : start + 1024] = np.rint(
            values[start : start + 1024].astype(np.float64) * 255.0
        )
    return whole


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    if size < 1:
        raise ValueError(
            f"got size={size}; allowed is a whole number from 1 on: give the side of a sample in pixels"
        )
    parts = [
        torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
        for part in torch.split(images, 1024)
    ]
    return torch.cat(parts)


def _labels(values: npt.NDArray[Any] | None, count: int, name: str) -> tuple[Index, list[str]]:
    """Labels as places in a sorted list of names; negative integers and a missing array mean no label."""
    if values is None:
        return np.full(count, -1, np.int64), []
    return label_places(values, count, name, "image")
