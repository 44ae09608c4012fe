"""Time series: float32 `[C, T]`, such as the channels of a sensor."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

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


_BANDS = 16
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


def series_statistics(x: Tensor) -> Tensor:
    """Describe series `[B, C, T]` by summary statistics and by their spectrum: `[B, F]`.

    For each channel: mean, std, skewness, kurtosis, quartiles and extremes, size of the
    differences, fraction of steps at which it crosses its mean, and the square roots of the
    fractions of power in 16 bands; for each pair of channels their correlation.
    """
    mean = x.mean(dim=-1, keepdim=True)
    centered = x - mean
    std = centered.square().mean(dim=-1, keepdim=True).sqrt()
    scaled = centered / std.clamp(min=1e-6)
    difference = x.diff(dim=-1) if x.shape[-1] > 1 else torch.zeros_like(x)
    crossing = (scaled[..., 1:] * scaled[..., :-1] < 0).float().sum(dim=-1, keepdim=True)
    # Sorted, because `torch.quantile` refuses large batches.
    ranks = [round(q * (x.shape[-1] - 1)) for q in _QUANTILES]
    quantiles = x.sort(dim=-1).values[..., ranks]
    moments = [mean, std, *(scaled.pow(k).mean(dim=-1, keepdim=True) for k in (3, 4)), quantiles]
    moments += [difference.square().mean(dim=-1, keepdim=True).sqrt(), crossing / x.shape[-1]]
    summary = torch.cat(moments, dim=-1)
    # Kurtosis and extremes have long tails, which would fill every distance.
    summary = (summary.sign() * summary.abs().log1p()).flatten(1)
    blocks = [summary / math.sqrt(summary.shape[1]), _spectrum(centered).flatten(1)]
    channels = x.shape[1]
    if channels > 1:
        rows, columns = torch.triu_indices(channels, channels, 1)
        correlation = scaled @ scaled.transpose(1, 2) / x.shape[-1]
        blocks.append(correlation[:, rows, columns] / math.sqrt(len(rows)))
    return torch.cat(blocks, dim=1)


def _spectrum(centered: Tensor) -> Tensor:
    """Square roots of the fractions of power in bands of equal width, `[B, C, 16]`."""
    power = torch.fft.rfft(centered).abs().square()[..., 1:]
    if power.shape[-1] == 0:  # a single step
        return centered.new_zeros(*centered.shape[:2], _BANDS)
    bands = adaptive_avg_pool1d(power, _BANDS)
    total = bands.sum(dim=-1, keepdim=True)
    fraction = torch.where(total > 1e-12, bands / total.clamp(min=1e-12), 0.0)
    return fraction.sqrt() / math.sqrt(centered.shape[1])


class SeriesModality(Modality):
    """Windows of several channels over time."""

    plural = "time series"
    axes = ("channels", "time")
    handmade = "summary statistics, spectrum and correlations of the channels"
    recipe = "series/csv_simclr"
    large_recipe = "series/csv_simclr_large"
    sizes = ((), ("encoder.width=16",))
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

    def handmade_features(self, x: Tensor, input: "Input") -> Tensor:
        return series_statistics(x)

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
