"""A sample of any modality as a small picture: what stands for it on a map, among neighbors, and in a gallery.

Spectrograms are colored, low tones below; a cloud is seen from the front right and a little above,
near points dark; the channels of a series lie under one another; of a video four frames lie side by
side; bytes are printed as text, and other tokens as squares, a color for each; a picture's bytes
stand beside it.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mezzotint.data.image_text import unpack
from mezzotint.data.tokens.tokenizers import FIRST
from mezzotint.types import MASK, PADDING, Input

DRAWABLE = ("image", "audio", "points", "series", "video", "tokens", "image_text")
_SIDE = 96
_FRAMES = 4
_LINE, _LETTERS = 12, 31  # height of a line in pixels, and what fits into it
_YAW, _PITCH = math.radians(35.0), math.radians(20.0)
_INKS = ((31, 79, 122), (176, 64, 52), (46, 125, 80), (128, 84, 160), (176, 126, 30), (70, 70, 70))


def depict(x: Tensor, input: Input) -> Tensor:
    """A sample as an image.

    Args:
        x: one sample, as stored or as a view before normalization.
        input: says its modality.

    Returns:
        `[C, H, W]`: images as they are, everything else uint8 in color.

    Raises:
        ValueError: for a modality without pictures.
    """
    if input.modality == "image":
        return x
    if input.modality not in DRAWABLE:
        raise ValueError(
            f"got samples of modality {input.modality!r}; allowed: {', '.join(DRAWABLE)}"
        )
    if input.modality == "image_text":
        return _captioned(x.detach().float().cpu(), input)
    if input.modality == "tokens":
        picture = _text if input.vocabulary == 256 + FIRST else _squares
        return torch.from_numpy(np.ascontiguousarray(picture(x.tolist()).transpose(2, 0, 1)))
    if input.modality == "video":
        return _film(input.as_float(x.detach().cpu()))
    values = x.detach().float().nan_to_num(0.0).cpu().numpy()
    draw = {"audio": _spectrogram, "points": _cloud, "series": _strips}[input.modality]
    return torch.from_numpy(np.ascontiguousarray(draw(values).transpose(2, 0, 1)))


def _spectrogram(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """`[1, mels, frames]` → `[mels, frames, 3]`."""
    from matplotlib import colormaps

    low, high = np.percentile(values, [1.0, 99.5])
    shares = np.clip((values[0, ::-1] - low) / max(high - low, 1e-6), 0.0, 1.0)
    colors: npt.NDArray[np.uint8] = np.rint(colormaps["magma"](shares)[..., :3] * 255.0).astype(
        np.uint8
    )
    return colors


def _cloud(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """`[3, N]`, the second axis up → a square picture."""
    x, y, z = values - (values.max(axis=1, keepdims=True) + values.min(axis=1, keepdims=True)) / 2
    right, depth = math.cos(_YAW) * x + math.sin(_YAW) * z, math.cos(_YAW) * z - math.sin(_YAW) * x
    up, depth = (
        math.cos(_PITCH) * y - math.sin(_PITCH) * depth,
        math.cos(_PITCH) * depth + math.sin(_PITCH) * y,
    )
    reach = max(float(np.abs(np.stack([right, up])).max()), 1e-6)
    columns = np.rint((right / reach * 0.46 + 0.5) * (_SIDE - 1)).astype(int)
    rows = np.rint((0.5 - up / reach * 0.46) * (_SIDE - 1)).astype(int)
    order = np.argsort(depth)  # the near ones last, over the far ones
    nearness = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-6)
    sheet = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
    far, near = np.array([196.0, 205.0, 214.0]), np.array([24.0, 52.0, 84.0])
    sheet[rows[order], columns[order]] = np.rint(far + (near - far) * nearness[order, None]).astype(
        np.uint8
    )
    return sheet


def _strips(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """`[C, T]` → a picture with one strip a channel, each over its own range."""
    width, scale = 2 * _SIDE, 2
    image = Image.new("RGB", (width * scale, _SIDE * scale), "white")
    pen = ImageDraw.Draw(image)
    height = _SIDE * scale / len(values)
    for place, channel in enumerate(values):
        low, high = float(channel.min()), float(channel.max())
        share = (channel - low) / max(high - low, 1e-6)
        across = np.linspace(0.0, width * scale - 1.0, len(channel))
        down = (place + 0.9 - 0.8 * share) * height
        pen.line(
            list(zip(across.tolist(), down.tolist(), strict=True)),
            fill=_INKS[place % len(_INKS)],
            width=scale,
        )
    pixels: npt.NDArray[np.uint8] = np.asarray(
        image.resize((width, _SIDE), Image.Resampling.LANCZOS)
    )
    return pixels


def _film(values: Tensor) -> Tensor:
    """`[C, T, H, W]` in [0, 1] → four frames (or all, where there are fewer) side by side, uint8 `[3, H, 4 W + 3]`."""
    chosen = torch.linspace(0, values.shape[1] - 1, min(_FRAMES, values.shape[1])).round().long()
    frames = values[:, chosen].mul(255.0).round().clamp(0, 255).to(torch.uint8)
    frames = torch.nn.functional.pad(frames.expand(3, -1, -1, -1), (0, 1), value=255)
    return frames.permute(0, 2, 1, 3).flatten(2)[..., :-1].contiguous()


def _captioned(x: Tensor, input: Input) -> Tensor:
    """The picture, and beside it its text where the tokens are bytes."""
    image, tokens = unpack(x.unsqueeze(0), input.text)
    colors = image.mul(255.0).round().clamp(0, 255).to(torch.uint8)
    if input.vocabulary != 256 + FIRST:
        return colors[0]
    text = torch.from_numpy(_text(tokens[0].tolist()).copy()).permute(2, 0, 1)
    return torch.cat([torch.nn.functional.interpolate(colors, size=(_SIDE, _SIDE))[0], text], dim=2)


def _text(tokens: list[int]) -> npt.NDArray[np.uint8]:
    """Bytes as lines of text; hidden ones as a low line."""
    text = bytes(ord("_") if t == MASK else t - FIRST for t in tokens if t != PADDING).decode(
        "latin-1"
    )
    text = "".join(c if " " <= c <= "~" else " " for c in text)
    image = Image.new("RGB", (2 * _SIDE, _SIDE), "white")
    pen = ImageDraw.Draw(image)
    for line in range(_SIDE // _LINE):
        pen.text(
            (3, 2 + line * _LINE), text[line * _LETTERS : (line + 1) * _LETTERS], fill=(31, 41, 55)
        )
    return np.asarray(image)


def _squares(tokens: list[int]) -> npt.NDArray[np.uint8]:
    """Tokens row by row as squares; padding white, hidden ones black."""
    across = math.ceil(math.sqrt(len(tokens)))
    colors = np.full((across * across, 3), 255, np.uint8)
    for place, token in enumerate(tokens):
        if token == MASK:
            colors[place] = 0
        elif token != PADDING:
            colors[place] = [64 + (token * factor) % 160 for factor in (37, 91, 151)]
    side = max(1, _SIDE // across)
    return colors.reshape(across, across, 3).repeat(side, axis=0).repeat(side, axis=1)
