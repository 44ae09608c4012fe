"""Open image files as they are stored: their own type, bits and channels, nothing reduced.

`open_stored` opens one file, of one image or of several. Where the format allows it, only the
pixels of a box are read: memory-mapped `.npy` and uncompressed TIFF, tiles and strips of a
compressed TIFF, slices of HDF5 and zarr.

- PNG of 16-bit color is decoded here, because Pillow keeps its upper 8 bits only.
- The pages of a TIFF and the frames of a DICOM are channels, unless `axes` says otherwise.
- DICOM values are those of the modality LUT (rescale slope and intercept); MONOCHROME1 is inverted,
  so that larger is brighter everywhere.
- Pixels of the file's own no-data value are NaN or that value here; `native.py` replaces them.

This module needs no torch.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from mezzotint.data.formats.numpy_files import refuse_bomb
from mezzotint.data.image.decode import Box, Fault, Undecodable, faults
from mezzotint.data.listing.folder import EXTENSIONS, extension_of

Values = npt.NDArray[Any]

MAX_GUESSED = 32
"""An axis, pages or frames of up to this size are taken for channels without being told."""

_PACKAGES = {
    **dict.fromkeys((".tif", ".tiff"), "tifffile"),
    **dict.fromkeys(("", ".dcm", ".dicom"), "pydicom"),
    **dict.fromkeys((".h5", ".hdf5"), "h5py"),
    ".zarr": "zarr",
}
NATIVE_EXTENSIONS = EXTENSIONS | {".npy", ".npz"} | ({*_PACKAGES} - {""})
"""Extensions of the files, and of the folders of zarr, that `open_stored` opens."""


@dataclass(frozen=True)
class StoredImages:
    """The images of an opened file.

    Attributes:
        values: an array, or what is sliced like one.
        axes: a letter for each axis: `N` images, `C` channels, `H`, `W`; `1` is left out.
        dtype: type of the values in the file.
        bits: bits of an integer; 0 for floats.
        bounds: the least and the largest value that this type and these bits can have; `None` for
            floats.
        nodata: value of pixels without data; `None` where the file names none.
        names: names of the channels; empty where the file has none.
    """

    values: Any
    axes: str
    dtype: str
    bits: int
    bounds: tuple[float, float] | None
    nodata: float | None = None
    names: tuple[str, ...] = ()

    def size(self, axis: str) -> int:
        """Return the size of an axis by its letter; 1 for one that the file does not have."""
        return int(self.values.shape[self.axes.index(axis)]) if axis in self.axes else 1

    def read(self, number: int, box: Box) -> Values:
        """Read a box of one image: `[height, width, C]`, in the type of the file.

        Raises:
            Undecodable: when the pixels cannot be read.
        """
        top, left, height, width = box
        index = {
            "N": number, "H": slice(top, top + height), "W": slice(left, left + width),
            "1": 0, "C": slice(None),
        }  # fmt: skip
        with _faults(""):
            found = np.asarray(self.values[tuple(index[axis] for axis in self.axes)])
        kept = [axis for axis in self.axes if axis in "CHW"]
        if "C" not in kept:
            return found.transpose(kept.index("H"), kept.index("W"))[..., None]
        return found.transpose(*(kept.index(axis) for axis in "HWC"))


def spread(items: Sequence[str], most: int) -> list[str]:
    """Return at most `most` items, spread evenly."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def checked_range(value: Any) -> Any:
    """Return a tuple of pairs of low and high, or the name of a rule as it is."""
    if isinstance(value, str):
        return value
    pairs = [value] if value and not isinstance(value[0], list | tuple) else list(value)
    if not pairs or not all(len(p) == 2 and -np.inf < p[0] < p[1] < np.inf for p in pairs):
        raise ValueError(
            "`data.reader.range` must be auto, bits, percentiles, [low, high] with a larger high, "
            f"or such a pair for each channel, got {value}. Correct it."
        )
    return tuple((float(low), float(high)) for low, high in pairs)


def require_packages(paths: Sequence[str]) -> None:
    """Check that the packages that read these files are installed.

    Raises:
        ValueError: with the first file that needs one that is not.
    """
    needed = {_PACKAGES[e]: p for p in paths if (e := extension_of(p)) in _PACKAGES}
    for package, path in needed.items():
        if find_spec(package) is None:
            raise ValueError(
                f"`{path}` is read with {package}, which is not installed. Run `pip install "
                "'mezzotint[native]'`."
            )


