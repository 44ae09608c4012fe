"""What is lost when an image becomes 8-bit RGB: bits, bands and pages, found without training.

Sources read a few files of a folder and say it before the first step; the doctor reads all files.
This module needs no torch.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mezzotint.data.image.decode import Undecodable, has_alpha, open_image

_SAMPLED = 64  # files that a source looks into
_DECODED = 8  # deep files that are decoded among them
DEEP = "16 bits a channel: the upper 8 are read (data.reader=native reads all)"
BANDS = "bands besides color and transparency, which are not read (data.reader=native reads them)"
PAGES = "several frames or pages: the first is read"


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
    """Return whether channels have 16 bits; Pillow tells it of color by the decoder alone."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
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
