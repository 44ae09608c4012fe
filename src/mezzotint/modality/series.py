"""Time series: float32 `[C, T]`, such as the channels of a sensor."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mezzotint.modality.modality import PICTURE_SIZE, Example, Modality
from mezzotint.modality.patches import GridPatches, Patches, PatchSize

if TYPE_CHECKING:
    from mezzotint.types import Input

_COLORS = (
    (31, 79, 122),
    (176, 64, 52),
    (46, 125, 80),
    (128, 84, 160),
    (176, 126, 30),
    (70, 70, 70),
)


class SeriesModality(Modality):
    """Windows of several channels over time."""

    plural = "time series"
    axes = ("channels", "time")
    recipe = "series/csv_simclr"
    sizes = ((), ("encoder.width=32",), ("encoder.width=16",))
    example = Example(
        data={"kind": "smartwatch"},
        encoder={"kind": "resnet1d", "width": 4},
        patches={"patch": 16},
        transforms=[
            {"kind": "series_jitter"},
            {"kind": "randomized_quantization", "bins": 4, "p": 0.5},
        ],
    )

    def patches(self, input: "Input", dim: int, size: PatchSize) -> Patches:
        return GridPatches(input.shape, size.sides((16,)), dim)

    def picture(self, x: Tensor, input: "Input") -> Tensor:
        """Draw one strip a channel, each over its own range: uint8 `[3, 96, 192]`."""
        values = x.detach().float().nan_to_num(0.0).cpu().numpy()
        width, scale = 2 * PICTURE_SIZE, 2  # drawn at twice the size, for smooth lines
        image = Image.new("RGB", (width * scale, PICTURE_SIZE * scale), "white")
        pen = ImageDraw.Draw(image)
        height = PICTURE_SIZE * scale / len(values)
        for number, channel in enumerate(values):
            low, high = float(channel.min()), float(channel.max())
            scaled = (channel - low) / max(high - low, 1e-6)
            across = np.linspace(0.0, width * scale - 1.0, len(channel))
            # A tenth of the strip is left above and below, so that neighbors do not touch.
            down = (number + 0.9 - 0.8 * scaled) * height
            line = list(zip(across.tolist(), down.tolist(), strict=True))
            pen.line(line, fill=_COLORS[number % len(_COLORS)], width=scale)
        pixels = np.asarray(image.resize((width, PICTURE_SIZE), Image.Resampling.LANCZOS))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
