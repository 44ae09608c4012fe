"""Read images from a NumPy file: an `.npz` with images and labels, or an `.npy` of images alone.

Pickles are never read: an array of objects is refused.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mezzotint.data.formats.columns import ColumnUse, chosen_name
from mezzotint.data.formats.numpy_files import (
    CLASSES,
    label_indices,
    label_names,
    named_array,
    one_column,
    refuse_bomb,
    with_class_names,
)
from mezzotint.data.listing.groups import column_of_groups, grouped, merged, same_rows
from mezzotint.data.listing.sampling import check_holdout, held_out
from mezzotint.data.memory import InMemory, moments
from mezzotint.data.source import Index, Source, Task, label_tasks
from mezzotint.types import Input

Layout = Literal["auto", "NHW", "NHWC", "NCHW"]

_MAX_CHANNELS = 4  # `auto` takes an axis of up to this size for the channels


class Arrays(InMemory):
    """Read images and labels from a NumPy file into memory.

    Values are uint8, or floats in [0, 1], which are rounded to 8 bits. A part of each class is
    scored by the task `label/holdout`; with fewer than two classes there is none.

    Args:
        path: path of the `.npz` or `.npy` file.
        x: name of the images in an `.npz`.
        y: name of the labels in an `.npz`: integers (negative: no label) or strings; `null` ignores
            them.
        layout: order of the axes; `auto` takes an axis of at most 4 for the channels.
        size: height and width to resize all images to, in pixels; by default their own.
        holdout: fraction of each class to score. Equal images are held out together.
        group: name of an array of the person or other source of each image; images of one are held
            out together. By default an array such as `patient_id` or `subject`.
        mean: mean of each channel, any number, for values in [0, 1]; by default measured over all
            images.
        std: standard deviation of each channel; by default measured.

    Attributes:
        classes: names of the classes; a label is an index into this list.

    Raises:
        ValueError: when the file is missing or damaged, or has objects or no images.
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
        group: str | None = None,
    ) -> None:
        check_holdout(holdout)
        if size is not None and size < 1:
            raise ValueError(
                f"`size` must be 1 or more pixels, got {size}. Leave it out to keep the stored "
                "size."
            )
        if min(std or (1.0,)) <= 0.0:
            raise ValueError(f"`std` must be positive, got {std}. Leave it out to measure it.")
        self.path, self.holdout = path, holdout
        arrays, x, y, group, self.columns = _load(path, x, y, group)
        pixels = _channels_first(arrays[x], layout, f"{path}: {x}")
        self.images = _resized(torch.from_numpy(_eight_bits(pixels, f"{path}: {x}")), size)
        labels = arrays.get(y or "")
        named = None if labels is None else with_class_names(labels, arrays, path)
        self.labels, self.classes = _labels(named, len(self.images), f"{path}: {y}")
        self.ids, self._who = x, _people(arrays.get(group or ""), len(self.images), group)
        measured = moments(self.images) if mean is None or std is None else ((), ())
        self.input = Input(
            tuple(self.images.shape[1:]),
            tuple(mean) if mean is not None else measured[0],
            tuple(std) if std is not None else measured[1],
        )

    @classmethod
    def located(cls, path: str, input: Input) -> dict[str, Any]:
        return {"path": path}

    def settings(self) -> dict[str, Any]:
        mean, std = list(self.input.mean), list(self.input.std)
        return {**self.config, "mean": mean, "std": std}

    def preprocessing(self) -> dict[str, Any]:
        return {**super().preprocessing(), "values": "uint8 / 255", "size": self.input.shape[1:]}

    def evaluation(self) -> tuple[Source, Sequence[Task]]:
        """Return all images, and the task; with fewer than two classes there is none."""
        if len(self.classes) < 2:
            return self, []
        if self.groups is None:
            self.groups = merged(same_rows(self.images), grouped(self._who))
        chosen = held_out(self.labels, self.holdout, "label", self.groups)
        return self, label_tasks("label/holdout", self.labels, chosen, self.classes)


def _people(values: npt.NDArray[Any] | None, count: int, name: str | None) -> list[str | None]:
    """Return the person or other source of each image, `None` where it is not known."""
    if values is None:
        return [None] * count
    values = one_column(values)
    if values.shape != (count,):
        raise ValueError(
            f"The array {name!r} must have {count} entries, one for each image, got shape "
            f"{values.shape}. Correct `data.group`."
        )
    return label_names(values)


