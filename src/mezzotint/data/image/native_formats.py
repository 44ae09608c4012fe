"""Open pictures, TIFF and DICOM in their own types; `native_files.py` has arrays and the rest.

PNG, PPM, JPEG and so on are read by Pillow where it reduces nothing, and by our own code or not at
all where it would; TIFF by tifffile, DICOM by pydicom.
"""

import logging
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from mezzotint.data.image.decode import Undecodable, deep_png, deep_ppm, open_image, upright
from mezzotint.data.image.losses import BANDS, DEEP, loss_of
from mezzotint.data.image.native_files import (
    StoredImages,
    Values,
    arranged,
    bounds_of,
    paged,
)

_KEPT = ("L", "LA", "RGB", "RGBA", "F", "I")
_CONVERTED = {"1": "L", "La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def open_picture(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    """Decode a PNG, JPEG and so on; what Pillow would reduce is decoded here or refused.

    `open_stored` says what the arguments are.
    """
    with open_image(path, max_pixels) as image:
        if image.format in ("PNG", "PPM") and image.mode != "I;16":
            with open(path, "rb") as file:
                data = file.read()
            if image.format == "PPM" and (found := deep_ppm(data)) is not None:
                values, white = found
                bits, bounds = white.bit_length(), (0.0, float(white))
                return arranged(values, "HWC", bits=bits, bounds=bounds)
            if image.format == "PNG" and (deep := deep_png(data)) is not None:
                return arranged(deep, "HWC")
        return arranged(*_pillow(image, path))


def _pillow(image: Image.Image, path: str) -> tuple[Values, str]:
    """Decode an image that Pillow does not reduce.

    Raises:
        Undecodable: for one that it does.
    """
    kinds = loss_of(image, decode=False).kinds
    deep = DEEP in kinds and not image.mode.startswith("I")
    if (
        deep
        or BANDS in kinds
        or _coded_bits(path, str(image.format)) > 8
        and image.mode in _KEPT[:4]
    ):
        raise Undecodable(
            "unsupported", f"Pillow would reduce this {image.format} to 8-bit {image.mode}, write "
            "it as PNG or TIFF",
        )  # fmt: skip
    picture = upright(image)
    mode = picture.mode
    if mode not in _KEPT and not mode.startswith("I;16"):
        clear = "transparency" in picture.info
        picture = picture.convert(_CONVERTED.get(mode, "RGBA" if clear else "RGB"))
    values = np.asarray(picture)
    if values.dtype == np.int32 and image.format in ("PNG", "PPM"):
        values = values.astype(np.uint16)
    return values, "HW" if values.ndim == 2 else "HWC"


def _coded_bits(path: str, format: str) -> int:
    """Return the bits of a channel of a JPEG 2000 or AVIF file by its header; 8 for others."""
    if format not in ("JPEG2000", "AVIF", "HEIF"):
        return 8
    with open(path, "rb") as file:
        start = file.read(1 << 16)
    if format == "JPEG2000":  # marker SIZ: the first component's depth − 1 is its byte 40
        at = start.find(b"\xff\x51")
        return (start[at + 40] & 0x7F) + 1 if 0 <= at < len(start) - 40 else 8
    found = re.search(rb"pixi.{4}(.)(.)", start, re.S)  # box of the bits of each channel
    return found[2][0] if found else 8


def open_tiff(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    """Open a TIFF; `open_stored` says what the arguments are."""
    import tifffile

    if not (log := logging.getLogger("tifffile")).handlers:
        log.addHandler(logging.NullHandler())  # a fault becomes a reason, and no line on stderr
    file = stack.enter_context(tifffile.TiffFile(path))
    if not file.series:
        raise Undecodable("broken", "a TIFF without pages")
    series = file.series[0]
    if axes is not None and "N" in axes and len(file.series) > 1:
        raise Undecodable(
            "unsupported", f"a TIFF of {len(file.series)} series, such as pages of several sizes, "
            "and only one can be read, write each to a file",
        )  # fmt: skip
    page = series.keyframe
    codec = _missing_codec(page)
    if codec is None and page.photometric == 6 and page.compression not in (6, 7):
        codec = "none of YCbCr"  # tifffile turns that of a JPEG into RGB only
    if codec is not None:
        return _by_pillow(path, max_pixels, codec)
    kind = series.axes[-3:] if series.axes.endswith("YXS") else series.axes[-2:]
    if kind not in ("YX", "YXS"):
        raise Undecodable("unsupported", f"a TIFF with the axes {series.axes}")
    samples = series.shape[-1] if kind == "YXS" else 1
    height, width = series.shape[-3:-1] if kind == "YXS" else series.shape[-2:]
    pages = int(np.prod(series.shape)) // (height * width * samples)
    if height * width > max_pixels:
        raise Undecodable(
            "too large", f"{width} x {height} pixels, more than max_pixels={max_pixels}"
        )
    shape = (pages, height, width, samples)
    segmented = page.planarconfig == 1 and page.imagedepth == 1 and len(series.pages) == pages
    values: Any
    if series.dataoffset is not None:
        stored = np.dtype(series.dtype).newbyteorder(file.byteorder)
        values = np.memmap(path, stored, "r", series.dataoffset, shape)
    elif segmented:
        values = _Pages(file, list(series.pages), shape)
    else:
        values = series.asarray().reshape(shape)
    nodata = page.tags.get(42113)
    facts: dict[str, Any] = {
        "names": _names_in(file, page),
        "nodata": _number(nodata and nodata.value),
    }
    if (
        page.dtype is not None
        and page.dtype.kind == "u"
        and 1 < page.bitspersample < 8 * page.dtype.itemsize
    ):
        facts |= {"bits": page.bitspersample, "bounds": (0.0, 2.0**page.bitspersample - 1)}
    turned = page.tags.get(274)
    if turned is not None and int(turned.value) in _FLIPS:
        values = _FLIPS[int(turned.value)](np.asarray(values[:, :, :, :]))
    leading = zip(series.axes, series.shape[: len(series.axes) - len(kind)], strict=False)
    return paged(*_meant(page, values, facts), axes, [pair for pair in leading if pair[1] > 1])


def _meant(page: Any, values: Any, facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Replace indices of a palette by its colors, and invert pages whose 0 is white."""
    dtype = np.dtype(values.dtype)
    if page.photometric == 3 and page.colormap is not None:
        colors = np.ascontiguousarray(page.colormap.T)
        if not np.any(colors % 257) or not np.any(colors % 256):  # a palette of 8 bits
            colors = (colors >> 8).astype(np.uint8)
        return _Recoded(values, lambda v: colors[v[..., 0]], colors.dtype, 3), {
            "names": facts["names"]
        }
    if page.photometric != 0 or dtype.kind == "f":
        return values, facts
    if dtype.kind == "b":
        return _Recoded(values, np.logical_not, dtype, values.shape[3]), facts
    total = int(sum(facts.get("bounds") or bounds_of(dtype, 8 * dtype.itemsize) or ()))
    nodata = facts["nodata"]
    facts = {**facts, "nodata": None if nodata is None else total - nodata}
    whole = dtype.type(total)
    return _Recoded(values, lambda v: whole - v, dtype, values.shape[3]), facts


def _missing_codec(page: Any) -> str | None:
    """Return the compression of a TIFF whose codec is not installed; `None` for others."""
    import tifffile

    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError:
        name = getattr(page.compression, "name", page.compression)
        return f"{name} with predictor {page.predictor}" if page.predictor > 1 else str(name)
    return None


def _by_pillow(path: str, max_pixels: int, codec: str) -> StoredImages:
    """Open a TIFF of one page by the codecs of Pillow, where it reduces nothing.

    Raises:
        Undecodable: where it does.
    """
    try:
        with open_image(path, max_pixels) as image:
            if getattr(image, "n_frames", 1) == 1:
                return arranged(*_pillow(image, path))
    except Undecodable as error:
        if error.fault in ("truncated", "too large"):
            raise
    raise Undecodable(
        "unsupported", f"the compression {codec} needs a codec, run `pip install imagecodecs`"
    )


_FLIPS: dict[int, Callable[[Values], Values]] = {
    2: lambda v: v[:, :, ::-1], 3: lambda v: v[:, ::-1, ::-1], 4: lambda v: v[:, ::-1],
    5: lambda v: v.swapaxes(1, 2), 6: lambda v: v[:, ::-1].swapaxes(1, 2),
    7: lambda v: v[:, ::-1, ::-1].swapaxes(1, 2), 8: lambda v: v.swapaxes(1, 2)[:, ::-1],
}  # fmt: skip
"""How pages `[P, H, W, S]` become upright, by the tag Orientation (TIFF 6.0)."""


def _number(text: Any) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _names_in(file: Any, page: Any) -> tuple[str, ...]:
    """Return the names of channels that OME or GDAL wrote into a TIFF."""
    if file.is_ome:
        return tuple(re.findall(r'<Channel\b[^>]*?\bName="([^"]+)"', file.ome_metadata or ""))
    tag = page.tags.get(42112)
    pattern = r'<Item name="DESCRIPTION"[^>]*>([^<]+)</Item>'
    return tuple(re.findall(pattern, str(tag.value))) if tag is not None else ()


@dataclass
class _Recoded:
    """Pages `[P, H, W, S]` whose stored values stand for others, which `code` computes."""

    values: Any
    code: Callable[[Values], Values]
    dtype: np.dtype[Any]
    samples: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.values.shape[:3], self.samples)

    def __getitem__(self, index: tuple[Any, slice, slice, Any]) -> Values:
        which, rows, columns, samples = index
        coded = self.code(np.asarray(self.values[which, rows, columns, :]))
        return np.asarray(coded[..., samples], self.dtype)


