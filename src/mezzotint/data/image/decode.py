"""Decode any image file to 8-bit RGB pixels, with one documented conversion.

- Grayscale, palette, CMYK and YCbCr become RGB; anything with transparency is composited on white.
  A fourth band of a TIFF is transparency only if the file says so; else it is left out.
- 16-bit values keep their upper 8 bits; float values must lie in [0, 1]; 32-bit integers must fit
  into 16 bits.
- In a TIFF whose 0 is white, values are inverted.
- EXIF orientation is applied; a broken EXIF block is ignored. Animations give their first frame.
- The number of pixels is read from the header and checked before anything is decoded.
- A truncated file is an error. Pillow can fill the missing half with gray; this code never does.
- `deep_png` and `deep_ppm` keep all 16 bits of color, for the native reader.
- Only the formats in `FORMATS` are tried. Pillow also opens PostScript, by running a program; this
  code never does.

This module needs no torch, so that `mezzotint doctor` and its worker processes start at once.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import ceil
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mezzotint.timing import part

FORMATS = (
    "JPEG",
    "MPO",
    "PNG",
    "GIF",
    "BMP",
    "DIB",
    "WEBP",
    "TIFF",
    "PPM",
    "JPEG2000",
    "AVIF",
    "HEIF",
)
MAX_PIXELS = 50_000_000

Fault = Literal[
    "missing", "empty", "not an image", "too large", "truncated", "unsupported", "broken"
]
Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
Interpolation = Literal["bilinear", "bicubic"]

_JPEG = ("JPEG", "MPO")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_ORIENTATION = 0x0112
_EXTRA_SAMPLES, _PHOTOMETRIC = 338, 262
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""Of each pass of an interlaced PNG: first column and row, and the steps (PNG, section 8.2)."""
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRAIGHT = {"La": "LA", "RGBa": "RGBA"}  # premultiplied alpha is converted to these first


class Undecodable(Exception):
    """A file that cannot be decoded to an image.

    Attributes:
        fault: kind of the failure; log and report count them by kind.
        detail: the exact finding.
    """

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(fault, detail)
        self.fault, self.detail = fault, detail

    def __str__(self) -> str:
        return f"{self.fault}: {self.detail}"