def _load(
    path: str, x: str, y: str | None, group: str | None
) -> tuple[dict[str, npt.NDArray[Any]], str, str | None, str | None, list[ColumnUse]]:
    """Read the images, by the name `x`, labels by `y` and people by `group`, if there are any.

    Returns:
        The arrays; the names of images, labels and people among them; and what each array is used
        for.
    """
    try:
        file = open(path, "rb")
    except OSError as error:
        raise ValueError(
            f"`{path}` cannot be opened ({error.strerror}). It must be an .npz or .npy file. Check "
            "`data.path`."
        ) from None
    with file:
        start = file.read(6)
        if start != b"\x93NUMPY" and not start.startswith(b"PK"):
            raise ValueError(
                f"`{path}` is not a NumPy file: it begins with {start!r}. Write it with np.savez "
                "or np.save."
            )
        file.seek(0)
        try:
            refuse_bomb(path)
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {x: loaded}, x, None, None, []
            names = list(loaded.files)
            x = next(iter(names)) if len(names) == 1 and x == "x" else x
            group = group or column_of_groups((n for n in names if n not in (x, y)), arrays=True)
            wanted = [name for name in (x, y, group, CLASSES) if name in names and name]
            found = {name: loaded[name] for name in wanted}
            if not all(isinstance(value, np.ndarray) for value in found.values()):
                raise ValueError("a member of the archive is not an array")
        except Exception as error:  # a damaged file can raise nearly any exception
            objects = "Object arrays" in str(error)
            detail = "it has Python objects" if objects else " ".join(str(error).split())[:160]
            raise ValueError(
                f"`{path}` cannot be read ({detail or type(error).__name__}). It must hold arrays "
                "of numbers, never a pickle, which could run a program. Write it again with "
                "np.savez."
            ) from None
    x = named_array(x, dict.fromkeys(names), path, "images")
    y = chosen_name(y, names, default="y", key="data.y", path=path, noun="array")
    if group is not None and group not in names:
        raise ValueError(
            f"`{path}` has no array {group!r}, only {', '.join(names)}. Correct `data.group`."
        )
    uses = {CLASSES: "names", x: "images", y: "label", group: "source"}
    return found, x, y, group, [ColumnUse(name, uses.get(name, "left out")) for name in names]


def _channels_first(values: npt.NDArray[Any], layout: Layout, name: str) -> npt.NDArray[Any]:
    """Reorder the axes of any layout to `[N, C, H, W]`."""
    if layout == "auto":
        if values.ndim == 3:
            layout = "NHW"
        elif values.ndim == 4 and (values.shape[1] <= _MAX_CHANNELS) != (
            values.shape[3] <= _MAX_CHANNELS
        ):
            layout = "NCHW" if values.shape[1] <= _MAX_CHANNELS else "NHWC"
        else:
            raise ValueError(
                f"{name} must be [N, H, W], [N, H, W, C] or [N, C, H, W] with at most "
                f"{_MAX_CHANNELS} channels, got shape {values.shape}. Set layout=NHWC or "
                "layout=NCHW."
            )
    if values.ndim != len(layout) or 0 in values.shape:
        raise ValueError(
            f"{name} must have {len(layout)} non-empty dimensions for layout={layout}, got shape "
            f"{values.shape}. Reshape the array."
        )
    if layout == "NHW":
        return values[:, None]
    return values if layout == "NCHW" else values.transpose(0, 3, 1, 2)


def _eight_bits(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Keep uint8, round floats in [0, 1] to 8 bits; the result is C-contiguous."""
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind != "f":
        raise ValueError(
            f"{name} must be uint8, or floats in [0, 1], got {values.dtype}. Convert it, with "
            ".astype(np.uint8) if its values are 0 … 255."
        )
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
        raise ValueError(
            f"{name} has NaN or infinity in {bad} of {len(values)} images. Values must be finite, "
            "in [0, 1]. Remove or repair these images."
        )
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:
        raise ValueError(
            f"{name} must be uint8, or floats in [0, 1], got values from {low:g} to {high:g}. "
            "Scale it first."
        )
    whole = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 1024):  # in parts, to avoid a float copy of all images
        whole[start : start + 1024] = np.rint(
            values[start : start + 1024].astype(np.float64) * 255.0
        )
    return whole


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    parts = [
        torch.nn.functional.interpolate(part, (size, size), mode="bilinear", antialias=True)
        for part in torch.split(images, 1024)
    ]
    return torch.cat(parts)


def _labels(values: npt.NDArray[Any] | None, count: int, name: str) -> tuple[Index, list[str]]:
    """Turn labels into indices of sorted names; negative integers and no array mean no label."""
    if values is None:
        return np.full(count, -1, np.int64), []
    return label_indices(values, count, name, "image")