def is_dicom(path: str) -> bool:
    """Return whether a file, which may have no extension, begins like a DICOM file."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def open_stored(
    path: str, max_pixels: int, *, axes: str | None = None, array: str | None = None
) -> Iterator[StoredImages]:
    """Open a file; it stays open in the `with` only.

    Args:
        path: the file, or the folder of a zarr.
        max_pixels: most pixels that an image may have.
        axes: letters of the axes, such as `NHWC`; `None` guesses them from the sizes.
        array: name of the array in a file that has several.

    Raises:
        Undecodable: when the file is damaged, is not an image, or needs a codec.
    """
    with ExitStack() as stack:
        with _faults(path):
            found = _opener(path)(path, max_pixels, axes, array, stack)
            height, width = found.size("H"), found.size("W")
            if height * width > max_pixels:
                raise Undecodable(
                    "too large", f"{width} x {height} pixels, more than max_pixels={max_pixels}"
                )
        yield found


def _opener(path: str) -> Callable[..., StoredImages]:
    kinds = {".npy": _open_npy, ".npz": _open_npz, ".zarr": _open_zarr}
    # Imported on demand: that file is built on this one.
    from mezzotint.data.image.native_formats import open_dicom, open_picture, open_tiff

    packages = {"tifffile": open_tiff, "pydicom": open_dicom, "h5py": _open_hdf5}
    extension = extension_of(path)
    return kinds.get(extension) or packages.get(_PACKAGES.get(extension, ""), open_picture)


_FAULTS: Mapping[str, tuple[Fault, str]] = {
    "imagecodecs": ("unsupported", "it needs a codec, run `pip install imagecodecs`"),
    "mmap length": ("truncated", "the file ends inside of its pixels"),
    "less than expected": ("truncated", "the file ends inside of its pixels"),
    "not a TIFF": ("not an image", "no TIFF header"),
    "file signature": ("not an image", "no HDF5 header"),
    "Python objects": ("unsupported", "an array of Python objects"),
    "Object arrays": ("unsupported", "an array of Python objects"),
}
"""What the packages say, and what it means."""


@contextmanager
def _faults(path: str) -> Iterator[None]:
    """Turn every exception of a decoder into `Undecodable` with its kind."""
    with faults(path):
        try:
            yield
        except Exception as error:
            for text, (fault, detail) in _FAULTS.items():
                if text in str(error) and not isinstance(error, Undecodable):
                    raise Undecodable(fault, detail) from None
            raise


def arranged(values: Any, axes: str | None, **facts: Any) -> StoredImages:
    """Name the axes of an array and the facts that follow from its type."""
    dtype = np.dtype(values.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise Undecodable("unsupported", f"an array of {dtype}, and an image has numbers")
    axes = axes_of(tuple(values.shape), axes)
    bits = {"b": 1, "f": 0}.get(dtype.kind, 8 * dtype.itemsize)
    given = {"dtype": str(dtype.newbyteorder("=")), "bits": bits, "bounds": bounds_of(dtype, bits)}
    return StoredImages(values, axes, **given | facts)


def bounds_of(dtype: np.dtype[Any], bits: int) -> tuple[float, float] | None:
    """Return the least and the largest integer of a type with this number of bits."""
    if dtype.kind == "f":
        return None
    sign = dtype.kind == "i"
    return (-(2.0 ** (bits - 1)) if sign else 0.0), 2.0 ** (bits - sign) - 1


@dataclass
class _Ordered:
    """Images `[N, C, H, W]` of pages `[P, H, W, 1]`, by the number of each image's pages."""

    pages: Any
    order: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.order.shape, *self.pages.shape[1:3])

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.pages.dtype)
        return found

    def __getitem__(self, index: tuple[int, slice, slice, slice]) -> Values:
        image, channels, rows, columns = index
        numbers = self.order[image][channels]
        return np.stack([self.pages[int(number), rows, columns, 0] for number in numbers])