def open_image(file: str | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open a file and read its header only. Close it, or use it in a `with`.

    Args:
        file: path of the file, or its content.
        max_pixels: most pixels that the header may state.

    Raises:
        Undecodable: when the file is missing, is not of a known format, or states too many pixels.
    """
    with faults(file):
        opened = io.BytesIO(file) if isinstance(file, bytes) else file
        image = Image.open(opened, formats=_formats())
        if image.format == "TIFF":
            # Without a name Pillow does not map the file, which scrambles what is to be turned.
            image.filename = ""
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise Undecodable(
            "too large", f"{width} x {height} pixels, more than max_pixels={max_pixels}"
        )
    return image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width after EXIF rotation. Files other than JPEG are decoded for it.

    Raises:
        Undecodable: see `decode`.
    """
    with faults(image), part("decode"):
        _load_unless_jpeg(image)
    width, height = image.size
    return (width, height) if _orientation(image) >= 5 else (height, width)


def is_plain_jpeg(image: Image.Image) -> bool:
    """Return whether an opened image is an RGB JPEG without EXIF rotation."""
    return image.format == "JPEG" and image.mode == "RGB" and _orientation(image) == 1


def decode(image: Image.Image) -> Image.Image:
    """Decode all pixels of an opened image, upright, in mode `RGB`.

    Raises:
        Undecodable: when the pixels cannot be read or have no defined conversion.
    """
    with faults(image):
        return upright(image, _to_rgb)


def upright(
    image: Image.Image, convert: Callable[[Image.Image], Image.Image] = lambda image: image
) -> Image.Image:
    """Decode all pixels of an opened image, convert them, and turn them as EXIF says."""
    _load_unless_jpeg(image)
    turn = _TURN.get(_orientation(image))
    image.load()
    converted = convert(_black_at_0(image))
    return converted if turn is None else converted.transpose(turn)


def decode_crops(
    image: Image.Image, crops: Sequence[tuple[Box, int, Interpolation]], margin: float = 1.0
) -> list[Pixels]:
    """Cut crops out of an opened image and resize each to a square, antialiased.

    A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size in a fraction of the time. This is used if
    the smaller image still has `margin` times the pixels that the most demanding crop needs. Such
    crops are a little sharper than crops of the full-size image. In 1,196 crops of two photographs,
    resized to 96 pixels, the mean difference was 1.0 of 255 on average and 4.6 at worst (bicubic:
    1.2 and 5.6) with a margin of 1, and 0.1 and 0.9 (bicubic: 0.1 and 1.0) with a margin of 2.

    Args:
        image: image from `open_image`.
        crops: for each crop its box (top, left, height and width in the upright image), its output
            size, and the filter of the resize.
        margin: safety factor for decoding at a smaller size, at least 1.

    Returns:
        uint8 `[size, size, 3]` for each crop.

    Raises:
        Undecodable: see `decode`.
    """
    shrink = min((min(box[2:]) / size for box, size, _ in crops), default=1.0)
    scale = _decode_smaller(image, shrink / margin) if image.format in _JPEG else 1
    with part("decode"):
        rgb = decode(image)
    found = []
    for (top, left, height, width), size, interpolation in crops:
        right, bottom = (
            min((left + width) / scale, rgb.width),
            min((top + height) / scale, rgb.height),
        )
        # Crop before resizing: with `box` alone, the filter would reach pixels beyond the crop.
        x, y = left // scale, top // scale
        with part("crop"):
            piece = rgb.crop((x, y, ceil(right), ceil(bottom)))
            box = (left / scale - x, top / scale - y, right - x, bottom - y)
            resized = piece.resize((size, size), _FILTERS[interpolation], box=box)
            found.append(np.array(resized))
    return found


def _decode_smaller(image: Image.Image, shrink: float) -> int:
    """Set up the JPEG decoder for the smallest scale 1/2, 1/4 or 1/8 above `1 / shrink`."""
    scale = next((s for s in (8, 4, 2) if s <= shrink), 1)
    width, height = image.size
    # In a rotated image, rows and columns that do not fill a block would come first, not last.
    whole = _orientation(image) == 1 or width % scale == height % scale == 0
    if scale == 1 or not whole:
        return 1
    done: Any = image.draft(image.mode, (width // scale, height // scale))
    return 1 if done is None else round(width / done[1][2])


def _load_unless_jpeg(image: Image.Image) -> None:
    """Decode before the EXIF block is read, except for JPEG.

    In other formats it may follow the pixels; Pillow would then decode them, and may fail, inside
    `getexif`.
    """
    if image.format not in _JPEG:
        image.load()


@contextmanager
def faults(source: str | bytes | Image.Image) -> Iterator[None]:
    """Turn every exception of a decoder into `Undecodable` with its kind."""
    try:
        yield
    except (Undecodable, MemoryError):
        raise
    except FileNotFoundError:
        raise Undecodable("missing", "the file is gone") from None
    except UnidentifiedImageError:
        empty = source == b"" or (isinstance(source, str) and os.path.getsize(source) == 0)
        fault: Fault = "empty" if empty else "not an image"
        raise Undecodable(fault, "0 bytes" if empty else "no known image format") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Undecodable("too large", _one_line(error)) from None
    except Exception as error:
        text = _one_line(error)
        cut = any(
            word in text.lower()
            for word in ("truncated", "unexpected end", "not enough image data")
        )
        raise Undecodable("truncated" if cut else "broken", text) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that this build of Pillow reads."""
    Image.init()
    try:
        # Optional: photographs of phones.
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if mode == "RGBA" and not has_alpha(image):
        return Image.merge("RGB", image.split()[:3])
    if mode in ("RGBA", "LA", "PA", *_STRAIGHT) or "transparency" in image.info:
        picture = (image.convert(_STRAIGHT[mode]) if mode in _STRAIGHT else image).convert("RGBA")
        canvas = Image.new("RGBA", picture.size, "white")
        canvas.alpha_composite(picture)
        return canvas.convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _black_at_0(image: Image.Image) -> Image.Image:
    """Invert a 16-bit TIFF whose 0 is white, which Pillow does for 1 and 8 bits only."""
    if image.format != "TIFF" or not image.mode.startswith("I;16"):
        return image
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) != 0:
        return image
    return Image.fromarray(65535 - np.asarray(image).astype(np.uint16))


def has_alpha(image: Image.Image) -> bool:
    """Return whether a fourth band is transparency: in a TIFF only if the file says so.

    Pillow takes any fourth band of a TIFF for it, such as the near infrared of aerial images. Tag
    338 names alpha by 1 or 2 (TIFF 6.0, "ExtraSamples").
    """
    if image.format != "TIFF":
        return True
    extra = getattr(image, "tag_v2", {}).get(_EXTRA_SAMPLES, ())
    return bool({1, 2} & set(extra if isinstance(extra, tuple) else (extra,)))


def _eight_bits(values: npt.NDArray[Any]) -> Pixels:
    """Convert 16-bit, 32-bit or float values to 8 bits."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0.0 and high <= 1.0):  # false for NaN, too
            raise Undecodable(
                "unsupported", f"float pixels from {low:g} to {high:g}, outside of [0, 1]"
            )
        return np.rint(values * 255.0).astype(np.uint8)
    if low < 0 or high > 65535:
        raise Undecodable("unsupported", f"integer pixels from {low} to {high}, more than 16 bits")
    return (values >> 8).astype(np.uint8)


def even_fractions(count: int) -> list[float]:
    """Return `count` positions spread evenly from 0 to 1; a single one is at 0.5."""
    return [0.5] if count == 1 else [number / (count - 1) for number in range(count)]


def deep_ppm(data: bytes) -> tuple[npt.NDArray[np.uint16], int] | None:
    """Decode a binary PGM or PPM of more than 8 bits, as stored; `None` for other files.

    Returns:
        The values `[H, W, 1 or 3]`, and the value of white that the header states.
    """
    header = re.match(
        rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s", data
    )
    if header is None or int(header[4]) < 256:
        return None
    width, height, bands = int(header[2]), int(header[3]), 3 if header[1] == b"6" else 1
    count = width * height * bands
    if len(data) - header.end() < 2 * count:
        raise Undecodable("truncated", "not enough image data")
    values = np.frombuffer(data, ">u2", count, header.end())
    return values.astype(np.uint16).reshape(height, width, bands), int(header[4])


def deep_png(data: bytes) -> npt.NDArray[np.uint16] | None:
    """Decode a PNG of 16-bit color or gray with transparency; `None` for other files.

    The filters of a PNG predict each byte from the same byte of neighboring pixels. So the upper
    bytes of all values are an 8-bit image of their own, and so are the lower ones: Pillow decodes
    both.

    Raises:
        Undecodable: when it is truncated or damaged.
    """
    width, height, depth, color, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    mode = {2: "RGB", 4: "LA", 6: "RGBA"}.get(color)
    if depth != 16 or mode is None:
        return None
    bands = len(mode)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    rows = [(w, h) for w, h in sizes if w > 0 and h > 0]
    total = sum(h * (1 + 2 * bands * w) for w, h in rows)
    raw = zlib.decompressobj().decompress(b"".join(_png_chunks(data)), total)
    if len(raw) < total:
        raise Undecodable("truncated", "not enough image data")
    halves: tuple[list[bytes], list[bytes]] = ([], [])
    start = 0
    for w, h in rows:
        length = 1 + 2 * bands * w
        block = np.frombuffer(raw, np.uint8, h * length, start).reshape(h, length)
        start += h * length
        for half, found in enumerate(halves):
            found.append(np.concatenate([block[:, :1], block[:, 1 + half :: 2]], axis=1).tobytes())
    values = np.empty((height, width, bands), "<u2")
    for half, found in zip((1, 0), halves, strict=True):
        stored = zlib.compress(b"".join(found), 0)
        image = Image.frombytes(mode, (width, height), stored, "zip", mode, int(interlaced))
        values.view(np.uint8).reshape(height, width, bands, 2)[..., half] = np.asarray(image)
    return values.astype(np.uint16, copy=False)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the compressed data of a PNG, each part checked by its sum."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        body = data[at + 4 : at + 8 + length]
        end = at + 12 + length
        if end > len(data):
            raise Undecodable("truncated", "the file ends inside of its pixels")
        if body[:4] == b"IDAT":
            if zlib.crc32(body) != struct.unpack(">I", data[end - 4 : end])[0]:
                raise Undecodable("broken", "a checksum of its pixels is wrong")
            yield body[4:]
        at = end
