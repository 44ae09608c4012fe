"""Samples as pictures inside the page: data URIs, and one sprite for the many thumbnails of the map."""

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
_LOSSLESS_UP_TO = (
    48  # pixels; below this a PNG is small, and the pixels themselves are what one wants to see
)
_QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """An image that the page embeds.

    Attributes:
        src: data URI.
        width: in pixels.
        height: in pixels.
        alt: what it shows, in words.
        sound: data URI of what it sounds like; empty where it does not.
        cloud: base64 of int8 coordinates x, y, z, x, … of a point cloud, to turn it around; empty
            elsewhere.
    """

    src: str
    width: int
    height: int
    alt: str
    sound: str = ""
    cloud: str = ""


def picture(x: Tensor, alt: str, *, most: int = 128) -> Picture:
    """One sample as a picture.

    Args:
        x: `[C, H, W]`, uint8, or float in [0, 1] (values outside are clipped, NaN is black). One
            channel is gray, three are red, green and blue; of any other number the mean is shown.
        alt: what it shows.
        most: sides longer than so many pixels are scaled down to it.
    """
    image = Image.fromarray(_pixels(x))
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return _embedded(image, alt, lossless=max(image.size) <= _LOSSLESS_UP_TO)


def sprite(samples: Sequence[Tensor | None], alt: str) -> tuple[Picture, int]:
    """Many samples in one picture, row by row, each `SPRITE_SIZE` pixels square.

    Args:
        samples: `[C, H, W]` each, as for `picture`; `None` leaves its place white.
        alt: what they are.

    Returns:
        The picture, and how many samples stand in a row.
    """
    columns = max(1, math.ceil(math.sqrt(len(samples))))
    rows = max(1, math.ceil(len(samples) / columns))
    sheet = Image.new("RGB", (columns * SPRITE_SIZE, rows * SPRITE_SIZE), "white")
    for place, x in enumerate(samples):
        if x is None:
            continue
        image = Image.fromarray(_pixels(x)).convert("RGB")
        image.thumbnail((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
        left, top = place % columns * SPRITE_SIZE, place // columns * SPRITE_SIZE
        sheet.paste(
            image,
            (left + (SPRITE_SIZE - image.width) // 2, top + (SPRITE_SIZE - image.height) // 2),
        )
    return _embedded(sheet, alt, lossless=False), columns


def portrait(x: Tensor, alt: str, source: Source) -> Picture:
    """One sample, or a view of one, as a picture that can be heard or turned, or that moves, where its modality does.

    Args:
        x: as stored, or as a view before normalization.
        alt: what it shows.
        source: says the modality, and how a spectrogram was made.
    """
    modality = modality_of(source.input)
    frames = modality.frames(x)
    if frames is not None and features.check("webp"):
        return _clip(frames, alt)
    made = picture(modality.picture(x, source.input), alt)
    points = modality.coordinates(x)
    cloud = "" if points is None else base64.b64encode(points.numpy().tobytes()).decode("ascii")
    return replace(made, sound=modality.sound(x, source), cloud=cloud)


def stored(source: Source, index: int) -> tuple[str, Tensor | None]:
    """One sample's id and the sample; `None` when its file cannot be read any more."""
    try:
        sample = source.read(int(index))
    except Unreadable as error:
        return error.id, None
    return sample["id"], sample["x"]


def drawn(source: Source, index: int) -> tuple[str, Tensor | None]:
    """One sample's id and the sample as an image `[C, H, W]`; `None` when its file cannot be read any more."""
    name, x = stored(source, index)
    return name, None if x is None else modality_of(source.input).picture(x, source.input)


def drawable(source: Source) -> bool:
    """Whether samples of this source can be shown as pictures."""
    return modality_of(source.input).has_picture


def credit(source: Source) -> str:
    """Whose work the samples are; empty where the source does not say."""
    return source.credit


def plate(samples: Sequence[Tensor], columns: int) -> Picture:
    """Samples as a mezzotint: on the left the roughened plate, which prints black; smoothed into tones to the right.

    Each dot is ink or nothing: ink where the tone is darker than a random threshold, from a fixed
    key.

    Args:
        samples: `[C, H, W]` each, as for `picture`.
        columns: how many stand in a row.

    Returns:
        Black and white dots; the page blends the white ones with its paper, or the black ones with
        its night.
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
    """`[C, H, W]` → `[H, W]` gray or `[H, W, 3]` color."""
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