def paged(
    values: Any, facts: Mapping[str, Any], axes: str | None, leading: Sequence[tuple[str, int]]
) -> StoredImages:
    """Say what the pages of a TIFF, or the frames of a DICOM, are.

    Args:
        values: `[P, H, W, S]`, S values a pixel.
        facts: of the images.
        axes: letters that a user gave; `None` guesses.
        leading: letter and size of each axis that pages are counted along; `C` and `S`, planes of
            one image, are channels where images have several pages.
    """
    pages, _, _, samples = values.shape
    planes = next((i for i, (letter, _) in enumerate(leading) if letter in "SC"), None)
    if axes is None:
        stacked = planes is not None and leading[planes][0] == "S" and len(leading) > 1
        if not stacked and pages > MAX_GUESSED and samples == 1:
            raise Undecodable(
                "unsupported", f"{pages} pages are images or channels: set data.reader.axes to NHW "
                "or CHW",
            )  # fmt: skip
        axes = "NCHW" if pages == 1 or samples > 1 or stacked else "CHW"
    refused = Undecodable(
        "unsupported",
        f"{pages} pages with {samples} values a pixel do not have the axes {axes}",
    )
    if axes.index("W") < axes.index("H"):
        raise refused
    if {"N", "C"} <= set(axes) and samples == 1:
        if planes is None and len(leading) == 2 and axes[2:] == "HW":
            planes = axes.index("C")
        if planes is not None:
            sizes = [size for _, size in leading]
            order = np.moveaxis(np.arange(pages).reshape(sizes), planes, -1)
            return arranged(_Ordered(values, order.reshape(-1, sizes[planes])), "NCHW", **facts)
    if samples == 1 and ("N" in axes) != ("C" in axes):
        return arranged(values, "NHW1" if "N" in axes else "CHW1", **facts)
    if "C" not in axes and samples > 1 or "N" not in axes and pages > 1:
        raise refused
    return arranged(values, "NHWC", **facts)


def axes_of(shape: tuple[int, ...], axes: str | None) -> str:
    """Return a letter for each axis of an array; leading axes of size 1 are left out.

    Args:
        shape: of the array.
        axes: letters that a user gave; `None` guesses.

    Raises:
        Undecodable: when there is no image in such an array, or nobody can tell the axes.
    """
    text = " x ".join(map(str, shape)) or "a single number"
    if axes is not None:
        spare = len(shape) - len(axes)
        if spare < 0 or any(size != 1 for size in shape[:spare]):
            raise Undecodable("unsupported", f"an array of {text} does not have the axes {axes}")
        letters = "1" * spare + axes
    else:
        ones = 0
        while len(shape) - ones > 3 and shape[ones] == 1:
            ones += 1
        letters = "1" * ones + _guessed(shape[ones:], text)
    if 0 in shape:
        raise Undecodable("unsupported", f"an array of {text} has no pixels")
    return letters


def _guessed(shape: tuple[int, ...], text: str) -> str:
    if len(shape) == 2:
        return "HW"
    if len(shape) in (3, 4):
        first, *_, last = shape[-3:]
        ends = [last <= MAX_GUESSED and last < min(shape[-3:-1]),
                first <= MAX_GUESSED and first < min(shape[-2:])]  # fmt: skip
        if sum(ends) == 1:
            return "N" * (len(shape) == 4) + ("HWC" if ends[0] else "CHW")
        raise Undecodable(
            "unsupported", f"the axes of an array of {text} are unclear, set data.reader.axes, "
            "such as NHW or CHW",
        )  # fmt: skip
    raise Undecodable("not an image", f"an array of {text}, and an image has 2 to 4 axes")


def _open_npy(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    return arranged(np.load(path, mmap_mode="r", allow_pickle=False), axes)


def _open_npz(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    refuse_bomb(path)
    file = stack.enter_context(np.load(path, allow_pickle=False))
    if array is None and len(file.files) > 1:
        found = {name: file[name] for name in file.files}
        return arranged(found[_chosen(array, _pictures(found))], axes)
    return arranged(file[_chosen(array, file.files)], axes)


def _open_hdf5(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    import h5py

    file = stack.enter_context(h5py.File(path, "r"))
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(note)
    return arranged(found[_chosen(array, _pictures(found))], axes)


def _open_zarr(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    import zarr

    try:
        opened = zarr.open(path, mode="r")
    except FileNotFoundError:
        if os.path.isdir(path):
            raise Undecodable("not an image", "a folder without an array of zarr") from None
        raise
    if isinstance(opened, zarr.Array):
        return arranged(opened, axes)
    members = sorted(opened.members(max_depth=None))
    found = {name: item for name, item in members if isinstance(item, zarr.Array)}
    return arranged(found[_chosen(array, _pictures(found))], axes)


def _pictures(arrays: dict[str, Any]) -> list[str]:
    """Return the names of the arrays that can be images; of all, if none can."""
    images = [n for n, a in arrays.items() if len(a.shape) > 1 and np.dtype(a.dtype).kind in "biuf"]
    return images or list(arrays)


def _chosen(array: str | None, names: Sequence[str]) -> str:
    """Return the array of a file: the named one, or its only one."""
    array = None if array is None else array.strip("/")
    if array is None and len(names) == 1:
        return names[0]
    if array is None or array not in names:
        wrong = (
            "no array"
            if not names
            else "several arrays"
            if array is None
            else f"no array {array!r}"
        )
        listed = f" ({', '.join(names[:8])}), choose one with data.reader.array" if names else ""
        raise Undecodable("unsupported", f"the file has {wrong}{listed}")
    return array