@dataclass
class _Pages:
    """Pages of a TIFF `[P, H, W, S]`; only the tiles or strips of a box are decoded."""

    file: Any
    pages: list[Any]
    shape: tuple[int, int, int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        found: np.dtype[Any] = np.dtype(self.pages[0].dtype)
        return found

    def __getitem__(self, index: tuple[Any, slice, slice, Any]) -> Values:
        which, rows, columns, samples = index
        number = isinstance(which, int)
        chosen = [self.pages[which]] if number else self.pages[which]
        found = np.stack([self._box(page, rows, columns) for page in chosen])[..., samples]
        return np.asarray(found[0] if number else found)

    def _box(self, page: Any, rows: slice, columns: slice) -> Values:
        (top, bottom, _), (left, right, _) = (
            rows.indices(self.shape[1]), columns.indices(self.shape[2])
        )  # fmt: skip
        out = np.zeros((bottom - top, right - left, self.shape[3]), self.dtype)
        first = page.keyframe
        height = first.tilelength if first.is_tiled else first.rowsperstrip
        width = first.tilewidth if first.is_tiled else self.shape[2]
        across = -(-self.shape[2] // width)
        segments = product(
            range(top // height, -(-bottom // height)), range(left // width, -(-right // width))
        )
        for row, column in segments:
            number = row * across + column
            if not page.databytecounts[number]:
                continue  # a sparse file leaves out segments of zeros
            self.file.filehandle.seek(page.dataoffsets[number])
            data = self.file.filehandle.read(page.databytecounts[number])
            segment, (_, _, y, x, _), (_, h, w, _) = page.decode(
                data, number, jpegtables=first.jpegtables
            )
            if segment is None:
                continue
            y0, y1, x0, x1 = max(top, y), min(bottom, y + h), max(left, x), min(right, x + w)
            part = segment[0, y0 - y : y1 - y, x0 - x : x1 - x]
            out[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return out


def open_dicom(
    path: str, max_pixels: int, axes: str | None, array: str | None, stack: ExitStack
) -> StoredImages:
    """Open a DICOM file; `open_stored` says what the arguments are."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on values that the standard forbids, and others use
        try:
            file = pydicom.dcmread(path)
        except pydicom.errors.InvalidDicomError:
            raise Undecodable("not an image", "no DICOM header") from None
        if not {"PixelData", "FloatPixelData", "DoubleFloatPixelData"} & {e.keyword for e in file}:
            kind = file.get("Modality", "unknown")
            raise Undecodable("not an image", f"a DICOM file without pixels (modality {kind})")
        if file.Rows * file.Columns > max_pixels:
            raise Undecodable("too large", f"{file.Columns} x {file.Rows} pixels")
        try:
            values = file.pixel_array
        except (RuntimeError, NotImplementedError) as error:
            if "decode" not in str(error) and "decompress" not in str(error):
                raise
            raise Undecodable(
                "unsupported", f"{file.file_meta.TransferSyntaxUID.name} needs a codec, run `pip "
                "install pylibjpeg[all]`",
            ) from None  # fmt: skip
        return _dicom_values(file, values, axes)


def _dicom_values(file: Any, values: Values, axes: str | None) -> StoredImages:
    """Apply photometric interpretation and the modality LUT."""
    from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

    photometric = file.get("PhotometricInterpretation", "MONOCHROME2")
    dtype, bits = values.dtype.newbyteorder("="), int(file.get("BitsStored", 0))
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, file)
        dtype, bits = values.dtype, 8 * values.dtype.itemsize
    bounds, padding = bounds_of(dtype, bits), _number(file.get("PixelPaddingValue"))
    limit = _number(file.get("PixelPaddingRangeLimit"))
    if padding is not None and limit is not None:
        low, high = sorted((padding, limit))
        values = np.where((values >= low) & (values <= high), dtype.type(padding), values)
    if photometric == "MONOCHROME1":
        total = sum(bounds) if bounds is not None else float(values.max() + values.min())
        values = (total - values.astype(np.float64)).astype(np.int32 if bounds else dtype)
        padding = None if padding is None else total - padding
    scales = _scales(file)
    if "ModalityLUTSequence" in file:
        values, bounds, padding = apply_modality_lut(values, file), None, None
    elif set(scales) - {(1.0, 0.0)}:
        values, bounds, padding = _scaled(values, scales, bounds, padding)
    color = file.get("SamplesPerPixel", 1) > 1 or photometric == "PALETTE COLOR"
    shape = (-1, *values.shape[-3:]) if color else (-1, *values.shape[-2:], 1)
    facts = {"dtype": str(dtype), "bits": bits if dtype.kind != "f" else 0, "bounds": bounds}
    values = values.reshape(shape)
    return paged(values, facts | {"nodata": padding}, axes, [("F", len(values))])


def _scales(file: Any) -> list[tuple[float, float]]:
    """Return rescale slope and intercept: one for all frames, or one a frame; 1 and 0 if absent.

    Enhanced multi-frame files have them in functional groups, of all frames or of each.
    """
    shared = file.get("SharedFunctionalGroupsSequence") or [{}]
    frames = file.get("PerFrameFunctionalGroupsSequence") or [{}]
    found = []
    for frame in frames:
        groups = [g.get("PixelValueTransformationSequence") for g in (frame, shared[0])]
        source = next((group[0] for group in groups if group), file)
        slope, intercept = (float(source.get(f"Rescale{k}") or 0.0) for k in ("Slope", "Intercept"))
        found.append((slope, intercept) if slope else (1.0, 0.0))
    return found if len(set(found)) > 1 else found[:1]


def _scaled(
    values: Values,
    scales: list[tuple[float, float]],
    bounds: tuple[float, float] | None,
    padding: float | None,
) -> tuple[Values, tuple[float, float] | None, float | None]:
    """Apply slopes and intercepts to values, to their bounds and to the value without data."""
    if bounds is not None:
        ends = [slope * end + intercept for slope, intercept in scales for end in bounds]
        bounds = min(ends), max(ends)
    (slope, intercept), *others = scales
    if not others:
        padding = None if padding is None else slope * padding + intercept
        if slope == 1.0 and intercept.is_integer():
            return values.astype(np.int32) + int(intercept), bounds, padding
        return (
            values.astype(np.float32) * np.float32(slope) + np.float32(intercept),
            bounds,
            padding,
        )
    slopes, intercepts = np.array(scales, np.float32).T[..., None, None]
    scaled = values.astype(np.float32) * slopes + intercepts
    return np.where(values == padding, np.float32(np.nan), scaled), bounds, None
