"""What is lost when an image becomes 8-bit RGB, and which bits and channels it has.

Sources read a few files of a folder and say it before the first step; the doctor reads all files.
This module needs no torch.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mezzotint.data.image.decode import Undecodable, has_alpha, open_image

if TYPE_CHECKING:
    from mezzotint.data.image.native import Native
    from mezzotint.types import Input

_SAMPLED = 64  # files that a source looks into
_DECODED = 8  # deep files that are decoded among them
DEEP = "16 bits a channel: the upper 8 are read (data.reader=native reads all)"
BANDS = "bands besides color and transparency, which are not read (data.reader=native reads them)"
PAGES = "several frames or pages: the first is read"


@dataclass(frozen=True)
class StoredHeader:
    """What the header of a file states; `channels` are those that are read."""

    path: str
    channels: int
    dtype: str
    bits: int
    bounds: tuple[float, float] | None
    names: tuple[str, ...]
    count: int

    @property
    def kind(self) -> tuple[int, str]:
        """What the files of a data set must share; signs may differ, as in a DICOM series."""
        return self.channels, type_kind(self.dtype)


def type_kind(dtype: str) -> str:
    """Name a type without its sign, and without the precision of floats."""
    return "float" if np.dtype(dtype).kind == "f" else dtype.removeprefix("u")


def difference(root: str, same: Sequence[StoredHeader], odd: Sequence[StoredHeader]) -> str:
    """Say in what files differ, and what to do."""
    channels = same[0].channels != odd[0].channels
    one, other = (
        f"{len(probes)} with {f'{p.channels} channels' if channels else p.dtype}, such as {p.path}"
        for probes in (same, odd)
        for p in probes[:1]
    )
    what = "as many channels" if channels else "values of one type"
    remedy = "choose some with data.reader.channels=[0]" if channels else "convert some of them"
    return (
        f"`{root}` must have images with {what}, got {one}, and {other}. "
        f"Separate them, or {remedy}."
    )


@dataclass(frozen=True)
class Loss:
    """What is lost of one image.

    Attributes:
        kinds: any of `DEEP`, `BANDS` and `PAGES`.
        bits: bits that the largest value of a deep image needs, at most 16; 0 for other images.
    """

    kinds: tuple[str, ...] = ()
    bits: int = 0


def loss_of(image: Image.Image, *, decode: bool = True) -> Loss:
    """Find what is lost of an opened image.

    Args:
        image: image from `open_image`.
        decode: whether to decode images of 16 bits, for their largest value.
    """
    kinds = []
    try:
        deep = _is_deep(image)
        if deep:
            kinds.append(DEEP)
        if _extra_bands(image):
            kinds.append(BANDS)
        if getattr(image, "n_frames", 1) > 1:
            kinds.append(PAGES)
    except Exception:  # decoders raise nearly any exception; `decode` names it
        return Loss((), 0)
    return Loss(tuple(kinds), _bits(image) if deep and decode else 0)


def _is_deep(image: Image.Image) -> bool:
    """Return whether channels have 16 bits; Pillow tells it of color by the decoder alone.

    Integers of 32 bits are read as 16, and refused beyond.
    """
    if image.mode.startswith("I"):
        return True
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode != "F"


def _extra_bands(image: Image.Image) -> bool:
    if image.format != "TIFF":
        return False
    samples = int(getattr(image, "tag_v2", {}).get(277, 1))
    colors = {"RGB": 3, "RGBA": 3, "RGBX": 3, "CMYK": 4, "YCbCr": 3, "LAB": 3}.get(image.mode, 1)
    alpha = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") and has_alpha(image)
    return samples > colors + alpha


def _bits(image: Image.Image) -> int:
    """Return how many of 16 bits the largest value needs; 0 for an image that cannot be read."""
    try:
        values = np.asarray(image)
    except Exception:  # decoders raise nearly any exception; `decode` names it
        return 0
    high = int(values.max()) if values.size else 0
    if values.dtype == np.uint8:  # Pillow keeps the upper 8 bits of colors
        return high.bit_length() + 8
    return high.bit_length()


def notes_on_losses(root: str, paths: Sequence[str], max_pixels: int) -> list[str]:
    """Say what is lost of images, from a few files spread evenly over all."""
    count = min(_SAMPLED, len(paths))
    chosen = [paths[i * len(paths) // count] for i in range(count)]
    found: list[Loss] = []
    for path in chosen:
        deep = sum(loss.bits > 0 for loss in found)
        try:
            with open_image(os.path.join(root, path), max_pixels) as image:
                found.append(loss_of(image, decode=deep < _DECODED))
        except (Undecodable, OSError):
            continue  # unreadable files are counted while training
    return lines_on(found, f"of {count:,} sampled images ")


def lines_on(losses: Iterable[Loss], start: str = "") -> list[str]:
    """Count what is lost, a clause for each kind."""
    losses = list(losses)
    kinds = Counter(kind for loss in losses for kind in loss.kinds)
    lines = [f"{start}{count:,} have {kind}" for kind, count in kinds.items()]
    bits = [loss.bits for loss in losses if loss.bits]
    if bits and max(bits) < 15:
        lines.append(
            f"value range: images of 16 bits use at most {max(bits)} of them, and become dark; "
            f"multiply their values by {2 ** (16 - max(bits))}, or set data.reader=native and "
            "data.reader.range=percentiles"
        )
    return lines


@dataclass
class _Channel:
    """Values of one channel of all images."""

    low: float = float("inf")
    high: float = float("-inf")
    ones: int = 0  # bits that are set in any value, counted from the least value of the type
    clipped: int = 0
    empty: int = 0
    count: int = 0
    content: Any = field(default_factory=lambda: hashlib.blake2b(digest_size=16))

    def add(
        self,
        values: npt.NDArray[Any],
        ends: tuple[float, float],
        bounds: tuple[float, float] | None,
        nodata: float | None,
    ) -> None:
        """Count the values of one image."""
        known = np.isfinite(values) if nodata is None else np.isfinite(values) & (values != nodata)
        self.content.update(np.ascontiguousarray(values).tobytes())
        self.count += values.size
        self.empty += int(values.size - np.count_nonzero(known))
        values = values[known]
        if not values.size:
            return
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.clipped += int(np.count_nonzero((values < ends[0]) | (values > ends[1])))
        if values.dtype.kind in "iu" and bounds is not None:
            self.ones |= int(np.bitwise_or.reduce(values.astype(np.int64) - int(bounds[0])))


def examine_channels(
    reader: "Native", input: "Input", root: str, ids: Sequence[str], max_pixels: int
) -> tuple[list[str], list[str]]:
    """Describe each channel of native images, and say what is wrong with them.

    Args:
        reader: that reads them.
        input: their range, bits and names.
        root: folder of the images.
        ids: of the images; those that cannot be read are left out.
        max_pixels: most pixels that an image may have.
    """
    channels = [_Channel() for _ in input.range]
    for id in ids:
        path, number = reader.split(id)
        try:
            with reader.open(os.path.join(root, path), max_pixels) as stored:
                values = stored.read(number, (0, 0, stored.size("H"), stored.size("W")))
                values = reader.picked(values)
                bounds, nodata = stored.bounds, stored.nodata
        except Undecodable:
            continue
        if values.shape[2] == len(channels):
            for index, channel in enumerate(channels):
                channel.add(values[..., index], input.range[index], bounds, nodata)
    names = [
        input.channels[index] if input.channels else f"channel {index}"
        for index in range(len(channels))
    ]
    lines = [_line(name, c, input.bits) for name, c in zip(names, channels, strict=True)]
    return lines, _problems(names, channels, input)


def _line(name: str, channel: _Channel, bits: int) -> str:
    """Describe the values of a channel."""
    if channel.low > channel.high:
        return f"{name}: no data"
    text = f"{name}: {channel.low:,g} … {channel.high:,g}"
    if bits and channel.ones:
        text += f", {channel.ones.bit_length()} of {bits} bits used"
        zeros = (channel.ones & -channel.ones).bit_length() - 1
        text += f", the lowest {zeros} are always 0" if zeros else ""
    for count, what in ((channel.clipped, "outside of the range"), (channel.empty, "without data")):
        text += f", {count / channel.count:.2%} {what}" if count else ""
    return text


def _problems(names: Sequence[str], channels: Sequence[_Channel], input: "Input") -> list[str]:
    """Name channels that are constant, equal, or far from filling their range."""
    found = [
        f"{name} has one value in all images"
        for name, channel in zip(names, channels, strict=True)
        if channel.low == channel.high
    ]
    same: dict[bytes, list[str]] = defaultdict(list)
    for name, channel in zip(names, channels, strict=True):
        same[channel.content.digest()].append(name)
    found += [f"{' and '.join(equal)} are the same" for equal in same.values() if len(equal) > 1]
    for name, channel, (low, high) in zip(names, channels, input.range, strict=True):
        if low < channel.high <= low + (high - low) / 4 and channel.high > channel.low:
            found.append(
                f"value range: {name} reaches {channel.high:,g} of {high:,g}, and becomes dark; "
                "set data.reader.range=percentiles"
            )
    return found
