"""Read images in their own type and channels, as floats in [0, 1] of a value range.

`data.reader=native` of an image folder. Files are opened by `native_files.py`. What the training
images have in common is fitted once: channels, type, range, mean and standard deviation. It is kept
with the encoder, so that all other images are mapped by the range of training and never by theirs.
"""

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mezzotint.data.image.decode import Undecodable
from mezzotint.data.image.losses import StoredHeader, difference, type_kind
from mezzotint.data.image.native_files import (
    NATIVE_EXTENSIONS,
    StoredImages,
    Values,
    checked_range,
    is_dicom,
    open_stored,
    require_packages,
    spread,
)
from mezzotint.data.listing.folder import Listing, extension_of
from mezzotint.data.memory import Floats, Ranges, mapped_moments, percentile_ranges
from mezzotint.recipe.component import Component
from mezzotint.timing import part
from mezzotint.types import Crop, CropSampler, Input

_PROBED = 64  # files whose headers are compared
_MEASURED = 256  # images that range, mean and standard deviation are measured on
_SIDE = 128  # rows and columns of their pixels
_ODD = 0.1  # fraction of the probed files that may differ from the others
_SMALL = 16  # integers of up to 16 bits are mapped by their type
_TYPES = ("bool", *(f"{s}int{n}" for n in (8, 16, 32, 64) for s in ("", "u")))
_TYPES += ("float16", "float32", "float64")


