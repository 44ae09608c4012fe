"""Pictures of samples in a page: data URIs, and one sprite for the thumbnails of the map."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, features
from torch import Tensor

from mezzotint.data.source import Source
from mezzotint.modality.modality import modality_of
from mezzotint.types import Unreadable

SPRITE_SIZE = 32
_TILE = 92
_FRAME_MS = 125
_LOSSLESS_UP_TO = 48  # pixels; a PNG of this size is small, and its single pixels matter
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """Image embedded in a page.

    Attributes:
        src: data URI of the image.
        width: width in pixels.
        height: height in pixels.
        alt: alternative text.
        sound: data URI of its sound; empty without one.
        points: base64 of the int8 coordinates x, y, z, x, … of a rotatable point cloud; empty
            without one.
    """

    src: str
    width: int
    height: int
    alt: str
    sound: str = ""
    points: str = ""


def picture(x: Tensor, alt: str, *, most: int = 128) -> Picture:
    """Make a picture of an image.

    Args:
        x: image `[C, H, W]`, uint8, or float in [0, 1] (clipped, NaN is black). One channel is
            gray, three are RGB; for other numbers the mean is shown, unless the modality chose
            three.
        alt: alternative text.
        most: largest side in pixels; larger images are scaled down.
    """
    image = Image.fromarray(_pixels(x))
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return _embedded(image, alt, lossless=max(image.size) <= _LOSSLESS_UP_TO)


def sprite(samples: Sequence[Tensor | None], alt: str) -> tuple[Picture, int]:
    """Arrange many images in one picture, row by row, each `SPRITE_SIZE` pixels square.

    Args:
        samples: images `[C, H, W]`, as for `picture`; `None` stays white.
        alt: alternative text.

    Returns:
        The picture, and the number of images per row.
    """
    columns = max(1, math.ceil(math.sqrt(len(samples))))
    rows = max(1, math.ceil(len(samples) / columns))
    sheet = Image.new("RGB", (columns * SPRITE_SIZE, rows * SPRITE_SIZE), "white")
    for index, x in enumerate(samples):
        if x is None:
            continue
        image = Image.fromarray(_pixels(x)).convert("RGB")
        image.thumbnail((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
        left, top = index % columns * SPRITE_SIZE, index // columns * SPRITE_SIZE
        sheet.paste(
            image,
            (left + (SPRITE_SIZE - image.width) // 2, top + (SPRITE_SIZE - image.height) // 2),
        )
    return _embedded(sheet, alt, lossless=False), columns


def portrait(x: Tensor, alt: str, source: Source) -> Picture:
    """Make a picture of a sample or view; videos move, audio plays, and point clouds rotate.

    Args:
        x: stored sample, or view before normalization.
        alt: alternative text.
        source: source of the sample.
    """
    modality = modality_of(source.input)
    frames = modality.frames(x)
    if frames is not None and features.check("webp"):
        return _clip(frames, alt)
    made = picture(modality.picture(x, source.input), alt)
    coordinates = modality.coordinates(x)
    points = (
        ""
        if coordinates is None
        else base64.b64encode(coordinates.numpy().tobytes()).decode("ascii")
    )
    return replace(made, sound=modality.sound(x, source), points=points)


def stored(source: Source, index: int) -> tuple[str, Tensor | None]:
    """Return the id of a sample and the sample, or `None` if it is unreadable."""
    try:
        sample = source.read(int(index))
    except Unreadable as error:
        return error.id, None
    return sample["id"], sample["x"]


def drawn(source: Source, index: int) -> tuple[str, Tensor | None]:
    """Return the id of a sample and its picture `[C, H, W]`, or `None` if it is unreadable."""
    name, x = stored(source, index)
    return name, None if x is None else modality_of(source.input).picture(x, source.input)


def drawable(source: Source) -> bool:
    """Return whether samples of this source have pictures."""
    return modality_of(source.input).has_picture


def credit(source: Source) -> str:
    """Return the attribution of the samples and what their pictures show, or an empty string."""
    note = modality_of(source.input).picture_note(source.input)
    return " ".join(text for text in (source.credit, note) if text)


def plate(samples: Sequence[Tensor], columns: int) -> Picture:
    """Draw samples as a mezzotint print: nearly black on the left, with more light to the right.

    Each dot is black or white: black where the image is darker than a random threshold (with a
    fixed seed).

    Args:
        samples: images `[C, H, W]`, as for `picture`.
        columns: number of samples per row.

    Returns:
        Black and white dots, which the page blends with its background.
    """
    tiles = []
    for x in samples[: len(samples) // columns * columns]:
        image = (
            Image.fromarray(_pixels(x))
            .convert("L")
            .resize((_TILE - 8, _TILE - 8), Image.Resampling.LANCZOS)
        )
        tiles.append(np.pad(np.asarray(image, np.float32) / 255.0, 4, constant_values=1.0))
    tone = np.concatenate(
        [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    )
    burnished = np.linspace(0.25, 1.0, tone.shape[1], dtype=np.float32)[None] ** 1.2
    ink = 1.0 - tone * burnished > np.random.default_rng(0).random(tone.shape, np.float32)
    return _embedded(Image.fromarray(~ink), "", lossless=True)


def _clip(x: Tensor, alt: str, *, most: int = 128) -> Picture:
    """Make a looping picture of frames `[T, C, H, W]` in [0, 1], eight of them a second."""
    frames = [Image.fromarray(_pixels(frame)).convert("RGB") for frame in x]
    for frame in frames:
        frame.thumbnail((most, most), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    frames[0].save(
        file,
        "webp",
        save_all=True,
        append_images=frames[1:],
        duration=_FRAME_MS,
        loop=0,
        quality=_QUALITY,
    )
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(f"data:image/webp;base64,{text}", *frames[0].size, alt)


def _pixels(x: Tensor) -> npt.NDArray[np.uint8]:
    """Convert `[C, H, W]` to `[H, W]` gray or `[H, W, 3]` color."""
    if x.is_floating_point():
        x = (x.nan_to_num(0.0).clamp(0.0, 1.0) * 255.0).round()
    if x.shape[0] not in (1, 3):
        x = x.to(torch.float32).mean(dim=0, keepdim=True)
    array = x.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
    pixels: npt.NDArray[np.uint8] = array[:, :, 0] if array.shape[2] == 1 else array
    return pixels


def _embedded(image: Image.Image, alt: str, *, lossless: bool) -> Picture:
    file = io.BytesIO()
    if lossless:
        kind = "png"
        image.save(file, "PNG", optimize=True)
    else:
        kind = "webp" if features.check("webp") else "jpeg"
        image.save(file, kind, quality=_QUALITY)
    text = base64.b64encode(file.getvalue()).decode("ascii")
    return Picture(f"data:image/{kind};base64,{text}", image.width, image.height, alt)
