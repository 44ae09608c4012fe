"""Files of 16 bits and of scanners, written by the test itself."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4),
    (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip


def png16(values: npt.NDArray[Any], *, filtered: bool = False, interlaced: bool = False) -> bytes:
    """Encode uint16 `[H, W, 1…4]` as PNG; `filtered` uses the five filters in turn."""
    height, width, channels = values.shape
    big = values.astype(">u2")
    parts = [big[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [big]
    raw = b"".join(_rows(part, filtered) for part in parts if part.size)
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, int(interlaced))
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(raw)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rows(part: npt.NDArray[Any], filtered: bool) -> bytes:
    """Filter the rows of a pass by the reference of the standard (PNG, section 9)."""
    size = 2 * part.shape[2]
    above = bytes(part.shape[1] * size)
    out = b""
    for number, row in enumerate(part):
        line, kind = row.tobytes(), number % 5 if filtered else 0
        out += bytes([kind])
        for i, value in enumerate(line):
            left = line[i - size] if i >= size else 0
            corner = above[i - size] if i >= size else 0
            near = min((left, above[i], corner), key=lambda p: abs(left + above[i] - corner - p))
            predicted = (0, left, above[i], (left + above[i]) // 2, near)[kind]
            out += bytes([(value - predicted) % 256])
        above = line
    return out


def write_dicom(
    path: Path,
    values: npt.NDArray[Any] | None,
    *,
    photometric: str = "MONOCHROME2",
    bits: int = 12,
    rescale: tuple[float, float] | None = None,
    padding: int | None = None,
    compressed: str = "",
    big_endian: bool = False,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Write a DICOM file of `[H, W]`, of frames `[F, H, W]`, or of color `[H, W, 3]`."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big_endian else ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = UID("1.2.3")
    file.Modality = "SR" if values is None else "CT"
    if values is not None:
        color = photometric == "RGB"
        file.Rows, file.Columns = values.shape[-3:-1] if color else values.shape[-2:]
        file.SamplesPerPixel = 3 if color else 1
        if color:
            file.PlanarConfiguration = 0
        file.PhotometricInterpretation = photometric
        file.BitsAllocated, file.BitsStored, file.HighBit = 8 * values.itemsize, bits, bits - 1
        file.PixelRepresentation = int(values.dtype.kind == "i")
        if values.ndim == 3 and not color:
            file.NumberOfFrames = len(values)
        if rescale is not None:
            file.RescaleSlope, file.RescaleIntercept = map(str, rescale)
        if padding is not None:
            file.add_new(0x00280120, "US", padding)
        for name, value in (tags or {}).items():
            setattr(file, name, value)
        file.PixelData = (values.byteswap() if big_endian else values).tobytes()
        file["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
        if compressed == "rle":
            file.compress(RLELossless)
        elif compressed:
            file.file_meta.TransferSyntaxUID = UID(compressed)
            file.PixelData = pydicom.encaps.encapsulate([b"abcd"])
            file["PixelData"].VR = "OB"
    file.save_as(path, enforce_file_format=True)