class Native(Component):
    """Read 8- and 16-bit integers and floats of any number of channels, without reducing them.

    Values are mapped to [0, 1] by a range, and clipped; NaN, infinite and no-data pixels become 0.
    Files are PNG, JPEG and the like, TIFF, DICOM, `.npy`, `.npz`, HDF5 and zarr. Packages that
    these need come with mezzotint[native].

    Args:
        channels: indices of the channels to read, from 0; by default all, and all files must have
            as many.
        names: a name for each channel that is read; by default those in the files.
        range: stored values that become 0 and 1: [low, high], or a pair for each channel. `bits`
            takes them from the type and bit depth of the files, `percentiles` measures them on the
            training images. `auto` is `bits` for integers of up to 16 bits, else `percentiles`.
        percentiles: the two percentiles of a channel's values, from 0 to 100.
        axes: letters of the axes of an array, or of the pages of a TIFF and the frames of a DICOM:
            N images, C channels, H and W, such as NHW. By default pages, frames and an axis of at
            most 32 are channels.
        array: name of the array in files that have several.
        dtype: type of the values: bool, uint8 to uint64, int8 to int64, float16, float32 or
            float64; by default that of most files. Files of others are unreadable.
        mean: mean of each channel, any number, of values in [0, 1]; by default measured.
        std: standard deviation of each channel; by default measured.

    Attributes:
        input: what the images have in common, with a height and width of 1; set by `fit`.
        numbered: whether files have several images, which are numbered.

    Raises:
        ValueError: for a range, percentiles, axes or channels that cannot be used.
    """

    extensions = NATIVE_EXTENSIONS
    input: Input

    def __init__(
        self,
        *,
        channels: list[int] | None = None,
        names: list[str] | None = None,
        range: Literal["auto", "bits", "percentiles"] | list[float] | list[list[float]] = "auto",
        percentiles: tuple[float, float] = (0.1, 99.9),
        axes: str | None = None,
        array: str | None = None,
        dtype: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        self.channels, self.names, self.axes, self.array = channels, names, axes, array
        self.percentiles, self.dtype, self.mean, self.std = percentiles, dtype, mean, std
        self.range = checked_range(range)
        if channels is not None and (not channels or min(channels) < 0):
            raise ValueError(
                f"`data.reader.channels` must be indices from 0, got {channels}. Leave it out to "
                "read all."
            )
        if not 0.0 <= percentiles[0] < percentiles[1] <= 100.0 or min(std or (1.0,)) <= 0.0:
            raise ValueError(
                "`data.reader.percentiles` must be two numbers from 0 to 100 that rise, and `std` "
                f"positive, got {list(percentiles)} and {std}. Try [0.1, 99.9] and null."
            )
        letters = set(axes or "HW")
        if not set("HW") <= letters <= set("NCHW") or len(letters) != len(axes or "HW"):
            raise ValueError(
                "`data.reader.axes` must be H, W and any of N and C, each once, such as NHWC, got "
                f"{axes!r}. Correct it."
            )
        if dtype is not None and dtype not in _TYPES:
            raise ValueError(
                f"`data.reader.dtype` must be one of {', '.join(_TYPES)}, got {dtype!r}. Leave it "
                "out for that of most files."
            )
        self.numbered = "N" in letters

    def listed(self, listing: Listing) -> Listing:
        """Count DICOM files without an extension among the images of a folder.

        Raises:
            ValueError: when a package is missing that reads some of them.
        """
        found = {
            path
            for path in listing.others
            if not extension_of(path) and is_dicom(os.path.join(listing.root, path))
        }
        listing.images = sorted([*listing.images, *found], key=os.fsencode)
        listing.others = [path for path in listing.others if path not in found]
        require_packages(listing.images)
        return listing

    def open(self, path: str, max_pixels: int) -> AbstractContextManager[StoredImages]:
        """Open a file, see `open_stored`."""
        return open_stored(path, max_pixels, axes=self.axes, array=self.array)

    def expanded(self, root: str, paths: Sequence[str], max_pixels: int) -> list[str]:
        """Return an id for each image: the path, with a number where files have several.

        A file that cannot be opened counts as one image, which is unreadable.
        """
        if not self.numbered:
            return list(paths)
        ids: list[str] = []
        for path in paths:
            try:
                with self.open(os.path.join(root, path), max_pixels) as stored:
                    count = stored.size("N")
            except Undecodable:
                count = 1
            ids += [f"{path}#{number:06d}" for number in range(count)]
        return ids

    def split(self, id: str) -> tuple[str, int]:
        """Return the file of an image, and its number in the file."""
        path, _, number = id.rpartition("#") if self.numbered else (id, "", "0")
        return path, int(number)

    def fit(self, root: str, paths: Sequence[str], max_pixels: int) -> list[str]:
        """Find what training images have in common, and measure what was not stated.

        Args:
            root: folder of the paths.
            paths: the files.
            max_pixels: most pixels that an image may have.

        Returns:
            Sentences on files that differ or cannot be read, and on dark images.

        Raises:
            ValueError: when no file can be read, or the files differ in channels or type.
        """
        probes, notes = self._probed(root, paths, max_pixels)
        self.numbered = self.numbered or any(probe.count > 1 for probe in probes)
        common = Counter(probe.kind for probe in probes).most_common(1)[0][0]
        odd = [probe for probe in probes if probe.kind != common]
        same = [probe for probe in probes if probe.kind == common]
        if len(odd) > _ODD * len(probes):
            raise ValueError(difference(root, same, odd))
        if odd:
            notes.append(f"{len(odd)} of {len(probes)} probed files differ, such as {odd[0].path}")
        dtype = self.dtype or Counter(p.dtype for p in same).most_common(1)[0][0]
        names = self._names(same[0])
        bits = max(probe.bits for probe in same)
        pixels: list[Floats] = []
        ranges = self._ranges(same, bits)
        if ranges is None or self.mean is None or self.std is None:
            ids = self.expanded(root, paths, max_pixels)
            pixels = self._pixels(root, ids, max_pixels)
        if ranges is None:
            ranges = percentile_ranges(pixels, self.percentiles)
        mean, std = (tuple(self.mean or ()), tuple(self.std or ()))
        if not mean or not std:
            measured = mapped_moments(pixels, ranges)
            mean, std = mean or measured[0], std or measured[1]
        self.input = Input(
            (len(ranges), 1, 1), mean, std, dtype=dtype, bits=bits, channels=names, range=ranges
        )
        return [*notes, *self._dark(pixels)]

    def settings(self) -> dict[str, Any]:
        """Return the configuration with what was fitted filled in."""
        fitted = self.input
        return {
            **self.config,
            "names": list(fitted.channels) or None,
            "range": [list(ends) for ends in fitted.range],
            "dtype": fitted.dtype,
            "mean": list(fitted.mean),
            "std": list(fitted.std),
        }

    def cut(self, path: str, number: int, choose: CropSampler, max_pixels: int) -> list[Tensor]:
        """Cut crops out of an image: float32 `[C, size, size]` in [0, 1] each.

        Raises:
            Undecodable: when it cannot be read, or is of another kind than the training images.
        """
        with part("decode"), self.open(path, max_pixels) as stored:
            self._require_kind(stored)
            crops = choose(stored.size("H"), stored.size("W"))
            return [self._resized(stored, stored.read(number, crop.box), crop) for crop in crops]

    def _require_kind(self, stored: StoredImages) -> None:
        count, channels = stored.size("N"), len(self.input.range)
        if count > 1 and not self.numbered:
            raise Undecodable(
                "unsupported", f"{count} images, and other files have one, set data.reader.axes"
            )
        if self.channels is None and stored.size("C") != channels:
            raise Undecodable(
                "unsupported", f"{stored.size('C')} channels, and other files have {channels}"
            )
        self._picked(range(stored.size("C")))
        if type_kind(stored.dtype) != type_kind(self.input.dtype):
            raise Undecodable(
                "unsupported", f"{stored.dtype} values, and other files have {self.input.dtype}"
            )

    def picked(self, values: Values) -> Values:
        """Return the chosen channels of `[height, width, C]`."""
        if self.channels is None:
            return values
        return values[..., self._picked(range(values.shape[2]))]

    def _picked(self, found: Sequence[Any]) -> list[Any]:
        """Return the entries of the chosen channels."""
        if self.channels is None:
            return list(found)
        if max(self.channels) >= len(found):
            raise Undecodable(
                "unsupported",
                f"{len(found)} channels, and data.reader.channels names {max(self.channels)}",
            )
        return [found[channel] for channel in self.channels]

    def _resized(self, stored: StoredImages, values: Values, crop: Crop) -> Tensor:
        """Map values `[height, width, C]` to [0, 1] and resize them: `[C, size, size]`."""
        with part("crop"):
            x = self._floats(stored, values)
            low, high = torch.tensor(self.input.range, dtype=x.dtype).T[:, :, None, None]
            bounds = stored.bounds if stored.nodata is None else None
            if bounds is None or bounds[0] < low.min() or high.max() < bounds[1]:
                # An outlier must not reach its neighbors through the filter of the resize.
                x = _mapped(x, low, high)
                low, high = torch.zeros_like(low), torch.ones_like(high)
            if x.shape[1:] != (crop.size, crop.size):
                size, mode = (crop.size, crop.size), crop.interpolation
                x = interpolate(x[None], size, mode=mode, align_corners=False, antialias=True)[0]
            return _mapped(x, low, high).float()

    def _floats(self, stored: StoredImages, values: Values) -> Tensor:
        """Return the chosen channels `[C, height, width]`, NaN where there are no data.

        Integers of more than 16 bits, and doubles, need float64.
        """
        values = self.picked(values)
        kind = values.dtype.kind
        large = values.dtype.itemsize > 4 if kind == "f" else stored.bits > _SMALL
        wanted = np.float64 if large else np.float32
        x = np.array(values.transpose(2, 0, 1), wanted, order="C")
        if kind == "f":
            x[~np.isfinite(x)] = np.nan
        if stored.nodata is not None:
            x[x == wanted(stored.nodata)] = np.nan
        return torch.from_numpy(x)

    def _probed(
        self, root: str, paths: Sequence[str], max_pixels: int
    ) -> tuple[list[StoredHeader], list[str]]:
        """Read the headers of files spread evenly over all, and say which cannot be read."""
        probes: list[StoredHeader] = []
        bad: list[str] = []
        for path in spread(paths, _PROBED):
            try:
                with self.open(os.path.join(root, path), max_pixels) as stored:
                    channels = len(self._picked(range(stored.size("C"))))
                    facts = (stored.dtype, stored.bits, stored.bounds, stored.names)
                    probes.append(StoredHeader(path, channels, *facts, stored.size("N")))
            except Undecodable as error:
                bad.append(f"`{path}` ({error})")
        if not probes:
            raise ValueError(
                f"`{root}` has no image that can be read, of {len(bad)} tried; the first is "
                f"{bad[0]}. Run `mezzotint doctor` on the folder with data.reader=native."
            )
        count = len(probes) + len(bad)
        notes = (
            [f"{len(bad)} of {count} probed files cannot be read, such as {bad[0]}"] if bad else []
        )
        return probes, notes

    def _names(self, probe: StoredHeader) -> tuple[str, ...]:
        """Return the name of each channel that is read; nothing without names."""
        if self.names is None:
            picked = self.channels is None or max(self.channels) < len(probe.names)
            names = self._picked(probe.names) if picked and probe.names else []
            return tuple(names) if len(names) == probe.channels else ()
        if len(self.names) != probe.channels:
            raise ValueError(
                f"`data.reader.names` must have {probe.channels} names, one for each channel that "
                f"is read, got {len(self.names)}. Correct it."
            )
        return tuple(self.names)

    def _ranges(self, probes: Sequence[StoredHeader], bits: int) -> Ranges | None:
        """Return the range of each channel; `None` where it has to be measured."""
        channels = probes[0].channels
        if {len(v) for v in (self.mean, self.std) if v} - {channels}:
            wrong = f"`{probes[0].path}` has {channels} channels, and data.reader.mean has others."
            raise ValueError(f"{wrong} Use such images, or choose with data.reader.channels.")
        if not isinstance(self.range, str):
            if len(self.range) not in (1, channels):
                raise ValueError(
                    f"`data.reader.range` must be [low, high], or {channels} such pairs, one for "
                    f"each channel, got {len(self.range)} pairs. Correct it."
                )
            ranges: Ranges = self.range * (channels if len(self.range) == 1 else 1)
            return ranges
        bounds = [probe.bounds for probe in probes if probe.bounds is not None]
        if self.range == "percentiles" or (
            self.range == "auto" and (len(bounds) < len(probes) or bits > _SMALL)
        ):
            return None
        if len(bounds) < len(probes):
            raise ValueError(
                "`data.reader.range` cannot be bits, because floats have no bit depth. Set it to "
                "percentiles, or to [low, high]."
            )
        lows, highs = zip(*bounds, strict=True)
        return ((min(lows), max(highs)),) * channels

    def _pixels(self, root: str, ids: Sequence[str], max_pixels: int) -> list[Floats]:
        """Read pixels of images spread evenly over all: `[C, at most 16,384]` of each."""
        found: list[Floats] = []
        reason = ""
        for id in spread(ids, _MEASURED):
            path, number = self.split(id)
            try:
                with self.open(os.path.join(root, path), max_pixels) as stored:
                    height, width = stored.size("H"), stored.size("W")
                    values = stored.read(number, (0, 0, height, width))
                    rows, columns = (
                        np.linspace(0, size - 1, min(size, _SIDE)).round().astype(np.int64)
                        for size in (height, width)
                    )
                    x = self._floats(stored, values[np.ix_(rows, columns)]).double().flatten(1)
            except Undecodable as error:
                reason = f"`{path}` ({error})"
                continue
            if not found or len(found[0]) == len(x):
                found.append(x.numpy())
        if not any(np.isfinite(x).any(axis=1).all() for x in found):
            found_out = f" (the last: {reason})" if reason else ""
            raise ValueError(
                f"`{root}` has no image with data in all channels{found_out}. Check the files, or "
                "set data.reader.range, mean and std."
            )
        return found

    def _dark(self, pixels: Sequence[Floats]) -> list[str]:
        """Say that integers use few of their bits, if they do."""
        low, high = self.input.range[0]
        largest = max((float(np.nanmax(x)) for x in pixels if np.isfinite(x).any()), default=high)
        if not self.input.bits or low < 0.0 or largest >= high / 4:
            return []
        return [
            f"the largest value measured is {largest:,g} of {high:,g}, so images are dark; "
            "data.reader.range=percentiles fits them"
        ]


def _mapped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map low to 0 and high to 1, clip, and put 0 where there are no data."""
    return ((x - low) / (high - low)).nan_to_num_(0.0).clamp_(0.0, 1.0)
